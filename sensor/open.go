package sensor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/contraband-dev/contraband/bpf"
)

// errImageScript is returned for a script that is the image's own.
var errImageScript = errors.New("a script of the image")

// errUnresolved is returned for a script of which nothing can be found any more.
var errUnresolved = errors.New("the script is gone, and so is the process that ran it")

// openOf opens an event's file through its process, and makes sure that it is
// still the file of the event: a process may have executed something else since.
func openOf(e bpf.Event) (*os.File, string) {
	f, err := throughProcess(e)
	if err != nil {
		return nil, "the process had ended before its file could be opened"
	}
	if !isFileOf(f, e) {
		f.Close()
		return nil, "the process had executed another file before this one could be opened"
	}
	return f, ""
}

func throughProcess(e bpf.Event) (*os.File, error) {
	if !e.Is(bpf.Script) && !e.Is(bpf.Mapped) {
		return os.Open(fmt.Sprintf("/proc/%d/exe", e.PID))
	}
	return openSeenBy(e.PID, e)
}

// openSeenBy opens an event's file where a process sees it. The kernel's path has no
// links: one that is there by now leads elsewhere, perhaps to where nothing answers. So
// does a mount in the way of a file of the root.
func openSeenBy(pid uint32, e bpf.Event) (*os.File, error) {
	resolve := uint64(unix.RESOLVE_NO_SYMLINKS)
	if e.Is(bpf.OnRoot) {
		resolve |= unix.RESOLVE_NO_XDEV
	}
	return openInside(pid, pathSeenBy(pid, e), resolve)
}

// openInside opens a path as a process sees it. Links, where they are followed, are so
// within the process's root: they are the container's.
func openInside(pid uint32, path string, resolve uint64) (*os.File, error) {
	root, err := unix.Open(fmt.Sprintf("/proc/%d/root", pid), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(root)
	how := unix.OpenHow{Flags: unix.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC | unix.O_NOCTTY, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | resolve}
	fd, err := unix.Openat2(root, path, &how)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), path)
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		f.Close()
		return nil, errOtherKind
	}
	return f, nil
}

// pathSeenBy is an event's path as a process sees it: the kernel reports the path
// within the file's file system, and the process's mounts tell where that is.
func pathSeenBy(pid uint32, e bpf.Event) string {
	if e.Is(bpf.OnRoot) || e.Is(bpf.ByName) { // of a named script the path is the container's already
		return e.Path
	}
	if path := mountedPath(pid, e); path != "" {
		return path
	}
	return e.Path
}

// pathInContainer is an event's path where the container itself, its first process, sees
// it; "" where it sees no such file. A process may have mounted anything anywhere in a
// namespace of its own: what an exception lets through by its path must not be his choice.
func (s *Sensor) pathInContainer(h home, e bpf.Event) string {
	if e.Is(bpf.OnRoot) {
		if e.Is(bpf.UserMount) {
			return ""
		}
		return e.Path
	}
	dir, err := s.freezer.dirOf(h)
	if err != nil {
		return ""
	}
	first := 0
	for _, text := range processesOf(dir) {
		if pid, err := strconv.Atoi(text); err == nil && (first == 0 || pid < first) {
			first = pid
		}
	}
	if first == 0 {
		return ""
	}
	return mountedPath(uint32(first), e)
}

// mountedPath is where a process has a file of a mount; "" where it has not.
func mountedPath(pid uint32, e bpf.Event) string {
	f, err := os.Open(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		return ""
	}
	defer f.Close()
	major, minor := deviceOf(e.Dev)
	mounts, err := mountinfo.GetMountsFromReader(f, func(m *mountinfo.Info) (skip, stop bool) {
		below := m.Root == "/" || e.Path == m.Root || strings.HasPrefix(e.Path, m.Root+"/")
		return m.Major != major || m.Minor != minor || !below, false
	})
	if err != nil || len(mounts) == 0 {
		return ""
	}
	m := mounts[len(mounts)-1] // the latest lies on top
	return filepath.Join(m.Mountpoint, strings.TrimPrefix(e.Path, strings.TrimSuffix(m.Root, "/")))
}

func deviceOf(dev uint64) (major, minor int) {
	return int(dev >> 8 & 0xfff), int(dev&0xff | dev>>12&^0xff)
}

// openNamedScript opens the script of which the kernel reported only the name that
// the caller gave: through the process, or as fanotify reported it.
func (s *Sensor) openNamedScript(e *bpf.Event) *os.File {
	e.Path = insidePath(*e)
	if e.Path != "" {
		if f, err := openInside(e.PID, e.Path, 0); err == nil {
			return f
		}
	}
	return s.opened.Load().findScript(*e)
}

