package respond

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	executions "cloud.google.com/go/workflows/executions/apiv1"
	"cloud.google.com/go/workflows/executions/apiv1/executionspb"
)

// StartWorkflow starts the workflow for a case and returns the execution's name. The API
// takes no ID of the caller's choice, so that a case can have two executions: Advance ends
// all but the first one.
func (s *Suite) StartWorkflow(ctx context.Context, caseID string) (string, error) {
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
		Parent: s.Config.Workflow, Execution: &executionspb.Execution{Argument: string(argument), Labels: map[string]string{"case": caseID}},
	})
	if err != nil {
		return "", fmt.Errorf("start workflow %q: %w", s.Config.Workflow, err)
	}
	return e.GetName(), nil
}

func (s *Suite) workflows(ctx context.Context) (*executions.Client, error) {
	s.executionsMu.Lock()
	defer s.executionsMu.Unlock()
	if s.executions != nil {
		return s.executions, nil
	}
	c, err := executions.NewClient(context.WithoutCancel(ctx), s.Parts.Executions...)
	if err == nil {
		s.executions = c
	}
	return c, err
}
