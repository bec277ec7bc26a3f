// Package bpf owns the kernel side of the sensor: the C programs, the layout of
// their events, the committed objects, and their loading. It knows nothing of
// containers or findings: it reports which executed files are not in the lower
// layers of the root overlay of the mount namespace that runs them.
//
// Needed: kernel BTF, a tracing program at sched_process_exec (Linux 5.8 with
// BTF; tested on 6.18), CAP_BPF and CAP_PERFMON (or root).
package bpf

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"
)

//go:generate go tool bpf2go -go-package bpf -target bpfel -type event -type event_flags -type counter exec exec.bpf.c -- -Iinclude -O2 -Wall -Werror

// Flags of an Event, as exec.bpf.c sets them.
const (
	OnOverlay   = uint32(execEventFlagsON_OVERLAY)   // the file's superblock is an overlay
	OnRoot      = uint32(execEventFlagsON_ROOT)      // it is the superblock of the process's root directory
	HasUpper    = uint32(execEventFlagsHAS_UPPER)    // the file has an upper inode
	HasLower    = uint32(execEventFlagsHAS_LOWER)    // the file has a lower inode
	RootOverlay = uint32(execEventFlagsROOT_OVERLAY) // the process's root directory is on an overlay
	UserMount   = uint32(execEventFlagsUSER_MOUNT)   // the overlay was mounted inside a user namespace
	Running     = uint32(execEventFlagsRUNNING)      // it ran before the sensor started
	Script      = uint32(execEventFlagsSCRIPT)       // the file is a script, and its interpreter runs
	ByName      = uint32(execEventFlagsBY_NAME)      // of a Script only Filename is known; all else is about the interpreter
	Local       = uint32(execEventFlagsLOCAL)        // its file system is of this machine, and answers
	Mapped      = uint32(execEventFlagsMAPPED)       // mapped to be executed by another program: a library, or a loader's argument
)

// Event is one candidate: a file that ran and is not of the quiet kind.
type Event struct {
	Boot       time.Duration // CLOCK_BOOTTIME at the exec; of a Running one the process's start
	Start      time.Duration // CLOCK_BOOTTIME at which the process began
	Cgroup     uint64        // id in the unified hierarchy
	Inode      uint64        // of the file as the process sees it
	UpperInode uint64        // of the upper layer's file; 0 without one
	Size       uint64        // bytes
	ChangeTime uint64        // ctime, nanoseconds since 1970
	Repeats    uint64        // runs of the same file not sent since the last event
	Dev        uint64        // device number in stat(2)'s encoding
	RootDev    uint64        // that of the process's root directory
	MountNS    uint32        // inode number
	PID, PPID  uint32        // in the host's PID namespace
	UID, GID   uint32
	Links      uint32 // 0: already unlinked
	Flags      uint32
	Comm       string
	SHA256     string   // of the file as it ran, taken in the kernel; "" where it could not be
	Filename   string   // what the caller of execve said; of a Mapped file the name of the program that maps it
	Args       []string // cut at 511 bytes in all
	Path       string   // within the file's filesystem, from that filesystem's root
}

// Is reports whether all of the given flags are set.
func (e Event) Is(flags uint32) bool { return e.Flags&flags == flags }

// Counters of the kernel side since it was loaded.
type Counters struct {
	Quiet    uint64 // files of the image that ran, in mount namespaces other than the host's
	Sent     uint64 // events sent
	Repeated uint64 // runs of a file already sent, inside the window
	Dropped  uint64 // events lost because the ring buffer was full
}

// Config of the kernel side.
type Config struct {
	// HostMountNS is the inode number of the host's mount namespace; programs
	// that run in it are not looked at. 0: that of process 1, else our own.
	HostMountNS uint32
	// Window in which a file that runs again in the same container is counted
	// and not sent. Default: one minute.
	Window time.Duration
	// HashMax is the size of the largest file that the kernel hashes before it
	// runs, in bytes: the process waits meanwhile, once a window. Default: 32 MiB.
	HashMax uint64
	// CoreOnly loads nothing but the core tier, as kernels without BPF LSM do.
	CoreOnly bool
}

