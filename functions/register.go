package functions

import (
	"context"

	"github.com/contraband-dev/contraband/functions/serve"
	"github.com/contraband-dev/contraband/internal/cluster"
)

// Register registers every function but Casebook with the framework; which of them is
// served, FUNCTION_TARGET says.
func Register() {
	p := serve.NewProgram(func(ctx context.Context, c Config) (*Suite, error) { return New(ctx, c, deployed()) })
	p.Event("Raise", (*Suite).Raise)
	p.Event("Respond", (*Suite).Respond)
	p.Web("Advance", (*Suite).Advance)
	p.Web("Contain", (*Suite).Contain)
	p.Web("Interact", (*Suite).Interact)
	p.Web("Sweep", (*Suite).Sweep)
}

// deployed reaches clusters with the function's own identity: what it may do there
// is what the cluster grants it.
func deployed() Parts {
	gke := &cluster.GKE{}
	return Parts{Reads: gke, Acts: gke}
}
