package terraform_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/contraband-dev/contraband/internal/fake/googleapis"
)

// TestUpgrade applies an earlier state of the module and then this one over it:
// nothing is destroyed or made anew, and nothing is left to do.
//
//	make test-upgrade FROM=REVISION
func TestUpgrade(t *testing.T) {
	from := os.Getenv("CONTRABAND_UPGRADE_FROM")
	if from == "" {
		t.Skip("NOT RUN: there is no earlier module: make test-upgrade FROM=REVISION")
	}
	terraform(t)
	g := googleapis.Start()
	defer g.Close()
	arguments := "" // what an earlier one takes too
	for line := range strings.Lines(organization) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		if !slices.Contains([]string{"indicators", "exceptions", "detector_sources", "channels", "owners"}, name) {
			arguments += line
		}
	}
	m := use(t, g.Environment(), arguments)
	replace := func(source string) {
		for _, d := range []string{"terraform", "workflows"} {
			at := filepath.Join(filepath.Dir(m.dir), d)
			if err := os.RemoveAll(at); err != nil {
				t.Fatal(err)
			}
			if err := os.CopyFS(at, os.DirFS(filepath.Join(source, d))); err != nil {
				t.Fatal(err)
			}
		}
		m.run("init", "-input=false")
	}
	replace(from)
	m.apply()
	replace("..")
	for address, what := range m.plan() {
		t.Log(address, what)
		// Before there were two subscriptions for each topic, there was one without a filter,
		// which cannot be added.
		filtered := strings.Contains(address, "module.pipeline.google_pubsub_subscription")
		if strings.Contains(what, "delete") && !filtered {
			t.Errorf("%s: %s", address, what)
		}
	}
	m.apply()
	if left := m.plan(); len(left) != 0 {
		t.Errorf("left to do: %v", left)
	}
}
