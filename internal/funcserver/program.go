// Package funcserver is what the functions share: registration with the functions
// framework, Pub/Sub events, JSON over HTTP, and calls between functions. It has no
// knowledge of cases.
package funcserver

import (
	"context"
	"fmt"
	"net/http"
	"sync"

	"github.com/GoogleCloudPlatform/functions-framework-go/functions"
	cloudevents "github.com/cloudevents/sdk-go/v2"
	"github.com/sethvargo/go-envconfig"
)

// Program registers functions that share one T, which is opened by the first request. If
// that fails, because of a mistake in the configuration for example, the request fails
// and the next one tries again.
type Program[T any] struct {
	open func(context.Context) (T, error)

	mu   sync.Mutex
	made *T
}

// NewProgram returns a Program that opens T with a configuration C, read from the
// environment.
func NewProgram[C, T any](open func(context.Context, C) (T, error)) *Program[T] {
	logOnce()
	return &Program[T]{open: func(ctx context.Context) (t T, err error) {
		c, err := FromEnvironment[C](ctx)
		if err != nil {
			return t, err
		}
		return open(ctx, c)
	}}
}

func (p *Program[T]) get() (t T, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.made != nil {
		return *p.made, nil
	}
	if t, err = p.open(context.Background()); err == nil {
		p.made = &t
	}
	return t, err
}

// Event registers a function that Pub/Sub triggers.
func (p *Program[T]) Event(name string, f func(T, context.Context, cloudevents.Event) error) {
	functions.CloudEvent(name, func(ctx context.Context, e cloudevents.Event) error {
		t, err := p.get()
		if err != nil {
			return Safe(err)
		}
		return f(t, ctx, e)
	})
}

// Web registers a function that is called over HTTP.
func (p *Program[T]) Web(name string, f func(T, http.ResponseWriter, *http.Request)) {
	functions.HTTP(name, func(w http.ResponseWriter, r *http.Request) {
		t, err := p.get()
		if err != nil {
			Reply(w, nil, err)
			return
		}
		f(t, w, r.WithContext(withTrace(r)))
	})
}

// FromEnvironment reads a configuration. Its error names the variable that is missing.
func FromEnvironment[C any](ctx context.Context) (c C, err error) {
	if err := envconfig.Process(ctx, &c); err != nil {
		return c, fmt.Errorf("read configuration: %w", err)
	}
	return c, nil
}
