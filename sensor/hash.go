package sensor

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
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
	h, err := within(&s.patience, c.Cgroup, hashWithin, func() hashed {
		sum, why, changed := s.hash(c)
		return hashed{sum, why, changed}
	}, func(hashed) {})
	if err != nil {
		return "", err.Error(), false
	}
	return h.sum, h.why, h.changed
}

// hash returns the SHA-256 of the held file, or why there is none. changed reports that
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
// keep a volume from being unmounted. No file is read, written or closed while the
// lock is held: one whose file system does not answer keeps nobody waiting.
type heldFiles struct {
	dir    string // where copies are
	mu     sync.Mutex
	order  []string        // oldest first
	files  map[string]held // by SHA-256
	copied int64           // bytes
}

type held struct {
	*os.File
	since     time.Time
	container string
	copied    int64
}

// Bounds of what is held, and of a copy. One container cannot push out what another has
// run.
const (
	maxHeld      = 64
	maxHeldOfOne = 16
	holdFor      = time.Hour
	maxCopied    = 64 << 20
	maxCopiedAll = 512 << 20
)

// has reports whether a program is held.
func (h *heldFiles) has(sum string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.files[sum].File != nil
}

// keep holds a file, or a copy of some bytes, which is then not the caller's to close.
func (h *heldFiles) keep(sum, container string, f *os.File, copied int64) {
	if f == nil {
		return
	}
	h.mu.Lock()
	if h.files == nil {
		h.files = map[string]held{}
	}
	var out []*os.File
	if h.files[sum].File == nil {
		h.files[sum] = held{f, time.Now(), container, copied}
		h.order = append(h.order, sum)
		h.copied += copied
		out = h.tooMany(container)
	} else if copied > 0 { // another has been quicker
		out = append(out, f)
	}
	h.mu.Unlock()
	closeAll(out)
}

// tooMany forgets what is over the bounds, and returns the files. The lock is held.
func (h *heldFiles) tooMany(container string) (out []*os.File) {
	of := map[string]int{}
	for _, sum := range h.order {
		of[h.files[sum].container]++
	}
	if of[container] > maxHeldOfOne {
		out = append(out, h.forget(slices.IndexFunc(h.order, func(sum string) bool { return h.files[sum].container == container })))
	}
	for len(h.order) > maxHeld {
		out = append(out, h.forget(0))
	}
	for h.copied > maxCopiedAll {
		out = append(out, h.forget(slices.IndexFunc(h.order, func(sum string) bool { return h.files[sum].copied > 0 })))
	}
	return out
}

func (h *heldFiles) forget(i int) *os.File {
	sum := h.order[i]
	f := h.files[sum]
	h.copied -= f.copied
	delete(h.files, sum)
	h.order = slices.Delete(h.order, i, i+1)
	return f.File
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// copyOf is an unlinked copy in the sensor's own directory, or nil.
func (h *heldFiles) copyOf(f *os.File) *os.File {
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

// expire lets go of what has been held long enough.
func (h *heldFiles) expire() {
	h.mu.Lock()
	var out []*os.File
	for len(h.order) > 0 && time.Since(h.files[h.order[0]].since) > holdFor {
		out = append(out, h.forget(0))
	}
	h.mu.Unlock()
	closeAll(out)
}

// release closes f unless it is kept. Where the file system need not answer, it is not
// waited for.
func (h *heldFiles) release(f *os.File, hangs bool) {
	if f == nil {
		return
	}
	h.mu.Lock()
	kept := false
	for _, other := range h.files {
		kept = kept || other.File == f
	}
	h.mu.Unlock()
	switch {
	case kept:
	case hangs:
		go f.Close()
	default:
		f.Close()
	}
}

// reader of a held file, or nil. It reads at its own offset, and an open one
// stays readable while it is held.
func (h *heldFiles) reader(sum string) io.Reader {
	h.mu.Lock()
	f := h.files[sum]
	h.mu.Unlock()
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
	h.files, h.order, h.copied = nil, nil, 0
}
