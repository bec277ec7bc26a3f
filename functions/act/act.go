// Package act owns the function that changes a cluster. It knows neither the rules of a
// policy, only its guards, nor SCC, nor Slack:
//
//	Contain  HTTP {case, event} -> what that recorded claim allows
package act

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/contraband-dev/contraband/functions/front"
	"github.com/contraband-dev/contraband/functions/serve"
	"github.com/contraband-dev/contraband/internal/blobstore"
	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/contain"
	"github.com/contraband-dev/contraband/internal/contain/cluster"
	"github.com/contraband-dev/contraband/internal/policy/guards"
	"github.com/contraband-dev/contraband/internal/sensorapi"
)

// Config is read from the environment.
type Config struct {
	Front front.Config
	// Policy is the path of the policy file, whose guards are read. Empty: the built-in one.
	Policy string `env:"CONTRABAND_POLICY"`
}

// Parts replace what only Google's cloud has, on one machine and in tests.
type Parts struct {
	Front    front.Parts
	Clusters cluster.Finder // with Contain's rights
	Orders   contain.Orders // nil: the cluster's own
	Upload   func(ctx context.Context, key string, max int64) (*sensorapi.Upload, error)
}

// Actor carries out what cases have claimed.
type Actor struct {
	cases     *front.Front
	container *contain.Executor
}

// Deployed reaches clusters with the function's own identity: what it may do there is
// what the cluster grants it.
func Deployed() Parts { return Parts{Clusters: &cluster.GKE{}} }

// New opens the store and reads the guards.
func New(ctx context.Context, cfg Config, parts Parts) (*Actor, error) {
	bounds, err := guards.Load(cfg.Policy)
	if err != nil {
		return nil, err
	}
	cases, err := front.New(ctx, cfg.Front, parts.Front)
	if err != nil {
		return nil, err
	}
	if parts.Upload == nil {
		if parts.Upload, err = blobstore.Uploads(ctx, cfg.Front.Store); err != nil {
			return nil, errors.Join(err, cases.Close())
		}
	}
	return &Actor{cases, &contain.Executor{Log: cases.Log, Guards: bounds, Clusters: parts.Clusters, Orders: parts.Orders, Upload: parts.Upload, Now: time.Now}}, nil
}

// Register registers the function with the framework.
func Register() {
	p := serve.NewProgram(func(ctx context.Context, c Config) (*Actor, error) { return New(ctx, c, Deployed()) })
	p.Web("Contain", (*Actor).Contain)
}

// Close ends connections.
func (a *Actor) Close() error { return a.cases.Close() }

// Contain carries out one recorded claim.
func (a *Actor) Contain(w http.ResponseWriter, r *http.Request) {
	var in serve.ContainRequest
	if !serve.Read(w, r, &in) {
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), cases.ContainDeadline)
	defer cancel()
	acted, err := a.container.Execute(ctx, in.Case, in.Event)
	serve.Reply(w, acted, err)
}
