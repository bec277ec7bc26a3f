package sensor

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/contraband-dev/contraband/bpf"
	"github.com/contraband-dev/contraband/internal/sensorapi"
)

// home is where a program ran.
type home struct {
	sensorapi.Container
	Pod        sensorapi.Pod `json:"pod,omitzero"`
	CgroupPath string        `json:"cgroupPath"` // within its hierarchy
	CgroupID   uint64        `json:"cgroupId"`   // in the unified hierarchy
	// Detected is when something was last detected in it.
	Detected time.Time `json:"detected,omitzero"`
}

var (
	errNotContainer = errors.New("not a container")
	errNotKnown     = errors.New("no such container here")

	hexContainer = regexp.MustCompile(`(?:^|[-/])([0-9a-f]{64})(?:\.scope)?$`)
	podInPath    = regexp.MustCompile(`pod([0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12})`)
)

// runtime is a container runtime that can describe its containers.
type containerRuntime interface {
	name() string
	// describe returns errNotKnown when the runtime has no such container.
	describe(ctx context.Context, cgroupPath, id string) (home, error)
	close() error
}

// attributor finds the container of an event, by its cgroup. What it found is
// kept, so that the runtime is asked once a container.
type attributor struct {
	runtimes []containerRuntime
	mu       sync.Mutex
	known    map[string]answered            // by cgroup path and id
	created  map[string]home                // by container ID: known since it was created
	silent   map[containerRuntime]time.Time // until when runtimes are not asked: they have not answered
}

type answered struct {
	home
	at  time.Time
	not bool // a container
}

// silence is how long a runtime that does not answer is not asked again: what it would
// say is missing meanwhile, and what others say is not late.
const (
	silence      = 30 * time.Second
	describeTime = 2 * time.Second
)

const (
	maxKnown = 4096
	askAgain = 10 * time.Second // about a container that no runtime knew
)

func newAttributor(cfg Config) *attributor {
	a := &attributor{known: map[string]answered{}, created: map[string]home{}, silent: map[containerRuntime]time.Time{}}
	for _, address := range cfg.CRI {
		a.runtimes = append(a.runtimes, &criRuntime{address: address})
	}
	for _, address := range cfg.Containerd {
		a.runtimes = append(a.runtimes, &containerd{address: address})
	}
	for _, address := range cfg.Docker {
		a.runtimes = append(a.runtimes, newDockerAPI(address))
	}
	a.runtimes = append(a.runtimes, podmanStorage{"/var/lib/containers/storage/overlay-containers/containers.json"})
	return a
}

func (a *attributor) close() error {
	var errs []error
	for _, r := range a.runtimes {
		errs = append(errs, r.close())
	}
	return errors.Join(errs...)
}

// container returns errNotContainer for what runs in none, and another error
// for what does but cannot be named at all.
func (a *attributor) container(ctx context.Context, e bpf.Event, where cgroupOf) (home, error) {
	if where.err != nil {
		return home{}, where.err
	}
	key := fmt.Sprint(e.Cgroup, where.path, e.Is(bpf.RootOverlay))
	a.mu.Lock()
	known, ok := a.known[key]
	a.mu.Unlock()
	if ok && (known.Missing == "" && !known.not || time.Since(known.at) < askAgain) {
		if known.not {
			return home{}, errNotContainer
		}
		return known.home, nil
	}
	h, err := a.ask(ctx, where.path, e)
	not := errors.Is(err, errNotContainer)
	if err != nil && !not {
		return home{}, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.known) >= maxKnown {
		clear(a.known)
	}
	a.known[key] = answered{h, time.Now(), not}
	return h, err
}

// describe asks one runtime, unless it has not answered just before.
func (a *attributor) describe(ctx context.Context, r containerRuntime, cgroup, id string) (home, error) {
	a.mu.Lock()
	silent := time.Now().Before(a.silent[r])
	a.mu.Unlock()
	if silent {
		return home{}, errors.New("it does not answer")
	}
	ctx, cancel := context.WithTimeout(ctx, describeTime)
	defer cancel()
	h, err := r.describe(ctx, cgroup, id)
	if err != nil && ctx.Err() != nil {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.silent[r] = time.Now().Add(silence)
	}
	return h, err
}