// Tiers say what the kernel has taken. The core tier (tracepoint at exec, task
// iterator) is always there.
type Tiers struct {
	LSM    bool   // scripts as files, libraries, loaders' arguments
	IMA    bool   // the kernel hashes what runs before it runs
	WhyNot string // what the kernel said to the tiers that are missing
}

// Programs are loaded and attached until Close.
type Programs struct {
	Tiers Tiers

	objects coreObjects
	lsm     lsmPrograms
	links   []link.Link
	running *link.Iter
	reader  *ringbuf.Reader
}

type coreObjects struct {
	OnExec    *ebpf.Program `ebpf:"on_exec"`
	OnRunning *ebpf.Program `ebpf:"on_running"`
	Events    *ebpf.Map     `ebpf:"events"`
	Counters  *ebpf.Map     `ebpf:"counters"`
	Ignored   *ebpf.Map     `ebpf:"ignored"`
	Clock     *ebpf.Map     `ebpf:".data.clock"` // wall_offset
}

type lsmPrograms struct {
	OnCheck *ebpf.Program `ebpf:"on_check"`
	OnMap   *ebpf.Program `ebpf:"on_map"`
}

// Load loads the programs and attaches them: as many tiers as the kernel takes,
// found out by loading. An error says which part of the core tier the kernel
// refused; a kernel without BTF or overlay is an error, never silence.
func Load(c Config) (*Programs, error) {
	if c.Window == 0 {
		c.Window = time.Minute
	}
	if c.HashMax == 0 {
		c.HashMax = 32 << 20
	}
	if c.HostMountNS == 0 {
		ns, err := hostMountNS()
		if err != nil {
			return nil, err
		}
		c.HostMountNS = ns
	}
	off, err := overlayOffsets()
	if err != nil {
		return nil, err
	}
	// Kernels before 5.11 account maps against RLIMIT_MEMLOCK; a refusal shows at load.
	memlockErr := rlimit.RemoveMemlock()
	var refused []string
	for _, t := range []Tiers{{LSM: true, IMA: true}, {LSM: true}, {}} {
		if t.LSM && c.CoreOnly {
			continue
		}
		p, err := load(c, off, t)
		if err == nil {
			p.Tiers.WhyNot = strings.Join(refused, "; ")
			return p, nil
		}
		if !t.LSM {
			return nil, errors.Join(err, memlockErr)
		}
		refused = append(refused, fmt.Sprintf("%s: %s", t.name(), refusal(err)))
	}
	panic("unreachable: the core tier returns")
}

func (t Tiers) name() string {
	if t.IMA {
		return "LSM with IMA hashes"
	}
	return "LSM"
}

// refusal is what a kernel said, without the loader's guesses about the reason.
func refusal(err error) string {
	for _, errno := range []syscall.Errno{syscall.EPERM, syscall.EINVAL, syscall.ENOTSUP} {
		if errors.Is(err, errno) {
			return "this kernel refuses such programs: " + errno.Error()
		}
	}
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line[:min(len(line), 200)]
}

