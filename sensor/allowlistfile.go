package sensor

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/contraband-dev/contraband/sensor/allowlist"
)

// allowlistFile is the file of exceptions, as last read without an error.
type allowlistFile struct {
	file  string
	list  atomic.Pointer[allowlist.List]
	state string // of the file when it was read
	// expired is the number of exceptions that were last reported as expired.
	expired int
}

func openAllowlist(file string) (*allowlistFile, error) {
	a := &allowlistFile{file: file}
	if file == "" {
		return a, nil
	}
	return a, a.read()
}

func (a *allowlistFile) read() error {
	info, err := os.Stat(a.file) // follows the link by which Kubernetes swaps a mounted ConfigMap
	if err != nil {
		return fmt.Errorf("read exceptions: %w", err)
	}
	state := fmt.Sprint(info.ModTime(), info.Size(), inode(info))
	if state == a.state {
		return nil
	}
	l, err := allowlist.Load(a.file)
	if err != nil {
		return err
	}
	a.list.Store(&l)
	a.state, a.expired = state, 0
	return nil
}

// watch reads the file again when it changes, and reports exceptions that have expired. An
// invalid file is logged, and what was read before stays in effect.
func (a *allowlistFile) watch(ctx context.Context, log *slog.Logger) error {
	if a.file == "" {
		return nil
	}
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for {
		a.reportExpired(log, time.Now())
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := a.read(); err != nil {
				log.Error("exceptions not read; the earlier ones stay in effect", "error", err)
			}
		}
	}
}

// find returns the exception that lets a program run, or nil; program is called only where
// there are any.
func (a *allowlistFile) find(program func() allowlist.Program) *allowlist.Exception {
	l := a.list.Load()
	if l == nil || len(*l) == 0 {
		return nil
	}
	return l.Find(program(), time.Now())
}

// reportExpired logs the exceptions that no longer count, once each time one expires.
func (a *allowlistFile) reportExpired(log *slog.Logger, now time.Time) {
	l := a.list.Load()
	if l == nil {
		return
	}
	expired := l.Expired(now)
	if len(expired) == a.expired {
		return
	}
	a.expired = len(expired)
	for _, e := range expired {
		log.Warn("exception has expired", "sha256", e.SHA256, "path", e.Path, "image", e.Image, "owner", e.Owner, "reason", e.Reason, "until", e.Until)
	}
}
