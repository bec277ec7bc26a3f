// Package containertest starts a container runtime for a test.
package containertest

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/contraband-dev/contraband/internal/testenv/containers"
)

// Start starts a containerd that is stopped when the test ends. Without root the test is skipped.
func Start(t testing.TB) *containers.Runtime { t.Helper(); return start(t, containers.Start) }

// StartCRI starts a containerd that also serves the CRI.
func StartCRI(t testing.TB) *containers.Runtime { t.Helper(); return start(t, containers.StartCRI) }

func start(t testing.TB, with func(context.Context, string) (*containers.Runtime, error)) *containers.Runtime {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("NOT RUN: needs root: real BPF programs and real containers")
	}
	if err := containers.Missing(); err != nil {
		t.Fatalf("%v (or run `make deps`)", err)
	}
	r, err := with(t.Context(), filepath.Join(t.TempDir(), "containerd"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Errorf("close container runtime: %v", err)
		}
	})
	return r
}
