// Package front owns the functions that bring cases on: a press in Slack, and the clock. They know cases
// and nothing of clusters or of SCC, and so their program is small:
//
//	Interact  HTTP, Slack's  -> a click on record, and the case goes on
//	Sweep     HTTP           -> cases whose time has come
package front

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"

	"golang.org/x/oauth2/google"

	"github.com/contraband-dev/contraband/functions/serve"
	"github.com/contraband-dev/contraband/internal/blobstore"
	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/cases/caselog"
	"github.com/contraband-dev/contraband/internal/incidents"
)

// Config is read from the environment.
type Config struct {
	// Store is where cases are kept: gs://BUCKET; dir:///PATH on one machine. Of two,
	// with a comma between them, the second has what is removed once it has served, and
	// the first may forbid that anything is. Required, but by Raise.
	Store string `env:"CONTRABAND_STORE"`
	// SlackSigningSecret verifies what people press in Slack; Interact needs it.
	SlackSigningSecret string `env:"SLACK_SIGNING_SECRET"`
	// Approvers may press: ids of Slack users, and e-mail addresses for the casebook.
	// Empty: whoever can see the channel or the casebook.
	Approvers []string `env:"CONTRABAND_APPROVERS"`
	// AdvanceURL is where Advance is reached.
	AdvanceURL string `env:"CONTRABAND_ADVANCE_URL"`
}

// Parts replace what only Google's cloud has, on one machine and in tests.
// The zero value is the cloud.
type Parts struct {
	Store     blobstore.Store // nil: opened from Config.Store
	Alive     func(holder string) bool
	HTTP      *http.Client // calls the other functions; nil: with an identity token
	Callbacks *http.Client // calls callbacks; nil: with an access token
}

// Front is the functions of one deployment.
type Front struct {
	// Log has the cases.
	Log    *caselog.Store
	Config Config
	Parts  Parts
}

// New wires what the function that is served needs, and refuses what is missing.
func New(ctx context.Context, cfg Config, parts Parts) (f *Front, err error) {
	if parts.Store == nil {
		if cfg.Store == "" {
			return nil, errors.New("CONTRABAND_STORE is required: cases are kept there")
		}
		if parts.Store, err = blobstore.Open(ctx, cfg.Store); err != nil {
			return nil, err
		}
	}
	f = &Front{Config: cfg, Parts: parts, Log: &caselog.Store{Objects: parts.Store, Lease: cases.Lease, Alive: parts.Alive, Snapshot: incidents.SnapshotAny}}
	return f, nil
}

// Register registers the functions with the framework; which of them is served,
// FUNCTION_TARGET says.
func Register() {
	p := serve.NewProgram(func(ctx context.Context, c Config) (*Front, error) { return New(ctx, c, Parts{}) })
	p.Web("Interact", (*Front).Interact)
	p.Web("Sweep", (*Front).Sweep)
}

// Close ends connections.
func (f *Front) Close() error { return f.Parts.Store.Close() }

// MayPress tells whether somebody is among those who may; id is a Slack user's or an
// e-mail address.
func (f *Front) IsApprover(id string) bool {
	return len(f.Config.Approvers) == 0 || slices.Contains(f.Config.Approvers, id)
}

// AfterClick has a case go on: by resuming the workflow that waits for it, else by
// calling Advance. Whatever fails, the click has a wake.
func (f *Front) AfterClick(ctx context.Context, caseID string) {
	err := f.resume(ctx, caseID)
	if err == nil {
		return
	}
	if !errors.Is(err, errNoCallback) {
		slog.Warn("the workflow could not be resumed", "case", caseID, "error", err.Error())
	}
	if err := f.callAdvance(ctx, caseID); err != nil {
		slog.Warn("the click is on record; the case will go on with the next sweep", "case", caseID, "error", err.Error())
	}
}

func (f *Front) callAdvance(ctx context.Context, caseID string) error {
	return serve.Call(ctx, f.Parts.HTTP, "Advance", f.Config.AdvanceURL, serve.AdvanceRequest{Case: caseID}, nil)
}

var errNoCallback = errors.New("no workflow waits for the case")

// resume wakes the workflow that waits for a case.
func (f *Front) resume(ctx context.Context, caseID string) error {
	url, err := f.Log.Callback(ctx, caseID)
	if err != nil {
		return err
	}
	if url == "" {
		return errNoCallback
	}
	client := f.Parts.Callbacks
	if client == nil {
		if client, err = google.DefaultClient(ctx, "https://www.googleapis.com/auth/cloud-platform"); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader("{}"))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<16)); err != nil {
		return err
	}
	switch {
	case resp.StatusCode/100 == 2, resp.StatusCode == http.StatusTooManyRequests: // one is waiting to be read already
		return nil
	default:
		return fmt.Errorf("resume the workflow: %s", resp.Status)
	}
}
