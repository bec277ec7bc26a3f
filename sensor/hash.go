package sensor

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"

	"github.com/contraband-dev/contraband/bpf"
)

// openExecutable opens what the process runs, and makes sure that it is still
// the file of the event: a process may have executed something else since.
func openExecutable(e bpf.Event) (*os.File, string) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/exe", e.PID))
	if err != nil {
		return nil, "the process had ended before its file could be opened"
	}
	if !isFileOf(f, e) {
		f.Close()
		return nil, "the process had executed another file before this one could be opened"
	}
	return f, ""
}

// openInUpper is the second chance: the path in the container's upper layer,
// as long as the same inode is still there.
func openInUpper(layers overlay, e bpf.Event, why string) (*os.File, string) {
	if layers.upper == "" || e.UpperInode == 0 {
		return nil, why
	}
	f, err := openBeneath(layers.upper, e.Path)
	if err != nil {
		return nil, why + ", and its path is gone from the upper layer"
	}
	if !isFileOf(f, e) {
		f.Close()
		return nil, why + ", and its path now holds another file"
	}
	return f, ""
}

func isFileOf(f *os.File, e bpf.Event) bool {
	info, err := f.Stat()
	if err != nil {
		return false
	}
	ino := info.Sys().(*syscall.Stat_t).Ino
	return ino == e.Inode || ino == e.UpperInode && ino != 0
}

// hash takes the SHA-256 of the held file, or says why not. changed tells that
// the file's inode was touched since it ran; when it was not merely unlinked the
// hash is not of what ran, and none is given.
func (s *Sensor) hash(c candidate) (sum, why string, changed bool) {
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
	unlinked := after.Sys().(*syscall.Stat_t).Nlink < uint64(c.Links)
	if changed && !unlinked || after.Size() != int64(c.Size) {
		return "", "the file was changed after it ran", true
	}
	return sum, "", changed
}

func changeTime(i os.FileInfo) int64 { return i.Sys().(*syscall.Stat_t).Ctim.Nano() }

// visiblePath is the path as the container sees it, as far as the event tells:
// on another mount than the root, the caller's word is better than the path
// within that mount's file system.
func visiblePath(e bpf.Event) string {
	byFD := strings.HasPrefix(e.Filename, "/dev/fd/") || strings.HasPrefix(e.Filename, "/proc/")
	if !e.Is(bpf.OnRoot) && strings.HasPrefix(e.Filename, "/") && !byFD {
		return e.Filename
	}
	if e.Path == "" {
		return "/" + e.Comm
	}
	return e.Path
}

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

// heldFiles keeps the most recent detected files open, so that evidence can be
// handed over even when the process has ended and unlinked its file.
type heldFiles struct {
	mu    sync.Mutex
	order []string
	files map[string]*os.File // by SHA-256
}

const maxHeld = 64

func (h *heldFiles) keep(sum string, f *os.File) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.files == nil {
		h.files = map[string]*os.File{}
	}
	if f == nil || h.files[sum] != nil {
		return
	}
	h.files[sum] = f
	h.order = append(h.order, sum)
	if len(h.order) > maxHeld {
		h.files[h.order[0]].Close()
		delete(h.files, h.order[0])
		h.order = h.order[1:]
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
		if kept == f {
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
	if f == nil {
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
