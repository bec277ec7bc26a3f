// Package sensor is one node's watch: it loads the kernel side, decides for
// each candidate whether it is of the container's image, takes the SHA-256 of
// what ran, attributes it to a container, spools it on disk and publishes it;
// and it freezes, thaws and hands over evidence on order. It never calls
// Security Command Center, VirusTotal or Slack, and never decides what to do
// about a finding.
package sensor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/contraband-dev/contraband/bpf"
	"github.com/contraband-dev/contraband/internal/canary"
	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/internal/redact"
	"github.com/contraband-dev/contraband/internal/sensorapi"
	"github.com/contraband-dev/contraband/sensor/allowlist"
)

// DockerSockets are where Docker and Podman serve their API.
var DockerSockets = []string{"/var/run/docker.sock", "/run/podman/podman.sock"}

// CRISockets are where containerd and CRI-O serve the CRI.
var CRISockets = []string{"/run/containerd/containerd.sock", "/run/crio/crio.sock"}

// Config of a Sensor.
type Config struct {
	// Node is the name of this machine as findings shall show it. Required.
	Node string
	// StateDir is a directory of the sensor's own, kept over restarts: the spool
	// of what is not yet published, the orders, what is frozen. Required.
	StateDir string
	// Publish hands a detection to the project, durably, before it returns nil.
	// It is called again, for ever and with growing pauses, after an error. Required.
	Publish func(ctx context.Context, detection []byte, p sensorapi.Priority) error
	// CRI are addresses of CRI sockets; those that do not exist are skipped. They
	// know a pod's labels, which containerd's own API does not. Default: CRISockets.
	CRI []string
	// Containerd are addresses of containerd sockets; those that do not exist are
	// skipped. Default: /run/containerd/containerd.sock.
	Containerd []string
	// Docker are addresses of Docker or Podman API sockets, skipped likewise.
	// Default: /var/run/docker.sock and /run/podman/podman.sock.
	Docker []string
	// SpoolMax is how many unpublished detections are kept on disk. Beyond it new
	// ones are refused, counted, and the next one has their number. Default 10,000.
	SpoolMax int
	// HashMax is the largest file that is hashed, in bytes. Default 1 GiB.
	HashMax int64
	// KernelHashMax is the largest file that the kernel hashes before it runs, in bytes:
	// the process waits meanwhile, once a minute for a file in a container. Larger ones
	// are hashed afterwards, if they are still there. Default 32 MiB.
	KernelHashMax int64
	// Tier says which tiers are loaded. Default: DefaultTiers.
	Tier Tier
	// Exceptions is a file of programs that may run although they are not of their
	// image (see sensor/allowlist). It is read again when it changes. "": none.
	Exceptions string
	// PodNetwork says that the sensor is in a pod's network and not in its node's: a
	// connection of its own towards a pod then says something of network policies.
	PodNetwork bool
	// Log takes the sensor's messages. Default: slog.Default().
	Log *slog.Logger
}

