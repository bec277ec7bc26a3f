package sensor

import (
	"errors"
	"strings"
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

// mayHang tells whether a file is of a file system that need not ever answer: one of the
// network, or one that somebody in a container serves. Where a script of which only the
// name is known lies, nobody knows.
func mayHang(e bpf.Event) bool {
	return e.Is(bpf.ByName) || !e.Is(bpf.OnOverlay) && !strings.HasPrefix(e.Path, "/memfd:")
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
