package functions

import (
	"context"
	"net/http"

	"github.com/contraband-dev/contraband/functions/serve"
	"github.com/contraband-dev/contraband/internal/cases"
)

// Advance takes every step that a case is due. No decision arrives in the request.
func (s *Suite) Advance(w http.ResponseWriter, r *http.Request) {
	var in serve.AdvanceRequest
	if !serve.Read(w, r, &in) {
		return
	}
	// Who asked may have no time to wait: Interact has three seconds.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), cases.FunctionTimeout)
	defer cancel()
	answer, err := s.advance(ctx, in)
	serve.Reply(w, answer, err)
}