func (c Config) withDefaults() (Config, error) {
	if c.Node == "" || c.StateDir == "" || c.Publish == nil {
		return c, errors.New("sensor: Node, StateDir and Publish are required")
	}
	if c.CRI == nil {
		c.CRI = CRISockets
	}
	if c.Containerd == nil {
		c.Containerd = []string{"/run/containerd/containerd.sock"}
	}
	if c.Docker == nil {
		c.Docker = DockerSockets
	}
	if c.SpoolMax == 0 {
		c.SpoolMax = 10_000
	}
	if c.HashMax == 0 {
		c.HashMax = 1 << 30
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	return c, nil
}

// Sensor watches one machine from New until Close.
type Sensor struct {
	cfg      Config
	kernel   *bpf.Programs
	spool    *spool
	who      *attributor
	freezer  freezer
	freezing locks
	held     heldFiles
	opened   atomic.Pointer[openedFiles] // replaced where the kernel does not hash after all
	noIMA    atomic.Bool                 // its results were wrong
	scripts  recently
	test     selfTest
	allowed  *allowlistFile
	patience patience
	reads    atomic.Uint64 // events read from the ring buffer

	unattributed atomic.Uint64 // since the last detection that had it
	unresolved   atomic.Uint64 // likewise
	droppedMu    sync.Mutex
	droppedTold  uint64        // of the kernel's total
	lostTold     uint64        // of fanotify's
	down         time.Duration // for which nobody watched before this start, if it is not yet reported
	stats        Stats
	statsMu      sync.Mutex
}

// Stats count the outcomes of the candidates since the start.
type Stats struct {
	Kernel       bpf.Counters `json:"kernel"`
	Image        uint64       `json:"image"`        // bytes equal to the image's own file: silent
	NotContainer uint64       `json:"notContainer"` // private mount namespace, but no container
	Detected     uint64       `json:"detected"`
	Unhashed     uint64       `json:"unhashed"`   // of those detected
	Unresolved   uint64       `json:"unresolved"` // scripts, known by name alone, of which nothing could be found any more
	SelfTests    uint64       `json:"selfTests"`  // programs of another sensor's self-test: counted, not reported
	Allowed      uint64       `json:"allowed"`    // by an exception: counted, not reported
	Unattributed uint64       `json:"unattributed"`
	Unread       uint64       `json:"unread"` // sent by the kernel, not yet read by us
	Read         uint64       `json:"read"`
	Lost         uint64       `json:"lost"`    // fanotify events that could not be taken: hashes may be missing
	Spooled      int          `json:"spooled"` // waiting to be published
	Overflowed   uint64       `json:"overflowed"`
}

// New loads the kernel side and opens the state; nothing is read before Run.
func New(cfg Config) (*Sensor, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.StateDir, 0o700); err != nil {
		return nil, fmt.Errorf("make the sensor's state directory: %w", err)
	}
	s := &Sensor{cfg: cfg, who: newAttributor(cfg), held: heldFiles{dir: cfg.StateDir}}
	s.test.events = make(chan bpf.Event, 16)
	if s.allowed, err = openAllowlist(cfg.Exceptions); err != nil {
		return nil, err
	}
	if s.freezer, err = findFreezer(); err != nil {
		return nil, err
	}
	if s.spool, err = openSpool(filepath.Join(cfg.StateDir, "sensor.db"), cfg.SpoolMax); err != nil {
		return nil, err
	}
	if err := s.tellDamage(); err != nil {
		return nil, errors.Join(err, s.spool.close())
	}
	if s.down, err = s.spool.downUntil(time.Now()); err != nil {
		return nil, errors.Join(err, s.spool.close())
	}
	if s.kernel, err = bpf.Load(bpf.Config{CoreOnly: cfg.Tier == CoreTier, HashMax: uint64(cfg.KernelHashMax)}); err != nil {
		return nil, errors.Join(err, s.spool.close())
	}
	switch {
	case cfg.Tier == CoreTier:
		s.opened.Store(&openedFiles{fd: -1, whyNot: "fanotify: not asked for"})
	case cfg.Tier == DefaultTiers && s.kernel.Tiers.IMA:
		s.opened.Store(&openedFiles{fd: -1, whyNot: "fanotify: not asked for, the kernel hashes what runs"})
	default:
		s.opened.Store(watchOpened(cfg.Log))
	}
	return s, nil
}

// tellDamage reports that the spool was damaged and set aside: once, as it is whole then.
func (s *Sensor) tellDamage() error {
	damage := s.spool.damage
	if damage == nil {
		return nil
	}
	s.cfg.Log.Error("the spool was damaged", "error", damage)
	d := sensorapi.Detection{Time: time.Now(), Node: cut(s.cfg.Node), Health: cut(sensorapi.RecordDamaged + ", and was set aside")}
	_, err := s.spool.add(d, home{}, nil)
	return err
}

// Close releases everything; Run must have returned.
func (s *Sensor) Close() error {
	s.held.close()
	return errors.Join(s.kernel.Close(), s.opened.Load().close(), s.who.close(), s.spool.close())
}

// Bounds of what is in hand at once. The workers mostly wait, for disks and
// runtimes, and the spool writes what several of them bring in one go.
const (
	workers   = 8
	slow      = 4 // for files whose file systems need not answer: they keep the others from none
	maxQueued = 2048
)

