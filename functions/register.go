package functions

import (
	"context"
	"net/http"
	"sync"

	"github.com/GoogleCloudPlatform/functions-framework-go/functions"
	cloudevents "github.com/cloudevents/sdk-go/v2"

	"github.com/contraband-dev/contraband/internal/cluster"
)

// RegisterFromEnvironment registers every function with the framework; which of
// them is served, FUNCTION_TARGET says. The configuration is read when the first
// request comes: a mistake in it fails that request, loudly, and the next one
// tries again.
func RegisterFromEnvironment() {
	var mu sync.Mutex
	var made *Suite
	suite := func() (*Suite, error) {
		mu.Lock()
		defer mu.Unlock()
		if made != nil {
			return made, nil
		}
		ctx := context.Background()
		cfg, err := FromEnvironment(ctx)
		if err != nil {
			return nil, err
		}
		s, err := New(ctx, cfg, deployed())
		if err == nil {
			made = s
		}
		return s, err
	}
	event := func(name string, f func(*Suite, context.Context, cloudevents.Event) error) {
		functions.CloudEvent(name, func(ctx context.Context, e cloudevents.Event) error {
			s, err := suite()
			if err != nil {
				return safe(err)
			}
			return f(s, ctx, e)
		})
	}
	web := func(name string, f func(*Suite, http.ResponseWriter, *http.Request)) {
		functions.HTTP(name, func(w http.ResponseWriter, r *http.Request) {
			s, err := suite()
			if err != nil {
				reply(w, nil, err)
				return
			}
			f(s, w, r)
		})
	}
	event("Raise", (*Suite).Raise)
	event("Respond", (*Suite).Respond)
	web("Advance", (*Suite).Advance)
	web("Contain", (*Suite).Contain)
	web("Interact", (*Suite).Interact)
	web("Casebook", (*Suite).Casebook)
	web("Sweep", (*Suite).Sweep)
}

// deployed reaches clusters with the function's own identity: what it may do there
// is what the cluster grants it.
func deployed() Parts {
	gke := &cluster.GKE{}
	return Parts{Reads: gke, Acts: gke}
}
