package sensor

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/contraband-dev/contraband/bpf"
)

// hashWithin is hash, and does not wait for a file system that does not answer.
func (s *Sensor) hashWithin(c candidate) (sum, why string, changed bool) {
	if c.file == nil || c.SHA256 != "" || !mayHang(c.Event) {
		return s.hash(c)
	}
	type hashed struct {
		sum, why string
		changed  bool
	}
	h, ok := within(s.patience, hashWithin, func() hashed {
		sum, why, changed := s.hash(c)
		return hashed{sum, why, changed}
	}, func(hashed) {})
	if !ok {
		return "", errNoAnswer.Error(), false
	}
	return h.sum, h.why, h.changed
}

// hash takes the SHA-256 of the held file, or says why not. changed tells that
// the file's inode was touched since it ran; when it was not merely unlinked the
// hash is not of what ran, and none is given.
func (s *Sensor) hash(c candidate) (sum, why string, changed bool) {
	if c.SHA256 != "" {
		return c.SHA256, "", false // taken in the kernel, before it ran
	}
	if c.file == nil {
		return "", c.why, false
	}
	before, err := c.file.Stat()
	if err != nil {
		return "", fmt.Sprintf("stat: %v", err), false
	}
	if before.Size() > s.cfg.HashMax {
		return "", fmt.Sprintf("the file has %d bytes, at most %d are hashed", before.Size(), s.cfg.HashMax), false
	}
	if sum, err = sumOf(io.NewSectionReader(c.file, 0, s.cfg.HashMax)); err != nil {
		return "", fmt.Sprintf("read: %v", err), false
	}
	after, err := c.file.Stat()
	if err != nil {
		return "", fmt.Sprintf("stat: %v", err), false
	}
	if after.Size() != before.Size() || after.ModTime() != before.ModTime() {
		return "", "the file changed while it was hashed", true
	}
	changed = uint64(changeTime(after)) != c.ChangeTime && !c.Is(bpf.Running)
	unlinked := uint64(after.Sys().(*syscall.Stat_t).Nlink) < uint64(c.Links) // 32 bits wide on arm64
	if changed && !unlinked || after.Size() != int64(c.Size) {
		return "", "the file was changed after it ran", true
	}
	return sum, "", changed
}

func changeTime(i os.FileInfo) int64 { return i.Sys().(*syscall.Stat_t).Ctim.Nano() }

// commandLine is that of the event, or of the process when it was already running.
func commandLine(e bpf.Event) []string {
	if len(e.Args) > 0 {
		return e.Args
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", e.PID))
	if err != nil || len(b) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
}

// heldFiles keeps the most recent detected files of containers' own overlays
// open, so that evidence can be handed over even when the process has ended and
// unlinked its file. Files of other mounts are copied instead: an open one would
// keep a volume from being unmounted.
type heldFiles struct {
	dir   string // where copies are
	mu    sync.Mutex
	order []string
	files map[string]held // by SHA-256
}

type held struct {
	*os.File
	since time.Time
}

// Bounds of what is held, and of a copy.
const (
	maxHeld   = 64
	holdFor   = time.Hour
	maxCopied = 64 << 20
)

func (h *heldFiles) keep(sum string, f *os.File, onRoot bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.files == nil {
		h.files = map[string]held{}
	}
	if f == nil || h.files[sum].File != nil {
		return
	}
	if !onRoot {
		if f = h.copied(f); f == nil {
			return
		}
	}
	h.files[sum] = held{f, time.Now()}
	h.order = append(h.order, sum)
	if len(h.order) > maxHeld {
		h.forgetOldest()
	}
}

// copied is an unlinked copy in the sensor's own directory, or nil.
func (h *heldFiles) copied(f *os.File) *os.File {
	out, err := os.CreateTemp(h.dir, "held-")
	if err != nil {
		return nil
	}
	n, err := io.Copy(out, io.NewSectionReader(f, 0, maxCopied+1))
	if err := errors.Join(err, os.Remove(out.Name())); err != nil || n > maxCopied {
		out.Close()
		return nil
	}
	return out
}

func (h *heldFiles) forgetOldest() {
	h.files[h.order[0]].Close()
	delete(h.files, h.order[0])
	h.order = h.order[1:]
}

// expire lets go of what has been held long enough.
func (h *heldFiles) expire() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(h.order) > 0 && time.Since(h.files[h.order[0]].since) > holdFor {
		h.forgetOldest()
	}
}

// release closes f unless it is kept.
func (h *heldFiles) release(f *os.File) {
	if f == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, kept := range h.files {
		if kept.File == f {
			return
		}
	}
	f.Close()
}

// reader of a held file, or nil. It reads at its own offset, and an open one
// stays readable while it is held.
func (h *heldFiles) reader(sum string) io.Reader {
	h.mu.Lock()
	defer h.mu.Unlock()
	f := h.files[sum]
	if f.File == nil {
		return nil
	}
	info, err := f.Stat()
	if err != nil {
		return nil
	}
	return io.NewSectionReader(f, 0, info.Size())
}

func (h *heldFiles) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, f := range h.files {
		f.Close()
	}
	h.files, h.order = nil, nil
}
