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
	a.state = state
	return nil
}

// watch reads the file again when it changes. A bad one is told, and what was
// read before stays in force.
func (a *allowlistFile) watch(ctx context.Context, log *slog.Logger) error {
	if a.file == "" {
		return nil
	}
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if err := a.read(); err != nil {
				log.Error("the exceptions stay as they were", "error", err)
			}
		}
	}
}

// find answers the exception that lets a program through, or nil; path is asked for only
// where there are any.
func (a *allowlistFile) find(digest, sum string, path func() string) *allowlist.Exception {
	l := a.list.Load()
	if l == nil {
		return nil
	}
	return l.Find(digest, sum, path(), time.Now())
}
