package local

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/cases/casetext"
	"github.com/contraband-dev/contraband/internal/deadletter"
	"github.com/contraband-dev/contraband/internal/expected"
	"github.com/contraband-dev/contraband/internal/respond"
)

// Client talks to a running Machine over loopback.
type Client struct {
	URL   string `json:"url"`
	Token string `json:"token"`
	// Remote is true for a deployed casebook, which serves cases only.
	Remote bool `json:"-"`
}

// ErrNotRunning is returned if no `contraband up` was found.
var ErrNotRunning = errors.New("no `contraband up` is running here")

// ErrUnreachable is returned if a deployed casebook cannot be reached.
var ErrUnreachable = errors.New("the casebook cannot be reached")

// ErrRefused is returned if the service refuses what was asked for; the error has the reason.
var ErrRefused = errors.New("refused")

// ErrNotFound is returned if the requested object does not exist, or does not exist yet.
var ErrNotFound = errors.New("not found")

const rootsFile = "/run/contraband/up.json"

// RuntimeFile returns the path at which a running Machine announces itself:
// $CONTRABAND_RUNTIME, else a file that only this user can read.
func RuntimeFile() string {
	if f := os.Getenv("CONTRABAND_RUNTIME"); f != "" {
		return f
	}
	if os.Geteuid() == 0 {
		return rootsFile
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		return filepath.Join(dir, "contraband", "up.json")
	}
	return filepath.Join(os.TempDir(), fmt.Sprintf("contraband-%d", os.Getuid()), "up.json")
}

// Find returns a client of the Machine that announced itself in a file.
func Find(file string) (Client, error) {
	body, err := os.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrPermission), errors.Is(err, fs.ErrNotExist) && mayBeRoots(file):
		return Client{}, fmt.Errorf("%w that you can access (one may be running as root: try sudo)", ErrNotRunning)
	case errors.Is(err, fs.ErrNotExist):
		return Client{}, ErrNotRunning
	case err != nil:
		return Client{}, fmt.Errorf("find `contraband up`: %w", err)
	}
	var c Client
	if err := json.Unmarshal(body, &c); err != nil {
		return Client{}, fmt.Errorf("read %q: %w", file, err)
	}
	return c, nil
}

// mayBeRoots reports whether a Machine of root may be running that this user cannot access.
func mayBeRoots(file string) bool {
	_, err := os.Stat(rootsFile)
	return file != rootsFile && os.Getenv("CONTRABAND_RUNTIME") == "" && !errors.Is(err, fs.ErrNotExist)
}

// Key returns the address at which a browser opens the pages.
func (c Client) Key() string { return c.URL + "/?key=" + c.Token }

func (c Client) do(ctx context.Context, method, path string, body []byte, out any) error {
	req, err := http.NewRequestWithContext(ctx, method, c.URL+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+c.Token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		if c.Remote {
			return fmt.Errorf("%w: query casebook %q: %w", ErrUnreachable, c.URL, err)
		}
		return fmt.Errorf("%w (%v)", ErrNotRunning, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotFound {
		return ErrNotFound
	}
	if resp.StatusCode/100 != 2 {
		why, _ := io.ReadAll(io.LimitReader(resp.Body, 1024))
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, strings.TrimSpace(string(why)))
	}
	return json.NewDecoder(resp.Body).Decode(out)
}

// Publish publishes a notification to the findings topic and returns its message ID.
func (c Client) Publish(ctx context.Context, body []byte) (id string, err error) {
	var out struct{ ID string }
	err = c.do(ctx, http.MethodPost, "/v1/publish", body, &out)
	return out.ID, err
}

// Outcome waits up to 30 seconds for the outcome of a message.
func (c Client) Outcome(ctx context.Context, id string) (out []respond.Result, err error) {
	return out, c.do(ctx, http.MethodGet, "/v1/outcomes/"+id, nil, &out)
}

// Status returns the status of the pipeline.
func (c Client) Status(ctx context.Context) (out Status, err error) {
	return out, c.do(ctx, http.MethodGet, "/v1/status", nil, &out)
}

// DeadLetters returns the messages that were given up on, the oldest first.
func (c Client) DeadLetters(ctx context.Context) (out []deadletter.Letter, err error) {
	return out, c.do(ctx, http.MethodGet, "/v1/deadletters", nil, &out)
}

// ReplayDeadLetter publishes one of them again.
func (c Client) ReplayDeadLetter(ctx context.Context, id string) error {
	return c.do(ctx, http.MethodPost, "/v1/deadletters/"+url.PathEscape(id)+"/replay", nil, new(struct{}))
}

// Cases returns all cases, newest first.
func (c Client) Cases(ctx context.Context) (out []cases.Case, err error) {
	return out, c.do(ctx, http.MethodGet, "/api/cases", nil, &out)
}

// Exception is one that a person has declared.
type Exception struct {
	expected.Exception
	Scope string `json:"scope"`
	State string `json:"state"`
	Cases int    `json:"cases"`
	Draft string `json:"draft"`
}

// Exceptions returns those that people have declared, the newest first.
func (c Client) Exceptions(ctx context.Context) (out []Exception, err error) {
	return out, c.do(ctx, http.MethodGet, "/api/exceptions", nil, &out)
}

// Revoke ends an exception.
func (c Client) Revoke(ctx context.Context, id string) error {
	return c.do(ctx, http.MethodPost, "/api/exceptions/"+url.PathEscape(id)+"/revoke", nil, new(struct{}))
}

// CaseView is one case with its timeline.
type CaseView struct {
	Case     cases.Case               `json:"case"`
	Timeline []casetext.TimelineEntry `json:"timeline"`
	Raw      json.RawMessage          `json:"-"`
}

// Case returns one case.
func (c Client) Case(ctx context.Context, id string) (out CaseView, err error) {
	if err := c.do(ctx, http.MethodGet, "/api/cases/"+id, nil, &out.Raw); err != nil {
		return out, err
	}
	return out, json.Unmarshal(out.Raw, &out)
}
