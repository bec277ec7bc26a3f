// Package bedtest starts a testbed for a test.
package containertest

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/contraband-dev/contraband/internal/testenv/containers"
)

// Start one until the test ends. Without root the test is skipped, and says so.
func Start(t testing.TB) *containers.Bed { t.Helper(); return start(t, containers.Start) }

// StartCRI starts one that serves the CRI too.
func StartCRI(t testing.TB) *containers.Bed { t.Helper(); return start(t, containers.StartCRI) }

func start(t testing.TB, with func(context.Context, string) (*containers.Bed, error)) *containers.Bed {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("NOT RUN: needs root: real BPF programs and real containers")
	}
	if err := containers.Missing(); err != nil {
		t.Fatalf("%v (or run `make deps`)", err)
	}
	bed, err := with(t.Context(), filepath.Join(t.TempDir(), "bed"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := bed.Close(); err != nil {
			t.Errorf("close testbed: %v", err)
		}
	})
	return bed
}