func (a *attributor) ask(ctx context.Context, cgroup string, e bpf.Event) (home, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	cgroup, id, hex := containerCgroup(cgroup)
	cgroupID := idOfCgroup(cgroup, e)
	a.mu.Lock()
	h, ok := a.created[id]
	a.mu.Unlock()
	h.CgroupPath, h.CgroupID = cgroup, cgroupID
	if ok && h.Runtime == criName {
		return h, nil
	}
	var troubles []error
	// A runtime may not yet know what it is just starting: asked again, shortly.
	for try := 0; ; try++ {
		troubles = nil
		for _, r := range a.runtimes {
			h, err := a.describe(ctx, r, cgroup, id)
			if err == nil {
				h.ID, h.Runtime, h.CgroupPath, h.CgroupID = id, r.name(), cgroup, cgroupID
				h.bound()
				return h, nil
			}
			if !errors.Is(err, errNotKnown) {
				troubles = append(troubles, fmt.Errorf("%s: %w", r.name(), err))
			}
		}
		if ok { // it is gone: what was known of it when it was created. (The CRI knows it a moment later than containerd.)
			return h, nil
		}
		if try == 2 || !hex && len(troubles) == 0 {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if !hex && (!e.Is(bpf.RootOverlay) || len(troubles) == 0 && !sensorapi.IsContainerID(id)) {
		return home{}, errNotContainer
	}
	if !hex && strings.HasSuffix(cgroup, ".service") {
		return home{}, errNotContainer // a systemd unit with a root image of its own
	}
	if !sensorapi.IsContainerID(id) {
		return home{}, fmt.Errorf("cgroup %q names no container", cgroup)
	}
	h = home{Container: sensorapi.Container{ID: id}, CgroupPath: cgroup, CgroupID: cgroupID}
	if m := podInPath.FindStringSubmatch(cgroup); m != nil {
		h.Pod.UID = strings.ReplaceAll(m[1], "_", "-")
	}
	h.Missing = "no container runtime on this machine knows it"
	if len(troubles) > 0 {
		h.Missing = cut(errors.Join(troubles...).Error())
	}
	return h, nil
}

// containerCgroup returns the container's own cgroup, its id, and whether it is
// of the runtimes' 64-digit form. The outermost such part counts: what lies below
// is the container's to make.
func containerCgroup(cgroup string) (own, id string, hex bool) {
	at := ""
	for _, part := range strings.Split(strings.TrimPrefix(cgroup, "/"), "/") {
		at += "/" + part
		if m := hexContainer.FindStringSubmatch(part); m != nil {
			return at, m[1], true
		}
	}
	return cgroup, path.Base(cgroup), false
}

// idOfCgroup is the event's own where the process was in the container's cgroup
// itself, and that of the ancestor where it was below.
func idOfCgroup(own string, e bpf.Event) uint64 {
	if at, err := cgroupOfID(e.Cgroup); err == nil && at == own {
		return e.Cgroup
	}
	root, err := unifiedRoot()
	if err != nil {
		return e.Cgroup // cgroup v1 alone: the id plays no part
	}
	info, err := os.Stat(root + own)
	if err != nil {
		return e.Cgroup // gone: so is what could be acted on
	}
	return info.Sys().(*syscall.Stat_t).Ino
}

// isRootless recognises a container that a user runs below his own service manager:
// its root overlay is mounted in his user namespace, as an attacker's would be.
func isRootless(cgroup string) bool { return strings.HasPrefix(cgroup, "/user.slice/user-") }

func unknownContainer(e bpf.Event, why error) home {
	return home{Container: sensorapi.Container{ID: fmt.Sprintf("cgroup-%d", e.Cgroup), Missing: cut(why.Error())}, CgroupID: e.Cgroup}
}

// bound keeps what a container says of itself within the limits of a Detection.
func (h *home) bound() {
	h.Name, h.Image, h.ImageDigest = cut(h.Name), cut(h.Image), cut(h.ImageDigest)
	h.Labels, h.Pod.Labels = boundLabels(h.Labels), boundLabels(h.Pod.Labels)
}

func boundLabels(labels map[string]string) map[string]string {
	out := map[string]string{}
	for k, v := range labels {
		if len(out) < sensorapi.MaxLabels {
			out[cut(k)] = cut(v)
		}
	}
	return out
}

// cgroupOf is where a process runs, or why that is not to be found.
type cgroupOf struct {
	path string
	err  error
}

func findCgroup(e bpf.Event) cgroupOf {
	path, err := cgroupPath(e)
	return cgroupOf{path, err}
}

// cgroupPath is the container's cgroup: by the id that the kernel reported at the
// exec, unless that names no container and the process's own does (cgroup v1, beside the
// unified hierarchy or alone). A process that has ended shows "/" there, which says
// nothing of where it ran.
func cgroupPath(e bpf.Event) (string, error) {
	p, byID := cgroupOfID(e.Cgroup)
	told := byID == nil && p != "" && p != "/"
	if told && namesContainer(p) {
		return p, nil
	}
	q, byProcess := cgroupOfProcess(e.PID)
	seen := byProcess == nil && q != "" && q != "/" && startedAt(e.PID, e.Start)
	switch {
	case seen && namesContainer(q):
		return q, nil
	case told:
		return p, nil
	case seen:
		return q, nil
	}
	if !e.Is(bpf.RootOverlay) {
		return "", errNotContainer // a private mount namespace on the host's own root
	}
	return "", fmt.Errorf("the cgroup %d of process %d is not to be found: %w", e.Cgroup, e.PID, errors.Join(byID, byProcess))
}

func namesContainer(cgroup string) bool {
	_, _, hex := containerCgroup(cgroup)
	return hex
}

// startedAt reports whether a process is the one that began then: numbers are used again.
func startedAt(pid uint32, start time.Duration) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	// The name, in brackets, may hold anything; the start is the twentieth field behind it, in ticks.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 20 {
		return false
	}
	ticks, err := strconv.ParseInt(fields[19], 10, 64)
	const tick = time.Second / 100 // USER_HZ, on every architecture that Go has
	off := time.Duration(ticks)*tick - start
	return err == nil && off > -2*tick && off < 2*tick
}

