package functions_test

import (
	"testing"

	"google.golang.org/api/option"

	"github.com/contraband-dev/contraband/functions/contain"
	"github.com/contraband-dev/contraband/functions/interact"
	"github.com/contraband-dev/contraband/functions/raise"
	respondfunc "github.com/contraband-dev/contraband/functions/respond"
	"github.com/contraband-dev/contraband/internal/funcserver/casefunc"
)

// TestEachFunctionNeedsItsOwn: a function starts without the secrets of the others, and
// not without its own.
func TestEachFunctionNeedsItsOwn(t *testing.T) {
	without := []option.ClientOption{option.WithoutAuthentication()}
	parts := respondfunc.Parts{Raise: raise.Parts{PubSub: without, SCC: without}}
	cases, findings := casefunc.Config{Store: "mem://"}, raise.Config{Project: "p", SCCSource: "organizations/1/sources/2"}
	for name, open := range map[string]func() error{
		"Raise": func() error { _, err := raise.New(t.Context(), findings, parts.Raise); return err },
		"Interact": func() error {
			_, err := interact.New(t.Context(), interact.Config{Cases: cases}, casefunc.Parts{})
			return err
		},
		"Contain": func() error {
			_, err := contain.New(t.Context(), contain.Config{Cases: cases}, contain.Parts{})
			return err
		},
	} {
		if err := open(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, target := range []string{"Respond", "Advance"} {
		for token, starts := range map[string]bool{"": false, "x": true} {
			_, err := respondfunc.New(t.Context(), respondfunc.Config{Target: target, Cases: cases, Raise: findings, SlackToken: token, SlackChannel: "C1"}, parts)
			if (err == nil) != starts {
				t.Errorf("%s with the token %q: %v", target, token, err)
			}
		}
	}
}
