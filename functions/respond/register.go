package respond

import (
	"context"

	"github.com/contraband-dev/contraband/internal/contain/cluster"
	"github.com/contraband-dev/contraband/internal/funcserver"
)

// Deployed returns what the deployed function uses: it reads clusters with its own
// identity.
func Deployed() Parts { return Parts{Reads: &cluster.GKE{}} }

// Register registers the function with the framework.
func Register() {
	p := funcserver.NewProgram(func(ctx context.Context, c Config) (*Suite, error) { return New(ctx, c, Deployed()) })
	p.Event("Respond", (*Suite).Respond)
}
