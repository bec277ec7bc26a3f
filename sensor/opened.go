package sensor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/contraband-dev/contraband/bpf"
)

// openedFiles is the notification tier: fanotify reports every file that is
// opened to be executed on a container's overlay, with a descriptor that holds
// the file, so that a program which unlinks itself and ends at once is hashed
// all the same. Nothing waits for it: FAN_CLASS_NOTIF only notifies.
//
// A program of the image is reported once and then ignored, until it is modified.
type openedFiles struct {
	fd     int // -1: the tier is off
	whyNot string
	log    *slog.Logger
	mounts *os.File // /proc/1/mountinfo, which says when it changes

	mu     sync.Mutex
	marked map[uint64]overlay // by the overlay's device
	recent map[uint64]*pinned // by inode: that of the upper file, which is unique in its file system
	order  []uint64
	lost   uint64 // events that the kernel could not hand over
}

type pinned struct {
	file *os.File
	at   time.Time
}

// Bounds of what is held open, and for how long after the exec.
const (
	maxPinned = 1024
	pinnedFor = 10 * time.Second
)

func watchOpened(log *slog.Logger) *openedFiles {
	o := &openedFiles{fd: -1, log: log, marked: map[uint64]overlay{}, recent: map[uint64]*pinned{}}
	fd, err := unix.FanotifyInit(unix.FAN_CLASS_NOTIF|unix.FAN_CLOEXEC|unix.FAN_NONBLOCK, unix.O_RDONLY|unix.O_LARGEFILE|unix.O_CLOEXEC)
	if err != nil {
		o.whyNot = fmt.Sprintf("fanotify (CAP_SYS_ADMIN is needed): %v", err)
		return o
	}
	if o.mounts, err = os.Open("/proc/1/mountinfo"); err != nil {
		o.whyNot = fmt.Sprintf("the host's mounts (hostPID is needed): %v", err)
		unix.Close(fd)
		return o
	}
	o.fd = fd
	o.markOverlays()
	return o
}

func (o *openedFiles) on() bool { return o.fd >= 0 }

func (o *openedFiles) close() error {
	if !o.on() {
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, p := range o.recent {
		p.file.Close()
	}
	o.recent, o.order = nil, nil
	return errors.Join(unix.Close(o.fd), o.mounts.Close())
}

// run marks overlays as they are mounted and reads what is opened, until stop is closed.
func (o *openedFiles) run(stop <-chan struct{}) error {
	if !o.on() {
		return nil
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("eventfd: %w", err)
	}
	defer unix.Close(wake)
	go func() {
		<-stop
		unix.Write(wake, binary.NativeEndian.AppendUint64(nil, 1))
	}()
	fds := []unix.PollFd{{Fd: int32(wake), Events: unix.POLLIN}, {Fd: int32(o.fd), Events: unix.POLLIN}, {Fd: int32(o.mounts.Fd()), Events: unix.POLLPRI}}
	for {
		if _, err := unix.Poll(fds, int(pinnedFor/time.Millisecond)); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("poll fanotify: %w", err)
		}
		if fds[0].Revents != 0 {
			return nil
		}
		if fds[2].Revents != 0 {
			o.markOverlays()
		}
		o.mu.Lock()
		o.drain()
		o.expire()
		o.mu.Unlock()
	}
}

