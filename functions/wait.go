package functions

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"time"

	executions "cloud.google.com/go/workflows/executions/apiv1"
	"cloud.google.com/go/workflows/executions/apiv1/executionspb"

	"github.com/contraband-dev/contraband/functions/serve"
	"github.com/contraband-dev/contraband/internal/retry"
)

// advance has a case go on, for the workflow that drives it or for whoever asks.
func (s *Suite) advance(ctx context.Context, in serve.AdvanceRequest) (advanceReply, error) {
	if in.Callback != "" && (s.cfg.CallbackPrefix == "" || !strings.HasPrefix(in.Callback, s.cfg.CallbackPrefix)) {
		return advanceReply{}, retry.Refused(fmt.Errorf("callback %q is not of Cloud Workflows", in.Callback))
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
