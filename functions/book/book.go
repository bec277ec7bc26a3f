// Package book owns the function that serves the pages which people read:
//
//	Casebook  HTTP
package book

import (
	"context"
	"errors"
	"net/http"

	"github.com/contraband-dev/contraband/functions/front"
	"github.com/contraband-dev/contraband/functions/serve"
	"github.com/contraband-dev/contraband/internal/web"
)

// Config is read from the environment.
type Config struct {
	Front front.Config
	// IAPAudience is whom Identity-Aware Proxy vouches for visitors of the casebook to:
	// /projects/NUMBER/locations/REGION/services/SERVICE. Without its word nothing is
	// shown. Empty: whoever reaches the casebook sees it, and is nobody's name.
	IAPAudience string `env:"CONTRABAND_IAP_AUDIENCE"`
}

// Parts replace what only Google's cloud has, in tests.
type Parts struct {
	Front front.Parts
	IAP   *http.Client // fetches the keys of Identity-Aware Proxy; nil: the default one
}

// Book has the cases, and brings on those in which somebody presses.
type Book struct {
	*front.Front

	pages http.Handler
}

// New opens the store.
func New(ctx context.Context, cfg Config, parts Parts) (*Book, error) {
	f, err := front.New(ctx, cfg.Front, parts.Front)
	if err != nil {
		return nil, err
	}
	v, err := visitors(ctx, f, cfg.IAPAudience, parts.IAP)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return On(f, v), nil
}

// On makes a book of the cases that f has.
func On(f *front.Front, v web.Visitors) *Book {
	return &Book{f, web.Handler(f.Log, v, f.AfterClick)}
}

// Register registers the function with the framework.
func Register() {
	p := serve.NewProgram(func(ctx context.Context, c Config) (*Book, error) { return New(ctx, c, Parts{}) })
	p.Web("Casebook", (*Book).Casebook)
}

// Casebook serves the pages.
func (b *Book) Casebook(w http.ResponseWriter, r *http.Request) { b.pages.ServeHTTP(w, r) }
