// Package function is the program for a build that selects none: it has every function,
// and FUNCTION_TARGET selects the one that is served.
package function

import (
	_ "github.com/GoogleCloudPlatform/functions-framework-go/funcframework"
	_ "github.com/GoogleCloudPlatform/functions-framework-go/functions"

	"github.com/contraband-dev/contraband/functions/advance"
	"github.com/contraband-dev/contraband/functions/casebook"
	"github.com/contraband-dev/contraband/functions/contain"
	"github.com/contraband-dev/contraband/functions/interact"
	"github.com/contraband-dev/contraband/functions/raise"
	"github.com/contraband-dev/contraband/functions/respond"
	"github.com/contraband-dev/contraband/functions/sweep"
)

func init() {
	raise.Register()
	respond.Register()
	advance.Register()
	contain.Register()
	interact.Register()
	sweep.Register()
	casebook.Register()
}
