// Package advance owns the function that takes the steps of a case that are due:
//
//	Advance  HTTP {case} -> whether the case is done, or for how long nothing is due
package advance

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"strings"

	"github.com/contraband-dev/contraband/functions/respond"
	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/funcserver"
	"github.com/contraband-dev/contraband/internal/retry"
)

// Function is the deployed function.
type Function struct{ *respond.Suite }

// Register registers the function with the framework.
func Register() {
	p := funcserver.NewProgram(func(ctx context.Context, c respond.Config) (Function, error) {
		s, err := respond.New(ctx, c, respond.Deployed())
		return Function{s}, err
	})
	p.Web("Advance", Function.Advance)
}

// Reply is the body of a response.
type Reply struct {
	// Done reports whether nothing is left to wait for.
	Done bool `json:"done"`
	// WaitSeconds is for how long no step is due.
	WaitSeconds int64 `json:"waitSeconds,omitempty"`
	// Why is the reason for either.
	Why string `json:"why,omitempty"`
}

// Advance takes every step of a case that is due. The request carries no decision.
func (f Function) Advance(w http.ResponseWriter, r *http.Request) {
	var in funcserver.AdvanceRequest
	if !funcserver.Read(w, r, &in) {
		return
	}
	// The steps must not end with the caller's patience: Interact has three seconds.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), cases.FunctionTimeout)
	defer cancel()
	reply, err := f.advance(ctx, in)
	funcserver.Reply(w, reply, err)
}

func (f Function) advance(ctx context.Context, in funcserver.AdvanceRequest) (Reply, error) {
	if in.Callback != "" && !f.isCallback(in.Callback) {
		return Reply{}, retry.Refused(fmt.Errorf("callback %q is not of Cloud Workflows", in.Callback))
	}
	wait, err := f.Responder.AdvanceFor(ctx, in.Case, in.Execution, in.Callback)
	return Reply{Done: wait.Done, WaitSeconds: int64(math.Ceil(wait.For.Seconds())), Why: wait.Why}, err
}

func (f Function) isCallback(url string) bool {
	prefix := f.Config.CallbackPrefix
	return prefix != "" && strings.HasPrefix(url, prefix)
}
