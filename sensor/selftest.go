package sensor

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/contraband-dev/contraband/bpf"
	"github.com/contraband-dev/contraband/internal/canary"
	"github.com/contraband-dev/contraband/internal/sensorapi"
)

// selfTest asks the kernel side, on an overlay of our own, the questions that
// everything depends on: a sensor that loads and then silently never fires, or
// calls every program added, is worse than none.
type selfTest struct {
	dev    atomic.Uint64 // of our overlay; its events are ours and are reported to nobody
	events chan bpf.Event
	result atomic.Pointer[string] // nil: not yet known; "": passed

	patience time.Duration // for the kernel's word; 0: five seconds
}

// takes reports whether an event is of the self-test.
func (t *selfTest) takes(e bpf.Event) bool {
	if dev := t.dev.Load(); dev == 0 || e.RootDev != dev {
		return false
	}
	select {
	case t.events <- e:
	default:
	}
	return true
}

// SelfTest reports whether the self-test has ended, and what was wrong: "" is
// that all results were right.
func (s *Sensor) SelfTest() (done bool, wrong string) {
	if r := s.test.result.Load(); r != nil {
		return true, *r
	}
	return false, ""
}

// Check runs the sensor only until its self-test has ended, and returns what was
// wrong. What is detected meanwhile stays in the spool.
func (s *Sensor) Check(limit time.Duration) (wrong string, err error) {
	ctx, stop := context.WithTimeout(context.Background(), limit)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	for ctx.Err() == nil {
		if done, wrong := s.SelfTest(); done {
			stop()
			return wrong, <-ended
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Sprintf("the self-test did not end within %s", limit), <-ended
}

// errNoIMA: the kernel has the function that hashes, and it does not: IMA is not built in,
// or is set to another algorithm.
var errNoIMA = errors.New("the kernel has not hashed what ran, though it took the program that asks it to")

// Bounds of trying again. A first failure may be a node that is just starting.
const (
	testAgain = time.Minute
	tellAfter = 3 // failures in a row
)

// runSelfTest tests until the results are right, and reports wrong ones as an error, and as a
// finding when they stay so. Where the kernel turns out not to hash, fanotify takes its place.
func (s *Sensor) runSelfTest(ctx context.Context) error {
	since := time.Now().UTC() // of the first failure
	for failures := 1; ; failures++ {
		err := s.test.run(ctx, filepath.Join(s.cfg.StateDir, "selftest"), s.kernel.Tiers.IMA && !s.noIMA.Load())
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, errNoIMA) {
			s.noIMA.Store(true)
			s.cfg.Log.Warn("what runs is not hashed by this kernel: files are held by fanotify instead", "error", err)
			o := s.opened.Load()
			if !o.on() && s.cfg.Tier != CoreTier {
				o = watchOpened(s.cfg.Log)
				s.opened.Store(o)
			}
			s.passed()
			return o.run(ctx.Done())
		}
		if err == nil {
			s.passed()
			return nil
		}
		wrong := cut(err.Error())
		s.test.result.Store(&wrong)
		s.cfg.Log.Error("SELF-TEST FAILED: this sensor cannot be relied on here", "error", err, "again in", testAgain)
		if failures == tellAfter {
			d := sensorapi.Detection{Time: since, Node: cut(s.cfg.Node), Health: "the sensor's self-test failed: " + wrong}
			if _, err := s.spool.add(d, home{}, nil); err != nil {
				return fmt.Errorf("tell that the self-test failed: %w", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(testAgain):
		}
	}
}

func (s *Sensor) passed() {
	s.test.result.Store(new(string))
	s.cfg.Log.Info("self-test passed: this kernel's answers about overlay files are right")
}

// run executes three programs on an overlay of its own and compares what the
// kernel reports of each: one of the lower layer, one added, one copied up.
func (t *selfTest) run(ctx context.Context, dir string, hashes bool) (err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for unix.Unmount(dir, unix.MNT_DETACH) == nil { // left by a sensor that was killed during its test
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m,mode=700"); err != nil {
		return fmt.Errorf("mount a tmpfs: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Unmount(dir, unix.MNT_DETACH)) }()
	root := filepath.Join(dir, "root")
	for _, d := range []string{"lower", "upper", "work", "root"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	program, err := canary.SelfTest()
	if err != nil {
		return err
	}
	for _, name := range []string{"lower/image", "lower/copied"} {
		if err := os.WriteFile(filepath.Join(dir, name), program, 0o755); err != nil {
			return err
		}
	}
	options := fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", dir)
	if err := unix.Mount("overlay", root, "overlay", 0, options); err != nil {
		return fmt.Errorf("mount an overlay: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Unmount(root, unix.MNT_DETACH)) }()
	var st unix.Stat_t
	if err := unix.Stat(root, &st); err != nil {
		return err
	}
	t.dev.Store(st.Dev)
	defer t.dev.Store(0) // before the unmount: the kernel gives the number to the next container
	if err := errors.Join(os.WriteFile(filepath.Join(root, "added"), program, 0o755), os.Chmod(filepath.Join(root, "copied"), 0o700)); err != nil {
		return err
	}
	for _, name := range []string{"/image", "/added", "/copied"} {
		end, failed := execInside(ctx, root, name)
		if failed != nil {
			return fmt.Errorf("run %s on the overlay: %w", name, failed)
		}
		defer func() { err = errors.Join(err, end()) }()
	}
	// Another sensor recognises the programs by their hash, and needs a moment to read them.
	defer time.Sleep(hashable)
	want := ""
	if hashes {
		sum := sha256.Sum256(program)
		want = hex.EncodeToString(sum[:])
	}
	return t.compare(ctx, want)
}

// hashable is how long the programs stay after the test.
const hashable = 100 * time.Millisecond

// execInside runs a program in a mount namespace of its own, with root as its root
// directory, as a container's programs run. end kills it.
func execInside(ctx context.Context, root, program string) (end func() error, err error) {
	for try := 0; ; try++ {
		cmd := exec.CommandContext(ctx, program)
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS, Chroot: root}
		err := cmd.Start()
		if errors.Is(err, syscall.ETXTBSY) && try < 20 { // a fork elsewhere in this process holds the descriptor that wrote it
			time.Sleep(10 * time.Millisecond)
			continue
		}
		if err != nil {
			return nil, err
		}
		return func() error {
			if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
				return err
			}
			return reap(cmd)
		}, nil
	}
}

func reap(cmd *exec.Cmd) error {
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		return err
	}
	return nil
}

// compare looks at what the kernel reports; sum is of what ran, where the kernel hashes it.
func (t *selfTest) compare(ctx context.Context, sum string) error {
	unhashed := false
	want := map[string]uint32{"/added": bpf.HasUpper, "/copied": bpf.HasUpper | bpf.HasLower}
	deadline := time.After(cmp.Or(t.patience, 5*time.Second))
	for len(want) > 0 {
		select {
		case e := <-t.events:
			flags, wanted := want[e.Path]
			if got := e.Flags & (bpf.HasUpper | bpf.HasLower); !wanted {
				return fmt.Errorf("%s, which is of the lower layer, was told as a candidate", e.Path)
			} else if got != flags || !e.Is(bpf.OnOverlay|bpf.OnRoot) {
				return fmt.Errorf("%s: flags %#x, want %#x", e.Path, e.Flags, flags|bpf.OnOverlay|bpf.OnRoot)
			}
			if sum != "" && e.SHA256 != "" && e.SHA256 != sum {
				return fmt.Errorf("%s: the kernel's hash is %s, want %s", e.Path, e.SHA256, sum)
			}
			unhashed = unhashed || sum != "" && e.SHA256 == ""
			delete(want, e.Path)
		case <-ctx.Done():
			return ctx.Err()
		case <-deadline:
			return fmt.Errorf("nothing was told of %d programs that are not of the lower layer", len(want))
		}
	}
	if unhashed {
		return errNoIMA
	}
	return nil
}