func load(c Config, off offsets, tiers Tiers) (p *Programs, err error) {
	spec, err := loadExec()
	if err != nil {
		return nil, fmt.Errorf("read the embedded BPF object: %w", err)
	}
	for name, value := range map[string]any{
		"host_mnt_ns": c.HostMountNS, "ovl_upper": off.upper, "ovl_lower": off.lower,
		"ovl_numlower": off.numLower, "window_ns": uint64(c.Window),
		"with_lsm": number(tiers.LSM), "with_ima": number(tiers.IMA), "ima_max": c.HashMax,
	} {
		if err := spec.Variables[name].Set(value); err != nil {
			return nil, fmt.Errorf("set BPF constant %q: %w", name, err)
		}
	}
	p = &Programs{Tiers: tiers}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close())
		}
	}()
	// Of a specification only what the struct names is loaded: what the kernel
	// cannot take must not be in it. Both halves share the maps, so they load as one.
	if tiers.LSM {
		all := struct {
			*coreObjects
			*lsmPrograms
		}{&p.objects, &p.lsm}
		err = spec.LoadAndAssign(&all, nil)
	} else {
		err = spec.LoadAndAssign(&p.objects, nil)
	}
	if err != nil {
		return p, fmt.Errorf("load BPF programs (root or CAP_BPF+CAP_PERFMON is needed): %w", err)
	}
	if err = p.SetClock(); err != nil {
		return p, err
	}
	if p.reader, err = ringbuf.NewReader(p.objects.Events); err != nil {
		return p, fmt.Errorf("open ring buffer: %w", err)
	}
	return p, p.attach()
}

func (p *Programs) attach() error {
	for _, program := range []*ebpf.Program{p.lsm.OnCheck, p.lsm.OnMap} { // before the exec that reads what they leave
		if program == nil {
			continue
		}
		l, err := link.AttachLSM(link.LSMOptions{Program: program})
		if err != nil {
			return fmt.Errorf("attach LSM program: %w", err)
		}
		p.links = append(p.links, l)
	}
	exec, err := link.AttachTracing(link.TracingOptions{Program: p.objects.OnExec})
	if err != nil {
		return fmt.Errorf("attach to sched_process_exec: %w", err)
	}
	p.links = append(p.links, exec)
	if p.running, err = link.AttachIter(link.IterOptions{Program: p.objects.OnRunning}); err != nil {
		return fmt.Errorf("attach task iterator: %w", err)
	}
	return nil
}

func number(b bool) uint32 {
	if b {
		return 1
	}
	return 0
}

// SetClock sets the time of the kernel side: a file's change time is of the wall clock,
// which can be set. Call it now and then.
func (p *Programs) SetClock() error {
	var wall, boot unix.Timespec
	if err := errors.Join(unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot), unix.ClockGettime(unix.CLOCK_REALTIME, &wall)); err != nil {
		return fmt.Errorf("read the clocks: %w", err)
	}
	if err := p.objects.Clock.Put(uint32(0), uint64(wall.Nano()-boot.Nano())); err != nil {
		return fmt.Errorf("set BPF variable %q: %w", "wall_offset", err)
	}
	return nil
}

// maxHierarchyRoot is the id of a hierarchy's root, in which all are under cgroup v1.
const maxHierarchyRoot = 1

// Ignore has the kernel side tell nothing, and hash nothing, of a cgroup of the host's own,
// but of what runs in it with its root on an overlay.
func (p *Programs) Ignore(cgroup uint64) error {
	if cgroup <= maxHierarchyRoot {
		return nil
	}
	if err := p.objects.Ignored.Put(cgroup, uint8(1)); err != nil {
		return fmt.Errorf("ignore cgroup %d: %w", cgroup, err)
	}
	return nil
}

// Running sends an event for each candidate that already runs, unless it was sent within
// the window. Call it after Load, what starts in between is seen by the exec program, and
// again when events were lost.
func (p *Programs) Running() error {
	r, err := p.running.Open()
	if err != nil {
		return fmt.Errorf("open task iterator: %w", err)
	}
	_, err = io.Copy(io.Discard, r)
	if err := errors.Join(err, r.Close()); err != nil {
		return fmt.Errorf("iterate over tasks: %w", err)
	}
	return nil
}

// Read waits for the next event. After CloseReader or Close it returns os.ErrClosed.
func (p *Programs) Read() (Event, error) {
	record, err := p.reader.Read()
	if err != nil {
		if errors.Is(err, ringbuf.ErrClosed) {
			return Event{}, os.ErrClosed
		}
		return Event{}, fmt.Errorf("read ring buffer: %w", err)
	}
	return decodeEvent(record.RawSample)
}

