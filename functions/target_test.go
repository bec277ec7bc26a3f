package functions

import (
	"testing"

	"google.golang.org/api/option"

	"github.com/contraband-dev/contraband/functions/front"
	"github.com/contraband-dev/contraband/functions/raise"
)

// TestEachFunctionNeedsItsOwn: a function starts without the secrets of the others.
func TestEachFunctionNeedsItsOwn(t *testing.T) {
	parts := Parts{Raise: raise.Parts{PubSub: []option.ClientOption{option.WithoutAuthentication()}, SCC: []option.ClientOption{option.WithoutAuthentication()}}}
	for target, starts := range map[string]bool{"Raise": true, "Contain": true, "Interact": true, "Sweep": true, "Respond": false, "Advance": false} {
		_, err := New(t.Context(), Config{Target: target, Front: front.Config{Store: "mem://"}, Raise: raise.Config{Project: "p", SCCSource: "organizations/1/sources/2"}}, parts)
		if (err == nil) != starts {
			t.Errorf("%s without a secret: %v", target, err)
		}
	}
}
