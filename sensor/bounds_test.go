package sensor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/contraband-dev/contraband/bpf"
	"github.com/contraband-dev/contraband/internal/sensorapi"
)

// TestWrongAnswers: each result that the self-test does not accept is reported as what is
// wrong with it.
func TestWrongAnswers(t *testing.T) {
	const sum = "the hash of what ran"
	event := func(path string, flags uint32, hash string) bpf.Event {
		return bpf.Event{Path: path, Flags: flags | bpf.OnOverlay | bpf.OnRoot, SHA256: hash}
	}
	added, copied := event("/added", bpf.HasUpper, sum), event("/copied", bpf.HasUpper|bpf.HasLower, sum)
	for name, c := range map[string]struct {
		events []bpf.Event
		hashes string
		want   string // a part of the error; "" when all is right
	}{
		"right":                          {[]bpf.Event{copied, added}, sum, ""},
		"right, where nothing is hashed": {[]bpf.Event{event("/added", bpf.HasUpper, ""), event("/copied", bpf.HasUpper|bpf.HasLower, "")}, "", ""},
		"an image file is told":          {[]bpf.Event{event("/image", 0, "")}, "", "told as a candidate"},
		"a copied-up file looks added":   {[]bpf.Event{event("/copied", bpf.HasUpper, "")}, "", "flags"},
		"another overlay":                {[]bpf.Event{{Path: "/added", Flags: bpf.HasUpper}}, "", "flags"},
		"silence":                        {[]bpf.Event{added}, "", "nothing was told of 1"},
		"it does not hash after all":     {[]bpf.Event{added, event("/copied", bpf.HasUpper|bpf.HasLower, "")}, sum, errNoIMA.Error()},
		"it hashes something else":       {[]bpf.Event{event("/added", bpf.HasUpper, "another")}, sum, "the kernel's hash is another"},
	} {
		test := selfTest{events: make(chan bpf.Event, 4), patience: 50 * time.Millisecond}
		for _, e := range c.events {
			test.events <- e
		}
		err := test.compare(t.Context(), c.hashes)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// TestPatienceIsShared: one container whose files never answer takes its share of what may
// wait, and no more; what comes too late is handed on.
func TestPatienceIsShared(t *testing.T) {
	var p patience
	hangs := make(chan struct{})
	late := make(chan int, maxShare)
	for range maxShare {
		if _, err := within(&p, 1, time.Millisecond, func() int { <-hangs; return 7 }, func(n int) { late <- n }); !errors.Is(err, errNoAnswer) {
			t.Fatalf("%v, want no answer", err)
		}
	}
	if _, err := within(&p, 1, time.Second, func() int { return 1 }, nil); !errors.Is(err, errCrowded) {
		t.Errorf("the same container: %v, want to be turned away", err)
	}
	if n, err := within(&p, 2, time.Second, func() int { return 1 }, nil); err != nil || n != 1 {
		t.Errorf("another container: %d, %v", n, err)
	}
	close(hangs)
	for range maxShare {
		if n := <-late; n != 7 {
			t.Errorf("late: %d", n)
		}
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		if n, err := within(&p, 1, time.Second, func() int { return 1 }, nil); err == nil && n == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("its share never comes back")
		}
	}
}

// TestHeldFilesAreShared: a container that runs many programs pushes out its own, not
// another's; and a file that does not answer keeps nobody from the others.
func TestHeldFilesAreShared(t *testing.T) {
	h := heldFiles{dir: t.TempDir()}
	defer h.close()
	file := func(name string) *os.File {
		f, err := os.Create(filepath.Join(h.dir, name))
		if err == nil {
			_, err = f.WriteString(name)
		}
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	h.keep("malware", "a", file("malware"), 0)
	for i := range 2 * maxHeld {
		h.keep(fmt.Sprint("junk", i), "b", file(fmt.Sprint("junk", i)), 0)
	}
	if !h.has("malware") || h.has("junk0") || !h.has(fmt.Sprint("junk", 2*maxHeld-1)) || len(h.order) != maxHeldOfOne+1 {
		t.Errorf("%d are held, the other container's: %v", len(h.order), h.has("malware"))
	}
	for i := range maxHeld { // many containers
		h.keep(fmt.Sprint("of", i), fmt.Sprint("c", i), file(fmt.Sprint("of", i)), maxCopied)
	}
	if h.copied > maxCopiedAll || len(h.order) > maxHeld {
		t.Errorf("%d are held, %d bytes of copies", len(h.order), h.copied)
	}
	kept := file("kept")
	h.keep("kept", "d", kept, 0)
	h.release(kept, false)
	if _, err := kept.Stat(); err != nil {
		t.Errorf("what is kept was closed: %v", err)
	}
	if copied := h.copyOf(kept); copied == nil {
		t.Error("no copy")
	} else {
		h.keep("kept", "d", copied, 4) // another has been quicker: it is closed
		if _, err := copied.Stat(); err == nil {
			t.Error("a second copy stays open")
		}
	}
}

// TestWhatRanIsRemembered: within bounds, and where they are passed in the direction that
// is not blind.
func TestWhatRanIsRemembered(t *testing.T) {
	s := spoolOf(t, 1<<20, 0)
	sum := func(i int) string { return fmt.Sprintf("%064x", i) }
	s.ran["many"] = maxRan // as if it had run so many
	for container, i := range map[string]int{"few": 1, "many": 2} {
		d := sensorapi.Detection{Time: time.Now(), File: sensorapi.File{SHA256: sum(i)}, Container: sensorapi.Container{ID: container}}
		if added, err := s.add(d, home{}, []byte(container)); err != nil || !added {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		container string
		i         int
		want      bool
	}{{"few", 1, true}, {"few", 2, false}, {"many", 2, true}, {"many", 9, true}, {"other", 1, false}} {
		if got, err := s.hasRun(c.container, sum(c.i)); err != nil || got != c.want {
			t.Errorf("%s, program %d: %v, %v", c.container, c.i, got, err)
		}
	}
	s.files = maxFiles
	if _, err := s.add(sensorapi.Detection{Container: sensorapi.Container{ID: "c"}}, home{}, []byte("one more")); err != nil || s.files != 1 {
		t.Errorf("%d files, %v", s.files, err)
	}
	began := time.Now().Truncate(time.Second)
	if down, err := s.downUntil(began); err != nil || down != 0 {
		t.Errorf("before it ever watched: down for %s, %v", down, err)
	}
	if err := s.alive(began); err != nil {
		t.Fatal(err)
	}
	if down, err := s.downUntil(began.Add(90 * time.Second)); err != nil || down != 90*time.Second {
		t.Errorf("down for %s, %v", down, err)
	}
}

// TestProcessOfItsTime: a number that is used again is another process.
func TestProcessOfItsTime(t *testing.T) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		t.Fatal(err)
	}
	pid := uint32(os.Getpid())
	found := false
	for ago := time.Duration(0); ago < 20*time.Minute && !found; ago += 10 * time.Millisecond {
		found = startedAt(pid, time.Duration(now.Nano())-ago)
	}
	if !found {
		t.Error("this process has no start that fits")
	}
	if startedAt(pid, time.Duration(now.Nano())+time.Hour) || startedAt(1<<30, time.Duration(now.Nano())) {
		t.Error("a process of another time fits")
	}
}

// TestHybridHierarchies: a container that is in cgroup v1's hierarchies alone is found
// there, though a unified hierarchy is mounted beside them.
func TestHybridHierarchies(t *testing.T) {
	f := freezer{unified: t.TempDir(), v1: t.TempDir()}
	h := home{CgroupPath: "/docker/0123", CgroupID: 1}
	if _, err := f.dirOf(h); !errors.Is(err, errGone) {
		t.Errorf("in neither: %v", err)
	}
	dir := filepath.Join(f.v1, h.CgroupPath)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := f.dirOf(h); err != nil || got != dir {
		t.Errorf("in v1's: %q, %v", got, err)
	}
	// The kernel's side of it is played by a file: what is written is what it answers.
	if err := os.WriteFile(filepath.Join(dir, "freezer.state"), []byte("THAWED"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := f.set(h, true, time.Now().Add(time.Second)); err != nil {
		t.Errorf("freeze: %v", err)
	}
	if state, err := os.ReadFile(filepath.Join(dir, "freezer.state")); err != nil || string(state) != "FROZEN" {
		t.Errorf("%q, %v", state, err)
	}
}

// TestSilentRuntime: one that does not answer is asked again later, and the others at once.
func TestSilentRuntime(t *testing.T) {
	hangs := &hanging{}
	a := newAttributor(Config{})
	defer a.close()
	a.runtimes = []containerRuntime{hangs}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := a.describe(ctx, hangs, "/c", "c"); err == nil {
		t.Fatal("it has answered")
	}
	if _, err := a.describe(t.Context(), hangs, "/c", "c"); err == nil || hangs.asked != 1 {
		t.Errorf("asked %d times, %v", hangs.asked, err)
	}
	a.silent[hangs] = time.Now() // its time is over
	ctx, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := a.describe(ctx, hangs, "/c", "c"); err == nil || hangs.asked != 2 {
		t.Errorf("asked %d times, %v", hangs.asked, err)
	}
}

type hanging struct{ asked int }

func (h *hanging) name() string { return "hanging" }
func (h *hanging) close() error { return nil }
func (h *hanging) describe(ctx context.Context, _, _ string) (home, error) {
	h.asked++
	<-ctx.Done()
	return home{}, ctx.Err()
}
