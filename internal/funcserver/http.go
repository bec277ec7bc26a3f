package funcserver

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"

	"google.golang.org/api/idtoken"

	"github.com/contraband-dev/contraband/internal/retry"
)

// AdvanceRequest is the body of a request to Advance: a case, and the execution and
// callback of the workflow that waits for it, if any. It carries no decision.
type AdvanceRequest struct {
	Case      string `json:"case"`
	Execution string `json:"execution,omitempty"`
	Callback  string `json:"callback,omitempty"`
}

// ContainRequest is the body of a request to Contain: the event of a case that claims an
// action. Everything else is read from the case.
type ContainRequest struct {
	Case  string `json:"case"`
	Event int    `json:"event"`
}

// Read decodes the body of a request into v. It reports whether that succeeded; if not,
// it has replied with the reason.
func Read(w http.ResponseWriter, r *http.Request, v any) bool {
	if r.Method != http.MethodPost {
		http.Error(w, "POST only", http.StatusMethodNotAllowed)
		return false
	}
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4<<10))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		http.Error(w, "invalid request body: "+err.Error(), http.StatusBadRequest)
		return false
	}
	return true
}

// Reply writes v as JSON, or the error: with status 422 if it is permanent, 503 if the
// caller should retry.
func Reply(w http.ResponseWriter, v any, err error) {
	switch {
	case err == nil:
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(v)
	case retry.IsRefused(err):
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
	default:
		slog.Warn("request failed; caller will retry", "error", err.Error())
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
	}
}

// clients caches HTTP clients that send the function's identity token, by the address for
// which the token is issued.
var clients sync.Map

func clientFor(ctx context.Context, url string) (*http.Client, error) {
	if c, ok := clients.Load(url); ok {
		return c.(*http.Client), nil
	}
	c, err := idtoken.NewClient(context.WithoutCancel(ctx), url)
	if err != nil {
		return nil, err
	}
	kept, _ := clients.LoadOrStore(url, c)
	return kept.(*http.Client), nil
}

// Call posts in as JSON to another function, and decodes the reply into out unless out is
// nil. The name is used in errors. If client is nil, the request carries an identity token.
func Call(ctx context.Context, client *http.Client, name, url string, in, out any) error {
	if url == "" {
		return retry.Refused(fmt.Errorf("the address of %s is not configured", name))
	}
	if client == nil {
		var err error
		if client, err = clientFor(ctx, url); err != nil {
			return fmt.Errorf("call %s: %w", name, err)
		}
	}
	body, err := json.Marshal(in)
	if err != nil {
		return retry.Refused(err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return retry.Refused(fmt.Errorf("call %s: %w", name, err))
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("call %s: %w", name, err)
	}
	defer resp.Body.Close()
	reply, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	switch {
	case err != nil:
		return fmt.Errorf("call %s: %w", name, err)
	case resp.StatusCode == http.StatusUnprocessableEntity: // refused permanently
		return retry.Refused(fmt.Errorf("%s: %s", name, strings.TrimSpace(string(reply))))
	case resp.StatusCode/100 != 2:
		return fmt.Errorf("call %s: %s: %s", name, resp.Status, strings.TrimSpace(string(reply)))
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(reply, out)
}
