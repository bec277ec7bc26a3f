package sensor

import (
	"errors"
	"time"

	"github.com/contraband-dev/contraband/bpf"
)

// errNoAnswer is why a file of such a file system is not hashed.
var errNoAnswer = errors.New("its file system does not answer")

// Bounds of what waits for a file system.
const (
	maxWaiting = 64
	openWithin = 5 * time.Second
	hashWithin = 30 * time.Second
)

// mayHang tells whether opening a file may lead to a file system that need not ever
// answer: one of the network, or one that somebody in a container serves. A file that is
// known by its path alone lies beyond whatever is mounted there by now, and an overlay
// that is not the container's may have layers of any kind.
func mayHang(e bpf.Event) bool {
	elsewhere := e.Is(bpf.Script) || e.Is(bpf.Mapped) || e.Is(bpf.OnOverlay)
	return !e.Is(bpf.Local) || e.Is(bpf.ByName) || elsewhere && !e.Is(bpf.OnRoot)
}

// patience bounds how many wait for such a file system: each takes a thread.
type patience chan struct{}

func newPatience() patience { return make(patience, maxWaiting+workers) }

// within answers what f does, or that it has not come back in time, or that too many have
// not. What comes too late goes to late.
func within[T any](p patience, limit time.Duration, f func() T, late func(T)) (t T, ok bool) {
	select {
	case p <- struct{}{}:
	default:
		return t, false
	}
	done := make(chan T, 1)
	go func() {
		defer func() { <-p }()
		done <- f()
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case t = <-done:
		return t, true
	case <-timer.C:
		go func() { late(<-done) }()
		return t, false
	}
}