// cgroupOfProcess prefers the hierarchy that names a container, then the unified one.
func cgroupOfProcess(pid uint32) (string, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return "", err
	}
	defer f.Close()
	unified, v1 := "", ""
	for lines := bufio.NewScanner(f); lines.Scan(); {
		parts := strings.SplitN(lines.Text(), ":", 3)
		switch {
		case len(parts) != 3:
		case parts[0] == "0":
			unified = parts[2]
		case strings.Contains(parts[1], "freezer") || v1 == "":
			v1 = parts[2]
		}
	}
	if namesContainer(v1) && !namesContainer(unified) {
		return v1, nil
	}
	if unified != "" && unified != "/" || v1 == "" {
		return unified, nil
	}
	return v1, nil
}

var unifiedRoot = sync.OnceValues(unifiedMount)

// cgroupOfID opens a cgroup by its id, which is its kernfs node's.
func cgroupOfID(id uint64) (string, error) {
	root, err := unifiedRoot()
	if err != nil {
		return "", err
	}
	dir, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(dir)
	const fileIDKernfs = 0xfe // FILEID_KERNFS in linux/exportfs.h
	fd, err := unix.OpenByHandleAt(dir, unix.NewFileHandle(fileIDKernfs, binary.LittleEndian.AppendUint64(nil, id)), unix.O_PATH|unix.O_CLOEXEC)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	p, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return "", err
	}
	return strings.TrimPrefix(p, root), nil
}
