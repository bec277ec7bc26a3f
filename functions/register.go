package functions

import (
	"context"

	"github.com/contraband-dev/contraband/functions/serve"
	"github.com/contraband-dev/contraband/internal/contain/cluster"
)

// Register registers the functions with the framework; which of them is served,
// FUNCTION_TARGET says. What may be done in a cluster is what it grants the function's
// identity.
func Register() {
	p := serve.NewProgram(func(ctx context.Context, c Config) (*Suite, error) { return New(ctx, c, Parts{Reads: &cluster.GKE{}}) })
	p.Event("Respond", (*Suite).Respond)
	p.Web("Advance", (*Suite).Advance)
}