// CloseReader ends a Read that waits; the programs stay attached until Close.
func (p *Programs) CloseReader() error { return p.reader.Close() }

// Counters reads the kernel side's counters.
func (p *Programs) Counters() (Counters, error) {
	var out [execCounterCOUNTERS]uint64
	for i := range out {
		var perCPU []uint64
		if err := p.objects.Counters.Lookup(uint32(i), &perCPU); err != nil {
			return Counters{}, fmt.Errorf("read BPF counter %d: %w", i, err)
		}
		for _, n := range perCPU {
			out[i] += n
		}
	}
	return Counters{
		Quiet: out[execCounterQUIET], Sent: out[execCounterSENT],
		Repeated: out[execCounterREPEATED], Dropped: out[execCounterDROPPED],
	}, nil
}

// Cost of the program at exec since it was loaded: how often it ran and for how
// long in all. The kernel counts only while BPF statistics are enabled.
func (p *Programs) Cost() (runs uint64, took time.Duration, err error) {
	st, err := p.objects.OnExec.Stats()
	if err != nil {
		return 0, 0, fmt.Errorf("read BPF statistics: %w", err)
	}
	return st.RunCount, st.Runtime, nil
}

// Close detaches and unloads everything.
func (p *Programs) Close() error {
	var errs []error
	for _, l := range p.links {
		errs = append(errs, l.Close())
	}
	if p.running != nil {
		errs = append(errs, p.running.Close())
	}
	if p.reader != nil {
		errs = append(errs, p.reader.Close())
	}
	o, l := p.objects, p.lsm
	for _, program := range []*ebpf.Program{o.OnExec, o.OnRunning, l.OnCheck, l.OnMap} {
		errs = append(errs, program.Close())
	}
	for _, m := range []*ebpf.Map{o.Events, o.Counters, o.Ignored, o.Clock} {
		errs = append(errs, m.Close())
	}
	return errors.Join(errs...)
}

func decodeEvent(raw []byte) (Event, error) {
	var e execEvent
	if err := binary.Read(bytes.NewReader(raw), binary.LittleEndian, &e); err != nil {
		return Event{}, fmt.Errorf("decode event of %d bytes: %w", len(raw), err)
	}
	sum := ""
	if e.Flags&uint32(execEventFlagsHASHED) != 0 {
		sum = hex.EncodeToString(e.Sha256[:])
	}
	return Event{
		SHA256: sum,
		Boot:   time.Duration(e.BootNs), Start: time.Duration(e.StartNs),
		Cgroup: e.Cgroup, Inode: e.Ino, UpperInode: e.UpperIno, Size: e.Size, ChangeTime: e.CtimeNs, Repeats: e.Repeats,
		Dev: statDev(e.Dev), RootDev: statDev(e.RootDev), MountNS: e.MntNs,
		PID: e.Pid, PPID: e.Ppid, UID: e.Uid, GID: e.Gid, Links: e.Nlink, Flags: e.Flags,
		Comm: cString(e.Comm[:]), Filename: cString(e.Filename[:]),
		Args: arguments(e.Args[:min(int(e.ArgsLen), len(e.Args))]),
		Path: path(e.Path[:min(int(e.PathLen), len(e.Path))]),
	}, nil
}

func bytesOf(chars []int8) []byte {
	out := make([]byte, len(chars))
	for i, c := range chars {
		out[i] = byte(c)
	}
	return out
}

func cString(chars []int8) string {
	s, _, _ := bytes.Cut(bytesOf(chars), []byte{0})
	return string(s)
}

func arguments(chars []int8) []string {
	if len(chars) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(bytesOf(chars)), "\x00"), "\x00")
}