// completeScript makes of an event about a named script one about its file. f is
// nil when the process was gone already: then the layers are looked through. A
// script that lies in the image's layers alone is errImageScript.
func completeScript(e *bpf.Event, f *os.File, layers overlay) (*os.File, error) {
	if f == nil {
		if e.Path == "" { // of a relative name nobody can say any more where it led
			return nil, errUnresolved
		}
		var err error
		if f, err = openBeneath(layers.upper, e.Path); layers.upper == "" || err != nil {
			if g, err := layers.openLower(e.Path); err == nil {
				g.Close()
				return nil, errImageScript
			}
			return nil, errUnresolved
		}
		e.UpperInode = inodeOf(f)
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	st := info.Sys().(*syscall.Stat_t)
	e.Inode, e.Size, e.ChangeTime, e.Links = st.Ino, uint64(info.Size()), uint64(changeTime(info)), uint32(st.Nlink)
	e.Flags &^= bpf.HasUpper | bpf.HasLower | bpf.OnRoot | bpf.OnOverlay | bpf.UserMount
	if p, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd())); err == nil && e.UpperInode == 0 {
		e.Path = strings.TrimSuffix(p, " (deleted)")
	}
	if e.UpperInode != 0 || st.Dev == e.RootDev {
		e.Flags |= bpf.OnRoot | bpf.OnOverlay
	}
	e.Dev = st.Dev
	if e.Is(bpf.OnRoot) && layers.upper != "" && !e.Is(bpf.HasUpper) {
		if _, err := os.Lstat(filepath.Join(layers.upper, e.Path)); errors.Is(err, fs.ErrNotExist) && e.Links > 0 {
			f.Close()
			return nil, errImageScript
		}
		e.Flags |= bpf.HasUpper
		if g, err := layers.openLower(e.Path); err == nil {
			g.Close()
			e.Flags |= bpf.HasLower
		}
	}
	return f, nil
}

// insidePath is the caller's word for a script, made absolute; "" where that cannot be
// done any more.
func insidePath(e bpf.Event) string {
	if filepath.IsAbs(e.Filename) {
		return filepath.Clean(e.Filename)
	}
	cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", e.PID))
	if err != nil {
		return ""
	}
	return filepath.Join(cwd, e.Filename)
}

func inodeOf(f *os.File) uint64 {
	info, err := f.Stat()
	if err != nil {
		return 0
	}
	return inode(info)
}

func inode(info os.FileInfo) uint64 { return info.Sys().(*syscall.Stat_t).Ino }

// openInUpper is the last chance: the path in the container's upper layer, as
// long as the same inode is still there.
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

// openInVolume finds a file of a volume that the process, which has ended, can show no
// more: by its parent, or on the host, where the kubelet mounts what pods have.
func openInVolume(e bpf.Event, why string) (*os.File, string) {
	host := uint32(1)
	if hostRoot() == "" {
		host = uint32(os.Getpid())
	}
	for _, pid := range []uint32{e.PPID, host} {
		f, err := openSeenBy(pid, e)
		if err != nil {
			continue
		}
		if info, err := f.Stat(); err == nil && inode(info) == e.Inode && info.Sys().(*syscall.Stat_t).Dev == e.Dev {
			return f, ""
		}
		f.Close()
	}
	return nil, why
}

func isFileOf(f *os.File, e bpf.Event) bool {
	ino := inodeOf(f)
	return ino != 0 && (ino == e.Inode || ino == e.UpperInode)
}

// visiblePath returns the path as the container sees it, as far as the event has it.
func visiblePath(e bpf.Event) string {
	if path := pathSeenBy(e.PID, e); path != e.Path || e.Is(bpf.OnRoot) && path != "" {
		return path
	}
	byFD := strings.HasPrefix(e.Filename, "/dev/fd/") || strings.HasPrefix(e.Filename, "/proc/")
	switch {
	case !e.Is(bpf.Mapped) && strings.HasPrefix(e.Filename, "/") && !byFD:
		return e.Filename // the caller's word is better than the path within another mount
	case e.Path == "":
		return "/" + e.Comm
	}
	return e.Path
}

// scriptKey names one state of a script in one container.
func scriptKey(e bpf.Event) string {
	return fmt.Sprint(e.Cgroup, e.MountNS, e.Dev, e.Inode, e.ChangeTime)
}

// recently remembers what was reported within the window. The zero value is ready.
type recently struct {
	mu   sync.Mutex
	when map[string]time.Time
}

const scriptWindow = time.Minute

func (r *recently) told(key string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if at, ok := r.when[key]; ok && now.Sub(at) < scriptWindow {
		return true
	}
	if r.when == nil || len(r.when) >= maxKnown {
		r.when = map[string]time.Time{} // at worst something is reported twice
	}
	r.when[key] = now
	return false
}
