// Package contain owns the function that changes clusters. It reads the guards of a
// policy but not its rules, and it has no access to SCC or Slack:
//
//	Contain  HTTP {case, event} -> the outcome of the action that the event claims
package contain

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/contraband-dev/contraband/internal/blobstore"
	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/contain"
	"github.com/contraband-dev/contraband/internal/contain/cluster"
	"github.com/contraband-dev/contraband/internal/funcserver"
	"github.com/contraband-dev/contraband/internal/funcserver/casefunc"
	"github.com/contraband-dev/contraband/internal/policy/guards"
	"github.com/contraband-dev/contraband/internal/sensorapi"
)

// Config is read from the environment.
type Config struct {
	Cases casefunc.Config
	// Policy is the path of the policy file, whose guards are read. Empty: the built-in one.
	Policy string `env:"CONTRABAND_POLICY"`
}

// Parts replaces services of Google Cloud on one machine and in tests.
type Parts struct {
	Cases    casefunc.Parts
	Clusters cluster.Finder // reaches clusters, with write access
	Orders   contain.Orders // nil: objects in the cluster
	Upload   func(ctx context.Context, key string, max int64) (*sensorapi.Upload, error)
}

// Function is the deployed function.
type Function struct {
	cases    *casefunc.Base
	executor *contain.Executor
}

// Deployed returns what the deployed function uses: it reaches clusters with its own
// identity, to which each cluster grants access.
func Deployed() Parts { return Parts{Clusters: &cluster.GKE{}} }

// New opens the store and reads the guards.
func New(ctx context.Context, cfg Config, parts Parts) (*Function, error) {
	bounds, err := guards.Load(cfg.Policy)
	if err != nil {
		return nil, err
	}
	base, err := casefunc.New(ctx, cfg.Cases, parts.Cases)
	if err != nil {
		return nil, err
	}
	if parts.Upload == nil {
		if parts.Upload, err = blobstore.Uploads(ctx, cfg.Cases.Store); err != nil {
			return nil, errors.Join(err, base.Close())
		}
	}
	return &Function{base, &contain.Executor{
		Log: base.Log, Guards: bounds, Clusters: parts.Clusters, Orders: parts.Orders, Upload: parts.Upload, Now: time.Now,
	}}, nil
}

// Register registers the function with the framework.
func Register() {
	p := funcserver.NewProgram(func(ctx context.Context, c Config) (*Function, error) { return New(ctx, c, Deployed()) })
	p.Web("Contain", (*Function).Contain)
}

// Close ends connections.
func (f *Function) Close() error { return f.cases.Close() }

// Contain carries out one recorded claim.
func (f *Function) Contain(w http.ResponseWriter, r *http.Request) {
	var in funcserver.ContainRequest
	if !funcserver.Read(w, r, &in) {
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), cases.ContainDeadline)
	defer cancel()
	acted, err := f.executor.Execute(ctx, in.Case, in.Event)
	funcserver.Reply(w, acted, err)
}
