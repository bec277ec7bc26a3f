// Package casebook owns the function that serves the web pages:
//
//	Casebook  HTTP
package casebook

import (
	"context"
	"errors"
	"net/http"

	"github.com/contraband-dev/contraband/internal/funcserver"
	"github.com/contraband-dev/contraband/internal/funcserver/casefunc"
	"github.com/contraband-dev/contraband/internal/web"
)

// Config is read from the environment.
type Config struct {
	Cases casefunc.Config
	// IAPAudience is the audience of the assertions that Identity-Aware Proxy signs:
	// /projects/NUMBER/locations/REGION/services/SERVICE. Requests without an assertion are
	// refused. Empty: everybody who can reach the casebook can read it, anonymously.
	IAPAudience string `env:"CONTRABAND_IAP_AUDIENCE"`
}

// Parts replaces services of Google Cloud in tests.
type Parts struct {
	Cases casefunc.Parts
	IAP   *http.Client // fetches the keys of Identity-Aware Proxy; nil: the default one
}

// Function is the deployed function.
type Function struct {
	*casefunc.Base

	pages http.Handler
}

// New opens the case store.
func New(ctx context.Context, cfg Config, parts Parts) (*Function, error) {
	f, err := casefunc.New(ctx, cfg.Cases, parts.Cases)
	if err != nil {
		return nil, err
	}
	v, err := visitors(ctx, f, cfg.IAPAudience, parts.IAP)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return On(f, v), nil
}

// On returns the function for an open case store.
func On(base *casefunc.Base, v web.Visitors) *Function {
	return &Function{base, web.Handler(base.Log, v, base.AfterClick)}
}

// Register registers the function with the framework.
func Register() {
	p := funcserver.NewProgram(func(ctx context.Context, c Config) (*Function, error) { return New(ctx, c, Parts{}) })
	p.Web("Casebook", (*Function).Casebook)
}

// Casebook serves the pages.
func (f *Function) Casebook(w http.ResponseWriter, r *http.Request) { f.pages.ServeHTTP(w, r) }
