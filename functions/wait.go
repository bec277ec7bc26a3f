package functions

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strings"
	"time"

	executions "cloud.google.com/go/workflows/executions/apiv1"
	"cloud.google.com/go/workflows/executions/apiv1/executionspb"
	"golang.org/x/oauth2/google"

	"github.com/contraband-dev/contraband/internal/retry"
)

// advance has a case go on, for the workflow that drives it or for whoever asks.
func (s *Suite) advance(ctx context.Context, in advanceRequest) (advanceReply, error) {
	if in.Callback != "" && (s.cfg.CallbackPrefix == "" || !strings.HasPrefix(in.Callback, s.cfg.CallbackPrefix)) {
		return advanceReply{}, retry.Permanent(fmt.Errorf("callback %q is not of Cloud Workflows", in.Callback))
	}
	wait, err := s.responder.AdvanceFor(ctx, in.Case, in.Execution, in.Callback)
	return advanceReply{Done: wait.Done, WaitSeconds: int64(math.Ceil(wait.For.Seconds())), Why: wait.Why}, err
}

// drive starts the workflow for a case. There is no id of our choosing: that one
// execution drives a case is Advance's to see to.
func (s *Suite) drive(ctx context.Context, caseID string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	client, err := s.workflows(ctx)
	if err != nil {
		return "", err
	}
	argument, err := json.Marshal(map[string]string{"case": caseID})
	if err != nil {
		return "", err
	}
	e, err := client.CreateExecution(ctx, &executionspb.CreateExecutionRequest{
		Parent: s.cfg.Workflow, Execution: &executionspb.Execution{Argument: string(argument), Labels: map[string]string{"case": caseID}},
	})
	if err != nil {
		return "", fmt.Errorf("start workflow %q: %w", s.cfg.Workflow, err)
	}
	return e.GetName(), nil
}

func (s *Suite) workflows(ctx context.Context) (*executions.Client, error) {
	s.executionsMu.Lock()
	defer s.executionsMu.Unlock()
	if s.executions != nil {
		return s.executions, nil
	}
	c, err := executions.NewClient(context.WithoutCancel(ctx), s.parts.Executions...)
	if err == nil {
		s.executions = c
	}
	return c, err
}

var errNoCallback = errors.New("no workflow waits for the case")

// resume wakes the workflow that waits for a case.
func (s *Suite) resume(ctx context.Context, caseID string) error {
	url, err := s.log.Callback(ctx, caseID)
	if err != nil {
		return err
	}
	if url == "" {
		return errNoCallback
	}
	client := s.parts.Callbacks
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
