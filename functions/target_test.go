package functions

import (
	"testing"

	"google.golang.org/api/option"

	"github.com/contraband-dev/contraband/functions/act"
	"github.com/contraband-dev/contraband/functions/front"
	"github.com/contraband-dev/contraband/functions/raise"
)

// TestEachFunctionNeedsItsOwn: a function starts without the secrets of the others, and
// not without its own.
func TestEachFunctionNeedsItsOwn(t *testing.T) {
	without := []option.ClientOption{option.WithoutAuthentication()}
	parts := Parts{Raise: raise.Parts{PubSub: without, SCC: without}}
	cases, findings := front.Config{Store: "mem://"}, raise.Config{Project: "p", SCCSource: "organizations/1/sources/2"}
	for name, open := range map[string]func() error{
		"Raise":    func() error { _, err := raise.New(t.Context(), findings, parts.Raise); return err },
		"Interact": func() error { _, err := front.New(t.Context(), cases, front.Parts{}); return err },
		"Contain":  func() error { _, err := act.New(t.Context(), act.Config{Front: cases}, act.Parts{}); return err },
	} {
		if err := open(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, target := range []string{"Respond", "Advance"} {
		for token, starts := range map[string]bool{"": false, "x": true} {
			_, err := New(t.Context(), Config{Target: target, Front: cases, Raise: findings, SlackToken: token, SlackChannel: "C1"}, parts)
			if (err == nil) != starts {
				t.Errorf("%s with the token %q: %v", target, token, err)
			}
		}
	}
}