// path puts the names, which come leaf first, in order.
func path(chars []int8) string {
	names := strings.Split(strings.TrimSuffix(string(bytesOf(chars)), "\x00"), "\x00")
	var b strings.Builder
	for i := len(names) - 1; i >= 0; i-- {
		b.WriteString("/" + names[i])
	}
	return b.String()
}

// statDev turns the kernel's internal device number (major << 20 | minor) into stat(2)'s.
func statDev(dev uint32) uint64 {
	major, minor := uint64(dev>>20), uint64(dev&(1<<20-1))
	return (major&0xfff)<<8 | minor&0xff | (minor&^0xff)<<12
}

func hostMountNS() (uint32, error) {
	var errs []error
	// Inside a container without the host's PID namespace, or without ptrace
	// rights, process 1 cannot be read; our own namespace is then the best guess.
	for _, p := range []string{"/proc/1/ns/mnt", "/proc/self/ns/mnt"} {
		info, err := os.Stat(p)
		if err == nil {
			return uint32(info.Sys().(*syscall.Stat_t).Ino), nil
		}
		errs = append(errs, err)
	}
	return 0, fmt.Errorf("find the host's mount namespace: %w", errors.Join(errs...))
}

type offsets struct{ upper, lower, numLower int32 }

// overlayOffsets works out, from the kernel's BTF, where overlayfs keeps the
// upper and lower parts of an inode, counted from its struct inode.
func overlayOffsets() (offsets, error) {
	spec, err := btf.LoadKernelSpec()
	if err != nil {
		return offsets{}, fmt.Errorf("read kernel BTF (a kernel with CONFIG_DEBUG_INFO_BTF is needed): %w", err)
	}
	var inode *btf.Struct
	if err := spec.TypeByName("ovl_inode", &inode); err != nil {
		if spec, err = btf.LoadKernelModuleSpec("overlay"); err != nil {
			return offsets{}, fmt.Errorf("read BTF of overlayfs (is the overlay module loaded? try `modprobe overlay`): %w", err)
		}
		if err := spec.TypeByName("ovl_inode", &inode); err != nil {
			return offsets{}, fmt.Errorf("find struct ovl_inode: %w", err)
		}
	}
	at := map[string]int32{}
	for _, m := range inode.Members {
		at[m.Name] = int32(m.Offset.Bytes())
	}
	vfs, okVFS := at["vfs_inode"]
	upper, okUpper := at["__upperdentry"]
	if !okVFS || !okUpper {
		return offsets{}, errors.New("struct ovl_inode has no vfs_inode or no __upperdentry: this kernel's overlayfs is not known")
	}
	o := offsets{upper: upper - vfs, numLower: -1}
	if oe, ok := at["oe"]; ok { // Linux 6.5 and later: a pointer to ovl_entry, which counts its lower parts
		var entry *btf.Struct
		if err := spec.TypeByName("ovl_entry", &entry); err != nil {
			return offsets{}, fmt.Errorf("find struct ovl_entry: %w", err)
		}
		for _, m := range entry.Members {
			if m.Name == "__numlower" {
				o.lower, o.numLower = oe-vfs, int32(m.Offset.Bytes())
				return o, nil
			}
		}
		return offsets{}, errors.New("struct ovl_entry has no __numlower: this kernel's overlayfs is not known")
	}
	if lp, ok := at["lowerpath"]; ok { // 5.19 to 6.4: struct ovl_path { layer; dentry }
		var p *btf.Struct
		if err := spec.TypeByName("ovl_path", &p); err != nil {
			return offsets{}, fmt.Errorf("find struct ovl_path: %w", err)
		}
		for _, m := range p.Members {
			if m.Name == "dentry" {
				o.lower = lp - vfs + int32(m.Offset.Bytes())
				return o, nil
			}
		}
	}
	if l, ok := at["lower"]; ok { // before: a pointer to the lower inode
		o.lower = l - vfs
		return o, nil
	}
	return offsets{}, errors.New("struct ovl_inode tells nothing of the lower layer: this kernel's overlayfs is not known")
}