// Run watches until ctx ends.
func (s *Sensor) Run(ctx context.Context) error {
	// The queue holds a file descriptor per entry: it is bounded, and a full one
	// makes the ring buffer wait, whose own losses are counted in the kernel.
	candidates, patient := make(chan candidate, maxQueued), make(chan candidate)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(candidates)
		defer close(patient)
		return s.read(candidates, patient)
	})
	g.Go(func() error {
		<-ctx.Done()
		return s.kernel.CloseReader()
	})
	g.Go(func() error { return s.opened.Load().run(ctx.Done()) })
	for i := range workers + slow {
		queue := candidates
		if i >= workers {
			queue = patient
		}
		g.Go(func() error {
			for c := range queue {
				s.examine(ctx, c)
			}
			return nil
		})
	}
	g.Go(func() error { return s.publish(ctx) })
	g.Go(func() error { return s.expireFreezes(ctx) })
	g.Go(func() error { return s.who.watchCreated(ctx, s.cfg.Log) })
	g.Go(func() error { return s.allowed.watch(ctx, s.cfg.Log) })
	if err := s.kernel.Running(); err != nil {
		stop()
		return errors.Join(err, g.Wait())
	}
	g.Go(func() error { return s.lookAgain(ctx) })
	g.Go(func() error { return s.runSelfTest(ctx) })
	s.cfg.Log.Info("watching for programs that are not of their image", "node", s.cfg.Node, "coverage", s.Coverage().String())
	return g.Wait()
}

