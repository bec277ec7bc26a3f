package sensor

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/contraband-dev/contraband/bpf"
	"github.com/contraband-dev/contraband/internal/testenv/containers"
	"github.com/contraband-dev/contraband/internal/testenv/containers/containertest"
)

// TestBriefContainer: one that lives for a moment and is removed at once is
// named all the same, for it was asked about when it was created.
func TestBriefContainer(t *testing.T) {
	bed := containertest.Start(t)
	a := newAttributor(Config{Containerd: []string{bed.Socket}, CRI: []string{}, Docker: []string{}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.watchCreated(ctx, slog.Default()) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := a.close(); err != nil {
			t.Error(err)
		}
	}()
	for deadline := time.Now().Add(10 * time.Second); ; { // until the stream of events is open
		if out, err := bed.RunBriefly(t.Context(), "brief", map[string]string{"team": "x"}, "/bin/true"); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		h, err := a.ask(t.Context(), "/default/brief", bpf.Event{Flags: bpf.RootOverlay})
		if err != nil {
			t.Fatal(err)
		}
		if h.Missing == "" {
			if h.ID != "brief" || h.Labels["team"] != "x" || h.Image != containers.Image || h.ImageDigest == "" || h.CgroupPath != "/default/brief" {
				t.Errorf("%+v", h)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("a container that is gone has no name: %s", h.Missing)
		}
	}
}
