// Package casefunc is what the functions that work on cases share: their configuration,
// the case store, the list of approvers, and how a case is advanced after a click.
package casefunc

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

	"github.com/contraband-dev/contraband/internal/blobstore"
	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/cases/caselog"
	"github.com/contraband-dev/contraband/internal/funcserver"
	"github.com/contraband-dev/contraband/internal/incidents"
)

// Config is read from the environment.
type Config struct {
	// Store is where cases are kept: gs://BUCKET, or dir:///PATH on one machine. With two
	// buckets, separated by a comma, objects that are removed after use go to the second
	// one, so that the first may forbid deletion. Required.
	Store string `env:"CONTRABAND_STORE"`
	// Approvers may click: IDs of Slack users, and e-mail addresses for the casebook.
	// Empty: everybody who can see the channel or the casebook.
	Approvers []string `env:"CONTRABAND_APPROVERS"`
	// AdvanceURL is the address of Advance.
	AdvanceURL string `env:"CONTRABAND_ADVANCE_URL"`
}

// Parts replaces services of Google Cloud on one machine and in tests. The zero value
// uses Google Cloud.
type Parts struct {
	Store     blobstore.Store // nil: opened from Config.Store
	Alive     func(holder string) bool
	HTTP      *http.Client // calls other functions; nil: a client with an identity token
	Callbacks *http.Client // calls callbacks of workflows; nil: a client with an access token
}

// Front is the functions of one deployment.
type Base struct {
	// Log is the store of case logs.
	Log    *caselog.Store
	Config Config
	Parts  Parts
}

// New opens the case store.
func New(ctx context.Context, cfg Config, parts Parts) (_ *Base, err error) {
	if parts.Store == nil {
		if cfg.Store == "" {
			return nil, errors.New("CONTRABAND_STORE is required: cases are kept there")
		}
		if parts.Store, err = blobstore.Open(ctx, cfg.Store); err != nil {
			return nil, err
		}
	}
	log := &caselog.Store{Objects: parts.Store, Lease: cases.Lease, Alive: parts.Alive, Snapshot: incidents.SnapshotAny}
	return &Base{Config: cfg, Parts: parts, Log: log}, nil
}

// Close closes the case store.
func (f *Base) Close() error { return f.Parts.Store.Close() }

// IsApprover reports whether a person may click; id is that of a Slack user or an e-mail
// address.
func (f *Base) IsApprover(id string) bool {
	return len(f.Config.Approvers) == 0 || slices.Contains(f.Config.Approvers, id)
}

// AfterClick advances a case: it resumes the workflow that waits for the case, or else
// calls Advance. If both fail, Sweep advances the case by the click's wake.
func (f *Base) AfterClick(ctx context.Context, caseID string) {
	err := f.resume(ctx, caseID)
	if err == nil {
		return
	}
	if !errors.Is(err, errNoCallback) {
		slog.Warn("failed to resume the workflow", "case", caseID, "error", err.Error())
	}
	if err := f.CallAdvance(ctx, caseID); err != nil {
		slog.Warn("click recorded; the next sweep will advance the case", "case", caseID, "error", err.Error())
	}
}

// CallAdvance calls Advance for a case.
func (f *Base) CallAdvance(ctx context.Context, caseID string) error {
	return funcserver.Call(ctx, f.Parts.HTTP, "Advance", f.Config.AdvanceURL, funcserver.AdvanceRequest{Case: caseID}, nil)
}

var errNoCallback = errors.New("no workflow is waiting for the case")

// resume wakes the workflow that waits for a case.
func (f *Base) resume(ctx context.Context, caseID string) error {
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
	case resp.StatusCode/100 == 2, resp.StatusCode == http.StatusTooManyRequests: // an earlier call has not been read yet
		return nil
	default:
		return fmt.Errorf("resume workflow: %s", resp.Status)
	}
}
