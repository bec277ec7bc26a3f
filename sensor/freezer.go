package sensor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

var errGone = errors.New("the container is gone")

// freezer stops and continues all processes of a cgroup: cgroup.freeze in the
// unified hierarchy, which hybrid systems have too, else cgroup v1's freezer.
type freezer struct{ unified, v1 string }

func findFreezer() (freezer, error) {
	var f freezer
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return m.FSType != "cgroup" && m.FSType != "cgroup2", false
	})
	if err != nil {
		return f, fmt.Errorf("find cgroup mounts: %w", err)
	}
	for _, m := range mounts {
		switch {
		case m.FSType == "cgroup2" && f.unified == "":
			f.unified = m.Mountpoint
		case m.FSType == "cgroup" && strings.Contains(","+m.VFSOptions+",", ",freezer,"):
			f.v1 = m.Mountpoint
		}
	}
	if f.unified == "" && f.v1 == "" {
		return f, errors.New("no cgroup hierarchy that can freeze is mounted: mount cgroup2 at /sys/fs/cgroup")
	}
	return f, nil
}

func unifiedMount() (string, error) {
	f, err := findFreezer()
	if err == nil && f.unified == "" {
		err = errors.New("no unified cgroup hierarchy is mounted")
	}
	return f.unified, err
}

// set freezes or thaws and returns once the kernel says that it is done.
func (f freezer) set(h home, frozen bool, deadline time.Time) (processes int, err error) {
	if dir, err := f.dirOf(h); err != nil {
		return 0, err
	} else if _, err := os.Stat(filepath.Join(dir, "cgroup.freeze")); err == nil {
		return f.setUnified(dir, frozen, deadline)
	}
	if f.v1 == "" {
		return 0, fmt.Errorf("cgroup %q cannot be frozen on this kernel", h.CgroupPath)
	}
	return f.setV1(filepath.Join(f.v1, h.CgroupPath), frozen, deadline)
}

// dirOf is the container's directory, if it is still that container's: the
// inode of a cgroup's directory is its id.
func (f freezer) dirOf(h home) (string, error) {
	if h.CgroupPath == "" || h.CgroupPath == "/" {
		return "", fmt.Errorf("the cgroup of container %q is not known", h.ID)
	}
	if f.unified == "" {
		return filepath.Join(f.v1, h.CgroupPath), nil
	}
	dir := filepath.Join(f.unified, h.CgroupPath)
	info, err := os.Stat(dir)
	if errors.Is(err, os.ErrNotExist) {
		if f.v1 != "" { // beside a unified hierarchy, which does not have it
			if v1 := filepath.Join(f.v1, h.CgroupPath); isDirectory(v1) {
				return v1, nil
			}
		}
		return "", errGone
	}
	if err != nil {
		return "", err
	}
	if info.Sys().(*syscall.Stat_t).Ino != h.CgroupID {
		return "", errGone // another container took the place
	}
	return dir, nil
}

func isDirectory(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

func (f freezer) setUnified(dir string, frozen bool, deadline time.Time) (int, error) {
	want, word := "frozen 0", "0"
	if frozen {
		want, word = "frozen 1", "1"
	}
	events, err := os.Open(filepath.Join(dir, "cgroup.events"))
	if err != nil {
		return 0, goneOr(err)
	}
	defer events.Close()
	if err := os.WriteFile(filepath.Join(dir, "cgroup.freeze"), []byte(word), 0); err != nil {
		return 0, goneOr(err)
	}
	for {
		buf := make([]byte, 256)
		n, err := events.ReadAt(buf, 0)
		if n == 0 && err != nil {
			return 0, goneOr(err)
		}
		if strings.Contains(string(buf[:n]), want) {
			return countProcesses(dir), nil
		}
		left := time.Until(deadline)
		if left <= 0 {
			return 0, fmt.Errorf("cgroup %q does not become %q in time: a process of it is stuck in the kernel", dir, want)
		}
		// cgroup.events notifies of a change by POLLPRI.
		fds := []unix.PollFd{{Fd: int32(events.Fd()), Events: unix.POLLPRI}}
		if _, err := unix.Poll(fds, int(min(left, 100*time.Millisecond).Milliseconds())+1); err != nil && !errors.Is(err, unix.EINTR) {
			return 0, err
		}
	}
}

// setV1 has to poll: the v1 freezer notifies nobody.
func (f freezer) setV1(dir string, frozen bool, deadline time.Time) (int, error) {
	want := "THAWED"
	if frozen {
		want = "FROZEN"
	}
	for {
		if err := os.WriteFile(filepath.Join(dir, "freezer.state"), []byte(want), 0); err != nil {
			return 0, goneOr(err)
		}
		state, err := os.ReadFile(filepath.Join(dir, "freezer.state"))
		if err != nil {
			return 0, goneOr(err)
		}
		if strings.TrimSpace(string(state)) == want {
			return countProcesses(dir), nil
		}
		if time.Now().After(deadline) {
			return 0, fmt.Errorf("cgroup %q does not become %q in time", dir, want)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func goneOr(err error) error {
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return errGone
	}
	return err
}

// maxCgroups is how many cgroups a container may have made below its own and still have
// all of its processes found.
const maxCgroups = 1024

// processesOf are those of a cgroup and of those below it: who runs systemd or containers
// of its own keeps none in its own.
func processesOf(dir string) (pids []string) {
	seen := 0
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil // what goes meanwhile has no processes
		}
		if seen++; seen > maxCgroups {
			return fs.SkipAll
		}
		if b, err := os.ReadFile(filepath.Join(path, "cgroup.procs")); err == nil {
			pids = append(pids, strings.Fields(string(b))...)
		}
		return nil
	})
	return pids
}

func countProcesses(dir string) int { return len(processesOf(dir)) }