// markOverlays marks every overlay that the host has mounted; runtimes mount a
// container's there before they start it.
func (o *openedFiles) markOverlays() {
	if _, err := o.mounts.Seek(0, 0); err != nil {
		return
	}
	mounts, err := mountinfo.GetMountsFromReader(o.mounts, func(m *mountinfo.Info) (skip, stop bool) { return m.FSType != "overlay", false })
	if err != nil {
		o.log.Warn("the host's mounts cannot be read: new containers' files may go unhashed", "error", err)
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	now := map[uint64]overlay{}
	for _, m := range mounts {
		dev := unix.Mkdev(uint32(m.Major), uint32(m.Minor))
		if known, ok := o.marked[dev]; ok {
			now[dev] = known
			continue
		}
		if err := o.mark(m.Mountpoint, dev); err != nil {
			o.log.Warn("an overlay cannot be watched: programs that end at once may go unhashed there", "mount", m.Mountpoint, "error", err)
			now[dev] = overlay{} // said once
			continue
		}
		now[dev] = parseOverlayOptions(m.VFSOptions, m.Mountpoint).below(hostRoot())
	}
	o.marked = now
}

// mark watches the file system with the device number dev, which the host has
// mounted at a path. Where process 1's root may not be entered, the path is ours
// if the same file system is there.
func (o *openedFiles) mark(path string, dev uint64) error {
	const add = unix.FAN_MARK_ADD | unix.FAN_MARK_FILESYSTEM
	var errs []error
	for _, p := range []string{filepath.Join("/proc/1/root", path), path} {
		var st unix.Stat_t
		err := unix.Stat(p, &st)
		if err == nil && st.Dev != dev {
			err = fmt.Errorf("%q is another file system here", p)
		}
		if err == nil {
			err = unix.FanotifyMark(o.fd, add, unix.FAN_OPEN_EXEC, unix.AT_FDCWD, p)
		}
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// drain reads what is there, without waiting. The caller holds mu.
func (o *openedFiles) drain() {
	buf := make([]byte, 16<<10)
	for {
		n, err := unix.Read(o.fd, buf)
		if n <= 0 || err != nil {
			return
		}
		for rest := buf[:n]; len(rest) >= int(unsafe.Sizeof(unix.FanotifyEventMetadata{})); {
			e := (*unix.FanotifyEventMetadata)(unsafe.Pointer(&rest[0]))
			if e.Event_len < uint32(e.Metadata_len) || int(e.Event_len) > len(rest) {
				return
			}
			o.take(e)
			rest = rest[e.Event_len:]
		}
	}
}

func (o *openedFiles) take(e *unix.FanotifyEventMetadata) {
	if e.Mask&unix.FAN_Q_OVERFLOW != 0 || e.Fd < 0 {
		o.lost++
		return
	}
	f := os.NewFile(uintptr(e.Fd), "opened")
	var st unix.Stat_t
	if err := unix.Fstat(int(e.Fd), &st); err != nil {
		f.Close()
		return
	}
	id := st.Ino
	if layers, ok := o.marked[st.Dev]; ok && o.ofImage(int(e.Fd), layers) {
		f.Close()
		return
	}
	if old := o.recent[id]; old != nil {
		old.file.Close()
		old.file, old.at = f, time.Now()
		return
	}
	o.recent[id] = &pinned{f, time.Now()}
	o.order = append(o.order, id)
	for len(o.order) > maxPinned {
		o.forget()
	}
}

// ofImage reports whether an open file is in no upper layer, and then asks the
// kernel to be silent about it until it is modified.
func (o *openedFiles) ofImage(fd int, layers overlay) bool {
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil || layers.upper == "" || strings.HasSuffix(path, " (deleted)") {
		return false
	}
	if _, err := os.Lstat(filepath.Join(layers.upper, path)); !errors.Is(err, fs.ErrNotExist) {
		return false
	}
	if g, err := layers.openLower(path); err != nil {
		return false
	} else {
		g.Close()
	}
	const ignore = unix.FAN_MARK_ADD | unix.FAN_MARK_IGNORED_MASK
	const evictable = 0x200 // FAN_MARK_EVICTABLE, Linux 5.19: the mark does not hold the inode in memory
	at := fmt.Sprintf("/proc/self/fd/%d", fd)
	if err := unix.FanotifyMark(o.fd, ignore|evictable, unix.FAN_OPEN_EXEC, unix.AT_FDCWD, at); errors.Is(err, unix.EINVAL) {
		_ = unix.FanotifyMark(o.fd, ignore, unix.FAN_OPEN_EXEC, unix.AT_FDCWD, at) // without it the file is only reported again
	}
	return true
}

func (o *openedFiles) expire() {
	for len(o.order) > 0 && time.Since(o.recent[o.order[0]].at) > pinnedFor {
		o.forget()
	}
}

func (o *openedFiles) forget() {
	id := o.order[0]
	o.order = o.order[1:]
	o.recent[id].file.Close()
	delete(o.recent, id)
}

// find returns the file of an event, if fanotify has reported it; the answered
// file is the caller's to close.
func (o *openedFiles) find(e bpf.Event) *os.File {
	if !o.on() {
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.drain() // the open came before the exec: what is wanted is here or in the queue
	p := o.recent[e.Inode]
	if p == nil || !e.Is(bpf.OnOverlay) {
		return nil
	}
	if info, err := p.file.Stat(); err != nil || info.Size() != int64(e.Size) {
		return nil
	}
	return duplicate(p.file)
}

// findScript returns the file of a script that is known by the caller's word for
// it, if fanotify has reported one by that name in the same container.
func (o *openedFiles) findScript(e bpf.Event) *os.File {
	if !o.on() {
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.drain()
	name := "/" + strings.TrimLeft(filepath.Clean(e.Filename), "./")
	for i := len(o.order) - 1; i >= 0; i-- { // the latest first
		f := o.recent[o.order[i]].file
		path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
		info, statErr := f.Stat()
		if err != nil || statErr != nil || info.Sys().(*syscall.Stat_t).Dev != e.RootDev {
			continue
		}
		if strings.HasSuffix(strings.TrimSuffix(path, " (deleted)"), name) {
			return duplicate(f)
		}
	}
	return nil
}

func duplicate(f *os.File) *os.File {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	return os.NewFile(uintptr(fd), f.Name())
}

func (o *openedFiles) lostEvents() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.lost
}
