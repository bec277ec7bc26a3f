package sensor

import (
	"errors"
	"sync"
	"time"

	"github.com/contraband-dev/contraband/bpf"
)

// Why a file of such a file system is not hashed.
var (
	errNoAnswer = errors.New("its file system does not answer")
	errCrowded  = errors.New("too many files wait already for file systems that do not answer: it was not waited for")
)

// Bounds of what waits for a file system.
const (
	maxWaiting = 64 // in all
	maxShare   = 16 // of one container: what one mounts keeps no other's from being hashed
	openWithin = 5 * time.Second
	hashWithin = 30 * time.Second
)

// mayHang reports whether opening a file may lead to a file system that need not ever
// answer: one of the network, or one that somebody in a container serves. A file that is
// known by its path alone lies beyond whatever is mounted there by now, and an overlay
// that is not the container's may have layers of any kind.
func mayHang(e bpf.Event) bool {
	elsewhere := e.Is(bpf.Script) || e.Is(bpf.Mapped) || e.Is(bpf.OnOverlay)
	return !e.Is(bpf.Local) || e.Is(bpf.ByName) || elsewhere && !e.Is(bpf.OnRoot)
}

// patience bounds how many wait for such a file system: each takes a thread, for as long
// as it does not answer. The zero value is ready.
type patience struct {
	mu  sync.Mutex
	all int
	by  map[uint64]int // by cgroup
}

func (p *patience) begin(cgroup uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.all >= maxWaiting || p.by[cgroup] >= maxShare {
		return false
	}
	if p.by == nil {
		p.by = map[uint64]int{}
	}
	p.all++
	p.by[cgroup]++
	return true
}

func (p *patience) end(cgroup uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all--
	if p.by[cgroup]--; p.by[cgroup] == 0 {
		delete(p.by, cgroup)
	}
}

// within returns what f does for a container's cgroup, or errNoAnswer when it has not come
// back in time, or errCrowded. What comes too late goes to late.
func within[T any](p *patience, cgroup uint64, limit time.Duration, f func() T, late func(T)) (t T, err error) {
	if !p.begin(cgroup) {
		return t, errCrowded
	}
	done := make(chan T, 1)
	go func() {
		defer p.end(cgroup)
		done <- f()
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case t = <-done:
		return t, nil
	case <-timer.C:
		go func() { late(<-done) }()
		return t, errNoAnswer
	}
}