// lookAgain looks at what runs whenever events were lost: what is still there is found, and
// what was reported is not reported twice. It also puts on disk that somebody watches.
func (s *Sensor) lookAgain(ctx context.Context) error {
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	var dropped uint64
	for {
		if err := s.spool.alive(time.Now()); err != nil {
			s.cfg.Log.Warn("that the sensor watches cannot be put on disk", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := s.kernel.SetClock(); err != nil {
			s.cfg.Log.Warn("the kernel side does not know the time", "error", err)
		}
		k, err := s.kernel.Counters()
		if err != nil || k.Dropped == dropped {
			continue
		}
		dropped = k.Dropped
		if err := s.kernel.Running(); err != nil {
			s.cfg.Log.Warn("what runs cannot be looked at again", "error", err)
		}
	}
}

// candidate is a kernel event with the file it is about, held open at once so
// that a process which ends or unlinks itself can still be hashed.
type candidate struct {
	bpf.Event
	file   *os.File // nil: why says the reason
	why    string
	where  cgroupOf // found at once: a short container's cgroup is soon removed
	seen   time.Time
	ranAt  time.Time
	forked time.Time
}

func (s *Sensor) read(candidates, patient chan<- candidate) error {
	var elsewhere errgroup.Group
	elsewhere.SetLimit(2 * maxWaiting)
	defer elsewhere.Wait()
	for {
		ev, err := s.kernel.Read()
		if errors.Is(err, os.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		s.reads.Add(1)
		if s.test.takes(ev) {
			continue
		}
		c := candidate{Event: ev, seen: time.Now(), ranAt: wallTime(ev.Boot), forked: wallTime(ev.Start)}
		// At once: the process may end at any moment.
		if !mayHang(ev) {
			c = s.open(c)
			c.where = findCgroup(ev)
			candidates <- c
			continue
		}
		c.where = findCgroup(ev)
		if !elsewhere.TryGo(func() error {
			opened, err := within(&s.patience, ev.Cgroup, openWithin, func() candidate { return s.open(c) }, func(late candidate) { s.held.release(late.file, true) })
			if err != nil {
				opened = c.unopened(err)
			}
			if opened.file == nil || onDevice(opened.file, ev.RootDev) { // there is nothing to wait for any more
				candidates <- opened
			} else {
				patient <- opened
			}
			return nil
		}) { // the reader itself waits for nobody
			candidates <- c.unopened(errCrowded)
		}
	}
}

// unopened is a candidate whose file was not waited for. A script that is known by its name
// alone is reported by it: what the kernel knows is its interpreter.
func (c candidate) unopened(why error) candidate {
	c.why = why.Error()
	if c.Is(bpf.ByName) {
		c.Flags &^= bpf.ByName | bpf.HasUpper | bpf.HasLower | bpf.OnRoot | bpf.OnOverlay | bpf.UserMount | bpf.Local
		c.Path, c.Inode, c.UpperInode, c.Size = c.Filename, 0, 0, 0
	}
	return c
}

// onDevice asks nobody: a file system that does not answer is not asked.
func onDevice(f *os.File, dev uint64) bool {
	var st unix.Statx_t
	err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_INO, &st)
	return err == nil && unix.Mkdev(st.Dev_major, st.Dev_minor) == dev
}

// justChanged reports that other bytes may have had the same change time: it is kept by ticks.
func justChanged(c candidate) bool {
	const fresh = 20 * time.Millisecond
	age := c.ranAt.Sub(time.Unix(0, int64(c.ChangeTime)))
	return age > -fresh && age < fresh
}

func (s *Sensor) open(c candidate) candidate {
	if c.Is(bpf.ByName) {
		c.file = s.openNamedScript(&c.Event)
	} else if c.file, c.why = openOf(c.Event); c.file == nil {
		c.file = s.opened.Load().find(c.Event)
	}
	return c
}

func (s *Sensor) openInVolume(c *candidate) {
	e, why := c.Event, c.why
	opened, err := within(&s.patience, c.Cgroup, openWithin, func() candidate {
		f, why := openInVolume(e, why)
		return candidate{file: f, why: why}
	}, func(late candidate) { s.held.release(late.file, true) })
	if err == nil {
		c.file, c.why = opened.file, opened.why
	}
}

func (s *Sensor) examine(ctx context.Context, c candidate) {
	defer func() { s.held.release(c.file, mayHang(c.Event)) }()
	layers := findOverlay(c.RootDev)
	if c.Is(bpf.ByName) {
		var err error
		if c.file, err = completeScript(&c.Event, c.file, layers); err != nil {
			s.count(func(st *Stats) {
				if errors.Is(err, errUnresolved) {
					st.Unresolved++
				} else {
					st.Image++
				}
			})
			if errors.Is(err, errUnresolved) {
				s.unresolved.Add(1)
			}
			return
		}
		if !justChanged(c) && s.scripts.told(scriptKey(c.Event)) {
			return
		}
	}
	if c.file == nil {
		c.file, c.why = openInUpper(layers, c.Event, c.why)
	}
	if c.file == nil && c.Is(bpf.Local) && !c.Is(bpf.OnRoot) {
		s.openInVolume(&c)
	}
	sum, why, changed := s.hashWithin(c) // first: what ran may be written over at any moment
	hashed := time.Now()
	// A stop does not make a container nameless: what is in the queue is named too.
	home, err := s.who.container(context.WithoutCancel(ctx), c.Event, c.where)
	if errors.Is(err, errNotContainer) {
		s.count(func(st *Stats) { st.NotContainer++ })
		if !c.Is(bpf.RootOverlay) { // a service of the host's: the kernel need not tell of it, nor hash
			if err := s.kernel.Ignore(c.Cgroup); err != nil {
				s.cfg.Log.Debug("a cgroup cannot be ignored", "cgroup", c.Cgroup, "error", err)
			}
		}
		return
	}
	if err != nil {
		home = unknownContainer(c.Event, err)
	}
	if home.Missing != "" {
		s.unattributed.Add(1)
		s.count(func(st *Stats) { st.Unattributed++ })
	}
	attributed := time.Now()
	origin := judge(c.Event, layers, sum, changed)
	if origin.image || origin.route == sensorapi.Nested && c.Is(bpf.OnRoot) && isRootless(home.CgroupPath) {
		s.count(func(st *Stats) { st.Image++ })
		return
	}
	if !changed && canary.IsSelfTest(sum) {
		s.count(func(st *Stats) { st.SelfTests++ })
		return
	}
	if e := s.allowed.find(func() allowlist.Program { return s.programOf(home, c.Event, sum) }); e != nil {
		s.count(func(st *Stats) { st.Allowed++ })
		s.cfg.Log.Debug("allowed by an exception", "path", visiblePath(c.Event), "container", home.ID, "owner", e.Owner, "reason", e.Reason)
		return
	}
	d := sensorapi.Detection{
		Time: c.ranAt, Route: origin.route, SameAs: cut(origin.sameAs), Node: cut(s.cfg.Node), Repeats: c.Repeats,
		Preceding: c.Is(bpf.Running),
		Process: sensorapi.Process{
			Path: cut(visiblePath(c.Event)), Args: boundArgs(redact.Args(commandLine(c.Event))), Filename: cut(c.Filename),
			Comm: c.Comm, PID: c.PID, PPID: c.PPID, UID: c.UID, GID: c.GID, Started: c.forked,
			Ancestors: ancestors(c.PPID),
		},
		File:      sensorapi.File{SHA256: sum, Size: int64(c.Size), Unhashed: cut(why)},
		Container: home.Container, Pod: home.Pod,
		Timing: sensorapi.Timing{Seen: c.seen, Hashed: hashed, Attributed: attributed},
	}
	s.record(bounded(d), home, c)
}

// programOf describes what ran to the allowlist.
func (s *Sensor) programOf(h home, e bpf.Event, sum string) allowlist.Program {
	f := finding.Finding{
		Pod:       finding.Pod{Namespace: h.Pod.Namespace, Name: h.Pod.Name, Labels: h.Pod.Labels},
		Container: finding.Container{ID: h.ID, Name: h.Name, Image: h.Image, Labels: h.Labels},
		Node:      s.cfg.Node,
	}
	p := allowlist.Program{SHA256: sum, Path: s.pathInContainer(h, e), Image: h.Image, Digest: h.ImageDigest,
		Namespace: h.Pod.Namespace, Workload: f.Workload().Name, Labels: h.Pod.Labels}
	if p.Labels == nil {
		p.Labels = h.Labels
	}
	if above := ancestors(e.PPID); len(above) > 0 {
		p.Parent = above[0].Path
	}
	return p
}

// bounded makes sure that Raise will take it: what makes a detection too large is
// left out, and the rest is reported.
func bounded(d sensorapi.Detection) sensorapi.Detection {
	for _, lighten := range []func(){
		func() {}, func() { d.Process.Ancestors = nil }, func() { d.Container.Labels, d.Pod.Labels = nil, nil }, func() { d.Process.Args = []string{"[too long]"} },
	} {
		lighten()
		if body, err := json.Marshal(d); err == nil {
			if _, err = sensorapi.ParseDetection(body); err == nil {
				return d
			}
		}
	}
	return d
}

func (s *Sensor) record(d sensorapi.Detection, home home, c candidate) {
	key := fileKey(home.ID, c.Event)
	d.Missed = s.missed()
	added, err := s.spool.add(d, home, key)
	if !added {
		s.missedAgain(d.Missed) // the next one has it
	}
	switch {
	case errors.Is(err, errSpoolFull):
		s.cfg.Log.Error("detection lost: the spool is full; is publishing failing?", "path", d.Process.Path, "container", d.Container.ID)
	case err != nil:
		s.spool.overflow.Add(1)
		s.spool.overflowed.Add(1)
		s.cfg.Log.Error("detection lost: the spool cannot be written", "error", err, "path", d.Process.Path, "container", d.Container.ID)
	case added:
		if d.File.SHA256 != "" {
			s.hold(d, c)
		}
		s.count(func(st *Stats) {
			st.Detected++
			if d.File.SHA256 == "" {
				st.Unhashed++
			}
		})
		s.cfg.Log.Info("added binary executed", "path", d.Process.Path, "route", d.Route, "container", d.Container.ID, "sha256", d.File.SHA256)
	}
}

// hold keeps what ran for the evidence.
func (s *Sensor) hold(d sensorapi.Detection, c candidate) {
	switch {
	case c.file == nil || s.held.has(d.File.SHA256):
	case c.Is(bpf.OnRoot) && !c.Is(bpf.UserMount):
		s.held.keep(d.File.SHA256, d.Container.ID, c.file, 0)
	default:
		f, size := c.file, max(int64(c.Size), 1)
		if !mayHang(c.Event) {
			s.held.keep(d.File.SHA256, d.Container.ID, s.held.copyOf(f), size)
			return
		}
		keep := func(copied *os.File) { s.held.keep(d.File.SHA256, d.Container.ID, copied, size) }
		if copied, err := within(&s.patience, c.Cgroup, hashWithin, func() *os.File { return s.held.copyOf(f) }, keep); err == nil {
			keep(copied)
		}
	}
}

// missed returns the gaps that no detection has reported yet.
func (s *Sensor) missed() sensorapi.Missed {
	m := sensorapi.Missed{Unattributed: s.unattributed.Swap(0), Scripts: s.unresolved.Swap(0), Overflowed: s.spool.takeOverflow()}
	s.droppedMu.Lock()
	defer s.droppedMu.Unlock()
	m.Down, s.down = uint64(s.down.Seconds()), 0
	if lost := s.opened.Load().lostEvents(); lost > s.lostTold {
		m.Unheld = lost - s.lostTold
		s.lostTold = lost
	}
	if k, err := s.kernel.Counters(); err == nil && k.Dropped > s.droppedTold {
		m.Dropped = k.Dropped - s.droppedTold
		s.droppedTold = k.Dropped
	}
	return m
}

func (s *Sensor) missedAgain(m sensorapi.Missed) {
	s.unattributed.Add(m.Unattributed)
	s.unresolved.Add(m.Scripts)
	s.spool.overflow.Add(m.Overflowed)
	s.droppedMu.Lock()
	defer s.droppedMu.Unlock()
	s.droppedTold -= m.Dropped
	s.lostTold -= m.Unheld
	s.down += time.Duration(m.Down) * time.Second
}

// Stats of the sensor since its start.
func (s *Sensor) Stats() (Stats, error) {
	k, err := s.kernel.Counters()
	s.statsMu.Lock()
	defer s.statsMu.Unlock()
	out := s.stats
	out.Kernel, out.Spooled, out.Overflowed = k, s.spool.waiting(), s.spool.overflowed.Load()
	out.Read = s.reads.Load()
	out.Unread = k.Sent - min(k.Sent, out.Read)
	out.Lost = s.opened.Load().lostEvents()
	return out, err
}

func (s *Sensor) count(f func(*Stats)) {
	s.statsMu.Lock()
	defer s.statsMu.Unlock()
	f(&s.stats)
}

// publish sends what is in the spool, by class and then the oldest first, until ctx ends.
func (s *Sensor) publish(ctx context.Context) error {
	pause := time.Duration(0)
	for {
		news := s.spool.news
		if pause > 0 { // news do not mend what fails
			news = nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-news:
		case <-time.After(max(pause, time.Second)):
		}
		err := s.spool.drain(func(d []byte, p sensorapi.Priority) error { return s.cfg.Publish(ctx, d, p) })
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			pause = min(max(2*pause, time.Second), time.Minute)
			s.cfg.Log.Warn("publishing waits; detections stay on disk", "error", err, "retry", pause, "waiting", s.spool.waiting())
		default:
			pause = 0
		}
	}
}

// wallTime turns a CLOCK_BOOTTIME reading into a time of day, never in the future.
func wallTime(boot time.Duration) time.Time {
	var ts unix.Timespec
	now := time.Now()
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return now
	}
	if ago := time.Duration(ts.Nano()) - boot; ago > 0 {
		return now.Add(-ago).UTC().Truncate(time.Microsecond)
	}
	return now.UTC().Truncate(time.Microsecond)
}

// cut bounds a string without splitting a character.
func cut(s string) string {
	if len(s) <= sensorapi.MaxString {
		return strings.ToValidUTF8(s, "?")
	}
	return strings.ToValidUTF8(s[:sensorapi.MaxString], "")
}

func boundArgs(args []string) []string {
	out := make([]string, min(len(args), sensorapi.MaxArgs))
	for i := range out {
		out[i] = cut(args[i])
	}
	return out
}
