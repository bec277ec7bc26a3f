package sensor_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/contraband-dev/contraband/internal/canary"
	"github.com/contraband-dev/contraband/internal/sensorapi"
	"github.com/contraband-dev/contraband/internal/testenv/containers"
	"github.com/contraband-dev/contraband/internal/testenv/containers/containertest"
	"github.com/contraband-dev/contraband/sensor"
)

// published collects what a sensor publishes, and refuses while failing is set.
type published struct {
	mu      sync.Mutex
	got     []sensorapi.Detection
	at      map[string]time.Time // of a path's first arrival
	failing bool
	news    chan struct{}
}

func newPublished() *published {
	return &published{news: make(chan struct{}, 1024), at: map[string]time.Time{}}
}

func (p *published) publish(_ context.Context, body []byte, _ sensorapi.Priority) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failing {
		return errors.New("the topic is away")
	}
	d, err := sensorapi.ParseDetection(body)
	if err != nil {
		return err
	}
	p.got = append(p.got, d)
	if _, known := p.at[d.Process.Path]; !known {
		p.at[d.Process.Path] = time.Now()
	}
	select {
	case p.news <- struct{}{}:
	default:
	}
	return nil
}

// waitFor returns the first detection of a path.
func (p *published) waitFor(t testing.TB, path string) sensorapi.Detection {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		p.mu.Lock()
		for _, d := range p.got {
			if d.Process.Path == path {
				p.mu.Unlock()
				return d
			}
		}
		p.mu.Unlock()
		select {
		case <-p.news:
		case <-deadline:
			t.Fatalf("no detection of %q; got %v", path, p.paths())
		}
	}
}

func (p *published) paths() (out []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, d := range p.got {
		out = append(out, d.Process.Path+" "+string(d.Route))
	}
	return out
}

func runBox(t *testing.T, bed *containers.Runtime, labels map[string]string) *containers.Container {
	t.Helper()
	box, err := bed.Run(t.Context(), fmt.Sprintf("t%d", time.Now().UnixNano()), labels)
	if err != nil {
		t.Fatal(err)
	}
	return box
}

// startSensor runs one on a state directory until the answered stop is called.
func startSensor(t *testing.T, bed *containers.Runtime, state string, p *published) (*sensor.Sensor, func()) {
	t.Helper()
	return startSensorWith(t, p, sensor.Config{Node: "test-node", StateDir: state, Containerd: []string{bed.Socket}})
}

func startSensorWith(t testing.TB, p *published, cfg sensor.Config) (*sensor.Sensor, func()) {
	t.Helper()
	cfg.Publish = p.publish
	s, err := sensor.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := errors.Join(<-done, s.Close()); err != nil {
			t.Errorf("sensor: %v", err)
		}
	})
	t.Cleanup(stop)
	return s, stop
}

func program(t *testing.T, life time.Duration) []byte {
	t.Helper()
	b, err := canary.Here(life)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestAddedBinaryIsDetectedHashedAndAttributed(t *testing.T) {
	bed := containertest.Start(t)
	p := newPublished()
	startSensor(t, bed, t.TempDir(), p)
	box := runBox(t, bed, map[string]string{"team": "payments"})
	bin := program(t, 60*time.Second)
	if err := box.Drop(t.Context(), "/tmp/x", bin); err != nil {
		t.Fatal(err)
	}
	before := time.Now()
	if err := box.Start(t.Context(), "/tmp/x", "--token", "hunter2"); err != nil {
		t.Fatal(err)
	}
	d := p.waitFor(t, "/tmp/x")
	if d.Route != sensorapi.Added || d.File.SHA256 != canary.SHA256(bin) || d.File.Size != int64(len(bin)) {
		t.Errorf("route %q, file %+v; want added, %s", d.Route, d.File, canary.SHA256(bin))
	}
	if d.Container.ID != box.ID || d.Container.Labels["team"] != "payments" || d.Container.Image != containers.Image ||
		!strings.HasPrefix(d.Container.ImageDigest, "sha256:") || d.Node != "test-node" {
		t.Errorf("container %+v on node %q", d.Container, d.Node)
	}
	if d.Time.Before(before.Add(-time.Second)) || d.Time.After(time.Now()) {
		t.Errorf("time %v is not that of the exec (after %v)", d.Time, before)
	}
	if want := []string{"/tmp/x", "--token", "[redacted]"}; strings.Join(d.Process.Args, " ") != strings.Join(want, " ") {
		t.Errorf("args %q, want %q", d.Process.Args, want)
	}
}

// TestOriginByContent runs what others raise false alarms about, and what they miss.
func TestOriginByContent(t *testing.T) {
	bed := containertest.Start(t)
	p := newPublished()
	s, _ := startSensor(t, bed, t.TempDir(), p)
	box := runBox(t, bed, nil)
	sh := func(script string) {
		t.Helper()
		if out, err := box.Exec(t.Context(), nil, "/bin/sh", "-c", script); err != nil {
			t.Fatalf("%s: %v\n%s", script, err, out)
		}
	}
	// Silent: the image's own bytes, whatever was done to the file's inode.
	run := func(path string) string { return "; " + path + " >/dev/null 2>&1; true" } // busybox knows itself by its name: its answer does not matter
	sh("chmod 755 /usr/bin/tool" + run("/usr/bin/tool"))
	sh("touch /usr/bin/tool" + run("/usr/bin/tool"))
	sh("ln /usr/bin/tool /usr/bin/linked" + run("/usr/bin/linked"))
	sh("mv /usr/bin/tool /usr/bin/moved" + run("/usr/bin/moved"))
	sh(": >> /usr/bin/busybox" + run("/usr/bin/busybox")) // opened for writing, not written
	// Reported.
	sh("cp /bin/busybox /tmp/copy" + run("/tmp/copy"))
	sh("printf x >> /usr/bin/busybox" + run("/usr/bin/busybox"))
	if err := box.Drop(t.Context(), "/vol/v", program(t, time.Second)); err != nil {
		t.Fatal(err)
	}
	sh("/vol/v")

	if d := p.waitFor(t, "/tmp/copy"); d.Route != sensorapi.Added || d.SameAs != "/bin/busybox" {
		t.Errorf("a copy of an image's file: route %q, sameAs %q", d.Route, d.SameAs)
	}
	if d := p.waitFor(t, "/usr/bin/busybox"); d.Route != sensorapi.Modified || d.File.SHA256 == "" {
		t.Errorf("a changed image file: %+v", d)
	}
	if d := p.waitFor(t, "/vol/v"); d.Route != sensorapi.Volume || d.File.SHA256 != canary.SHA256(program(t, time.Second)) {
		t.Errorf("a program on a tmpfs: route %q, file %+v", d.Route, d.File)
	}
	if got := p.paths(); len(got) != 3 {
		t.Errorf("detections %v, want exactly the three above", got)
	}
	st, err := s.Stats()
	if err != nil || st.Image < 3 || st.Kernel.Quiet == 0 {
		t.Errorf("stats %+v, error %v: the silent cases were not seen at all", st, err)
	}
}

// TestWhatRanBeforeIsFoundAndToldOnce covers the time in which the sensor was away.
func TestWhatRanBeforeIsFoundAndToldOnce(t *testing.T) {
	bed := containertest.Start(t)
	box := runBox(t, bed, nil)
	if err := box.Drop(t.Context(), "/tmp/early", program(t, 60*time.Second)); err != nil {
		t.Fatal(err)
	}
	if err := box.Start(t.Context(), "/tmp/early"); err != nil {
		t.Fatal(err)
	}
	state, p := t.TempDir(), newPublished()
	_, stop := startSensor(t, bed, state, p)
	if d := p.waitFor(t, "/tmp/early"); !d.Preceding || d.File.SHA256 == "" {
		t.Errorf("found running: %+v", d)
	}
	stop()
	_, stop = startSensor(t, bed, state, p)
	if err := box.Drop(t.Context(), "/tmp/later", program(t, time.Second)); err != nil {
		t.Fatal(err)
	}
	if err := box.Start(t.Context(), "/tmp/later"); err != nil {
		t.Fatal(err)
	}
	p.waitFor(t, "/tmp/later")
	stop()
	if got := p.paths(); len(got) != 2 {
		t.Errorf("after a restart: %v, want each once", got)
	}
}

func TestNothingIsLostWhilePublishingFails(t *testing.T) {
	bed := containertest.Start(t)
	box := runBox(t, bed, nil)
	state, p := t.TempDir(), newPublished()
	p.failing = true
	s, stop := startSensor(t, bed, state, p)
	if err := box.Drop(t.Context(), "/tmp/kept", program(t, time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := box.Exec(t.Context(), nil, "/tmp/kept"); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); ; {
		if st, err := s.Stats(); err == nil && st.Spooled == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the detection never reached the spool")
		}
		time.Sleep(10 * time.Millisecond)
	}
	stop()
	p.mu.Lock()
	p.failing = false
	p.mu.Unlock()
	startSensor(t, bed, state, p) // a new one on the same disk
	p.waitFor(t, "/tmp/kept")
}

func TestFreezeEvidenceThaw(t *testing.T) {
	bed := containertest.Start(t)
	box := runBox(t, bed, nil)
	p := newPublished()
	s, _ := startSensor(t, bed, t.TempDir(), p)
	bin := program(t, 60*time.Second)
	if err := box.Drop(t.Context(), "/tmp/x", bin); err != nil {
		t.Fatal(err)
	}
	if err := box.Start(t.Context(), "/tmp/x"); err != nil {
		t.Fatal(err)
	}
	d := p.waitFor(t, "/tmp/x")
	other := sensorapi.Order{ID: "c1-other", Case: "c1", Action: sensorapi.Freeze, ContainerID: d.Container.ID, Expires: time.Now().Add(time.Minute), SHA256: strings.Repeat("a", 64)}
	if _, err := s.Carry(t.Context(), other); err == nil || !strings.Contains(err.Error(), "no program with the hash") {
		t.Errorf("frozen for a program that never ran there: %v", err)
	}
	order := sensorapi.Order{ID: "c1-freeze", Case: "c1", Action: sensorapi.Freeze, ContainerID: d.Container.ID, Expires: time.Now().Add(time.Minute), SHA256: d.File.SHA256}
	for range 2 { // the same order twice is one freeze
		status, err := s.Carry(t.Context(), order)
		if err != nil || !status.Done || status.Process < 2 {
			t.Fatalf("freeze: %+v, %v", status, err)
		}
	}
	if !box.Frozen() {
		t.Fatal("the kernel says that it is not frozen")
	}
	var uploaded bytes.Buffer
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(&uploaded, r.Body) }))
	defer srv.Close()
	status, err := s.Carry(t.Context(), sensorapi.Order{ID: "c1-evidence", Case: "c1", Action: sensorapi.Evidence, ContainerID: d.Container.ID, Expires: time.Now().Add(time.Minute),
		SHA256: d.File.SHA256, Upload: &sensorapi.Upload{URL: srv.URL, MaxBytes: 1 << 20}})
	if err != nil || !status.Done || !bytes.Equal(uploaded.Bytes(), bin) {
		t.Fatalf("evidence of the frozen container: %+v, %v, %d bytes", status, err, uploaded.Len())
	}
	status, err = s.Carry(t.Context(), sensorapi.Order{ID: "c1-thaw", Case: "c1", Action: sensorapi.Thaw, ContainerID: d.Container.ID, Expires: time.Now().Add(time.Minute)})
	if err != nil || !status.Done || box.Frozen() {
		t.Fatalf("thaw: %+v, %v, frozen: %v", status, err, box.Frozen())
	}
	if _, err := s.Carry(t.Context(), sensorapi.Order{ID: "x", Case: "c1", Action: sensorapi.Freeze, ContainerID: "never-seen", Expires: time.Now().Add(time.Minute)}); err == nil {
		t.Error("the sensor acts on a container in which it has detected nothing")
	}
	if _, err := s.Carry(t.Context(), sensorapi.Order{ID: "late", Case: "c1", Action: sensorapi.Freeze, ContainerID: d.Container.ID, Expires: time.Now().Add(-time.Second)}); err == nil {
		t.Error("an expired order was carried out")
	}
}

func TestBadOrdersAreRefused(t *testing.T) {
	for _, body := range []string{
		`{"id":"a","case":"c","action":"explode","containerId":"x","expires":"2030-01-01T00:00:00Z"}`,
		`{"id":"a","case":"c","action":"freeze","containerId":"../../x","expires":"2030-01-01T00:00:00Z"}`,
		`{"id":"a","case":"c","action":"freeze","containerId":"x"}`,
		`{"id":"a","case":"c","action":"evidence","containerId":"x","expires":"2030-01-01T00:00:00Z","sha256":"../etc"}`,
	} {
		var o sensorapi.Order
		if err := json.Unmarshal([]byte(body), &o); err != nil {
			t.Fatal(err)
		}
		if err := o.Validate(); err == nil {
			t.Errorf("accepted: %s", body)
		}
	}
}

// TestHardCases are what a first version of the sensor got wrong.
func TestHardCases(t *testing.T) {
	bed := containertest.Start(t)
	box := runBox(t, bed, nil)
	long := strings.Repeat("x", 5000)
	if err := box.Drop(t.Context(), "/tmp/early", program(t, 60*time.Second)); err != nil {
		t.Fatal(err)
	}
	if err := box.Start(t.Context(), "/tmp/early", long); err != nil {
		t.Fatal(err)
	}
	p := newPublished()
	s, _ := startSensor(t, bed, t.TempDir(), p)
	// A long argument of what already runs is cut, and the rest is reported.
	if d := p.waitFor(t, "/tmp/early"); len(d.Process.Args) != 2 || len(d.Process.Args[1]) != sensorapi.MaxString {
		t.Errorf("%d arguments", len(d.Process.Args))
	}
	// Two cases freeze one container: it is thawed when both have released it.
	for _, c := range []string{"c1", "c2"} {
		carry(t, s, sensorapi.Order{ID: c + "-freeze", Case: c, Action: sensorapi.Freeze, ContainerID: box.ID})
	}
	carry(t, s, sensorapi.Order{ID: "c1-thaw", Case: "c1", Action: sensorapi.Thaw, ContainerID: box.ID})
	if !box.Frozen() {
		t.Error("the release of one case thawed what another froze")
	}
	carry(t, s, sensorapi.Order{ID: "c2-thaw", Case: "c2", Action: sensorapi.Thaw, ContainerID: box.ID})
	if box.Frozen() {
		t.Error("both have released it, and it is frozen")
	}
	freezesAreOrders(t, s, box)
	// A container that is gone is reported as gone.
	if err := box.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	o := sensorapi.Order{ID: "c3-freeze", Case: "c3", Action: sensorapi.Freeze, ContainerID: box.ID, Expires: time.Now().Add(time.Minute)}
	if st, err := s.Carry(t.Context(), o); err != nil || st.Done || !st.Gone {
		t.Errorf("a freeze of what is gone: %+v, %v", st, err)
	}
}

// freezesAreOrders: a freeze lasts as long as its own order, and what is answered of
// it is true when it is answered.
func freezesAreOrders(t *testing.T, s *sensor.Sensor, box *containers.Container) {
	freeze := func(id string) sensorapi.Order {
		return sensorapi.Order{ID: id, Case: "c5", Action: sensorapi.Freeze, ContainerID: box.ID, Expires: time.Now().Add(time.Minute)}
	}
	take := func(o sensorapi.Order) sensorapi.OrderStatus {
		t.Helper()
		st, refused, err := s.Take(t.Context(), o)
		if err != nil || refused {
			t.Fatalf("%s: %+v, %v", o.ID, st, err)
		}
		return st
	}
	first, longer := freeze("c5.1"), freeze("c5.2")
	take(first)
	if st := take(longer); !st.Done || st.Until.IsZero() {
		t.Errorf("a longer freeze: %+v", st)
	}
	if err := s.Withdrawn(t.Context(), longer.ID); err != nil || !box.Frozen() {
		t.Errorf("the order to freeze for longer was withdrawn: %v, frozen %v", err, box.Frozen())
	}
	if st := take(longer); st.Done {
		t.Errorf("a freeze that has ended is told as done: %+v", st)
	}
	if frozen, err := s.Frozen(); err != nil || !slices.Equal(frozen, []string{first.ID}) {
		t.Errorf("in force %q, %v", frozen, err)
	}
	if st := take(first); !st.Done {
		t.Errorf("the first is still in force: %+v", st)
	}
	if err := s.Withdrawn(t.Context(), first.ID); err != nil || box.Frozen() {
		t.Errorf("the last order was withdrawn: %v, frozen %v", err, box.Frozen())
	}
	// One that never was an object is not withdrawn by one that is missing.
	carry(t, s, sensorapi.Order{ID: "c6.1", Case: "c6", Action: sensorapi.Freeze, ContainerID: box.ID})
	if err := s.Withdrawn(t.Context(), "c6.1"); err != nil || !box.Frozen() {
		t.Errorf("a freeze of the local API was withdrawn: %v", err)
	}
	carry(t, s, sensorapi.Order{ID: "c6.2", Case: "c6", Action: sensorapi.Thaw, ContainerID: box.ID})
	// Freezes and thaws that cross: the last thaw wins, whatever the order.
	var wg sync.WaitGroup
	for i := range 8 {
		c := fmt.Sprintf("x%d", i)
		wg.Go(func() {
			carry(t, s, sensorapi.Order{ID: c + ".1", Case: c, Action: sensorapi.Freeze, ContainerID: box.ID})
			if !box.Frozen() {
				t.Errorf("%s holds it, and it is not frozen", c)
			}
			carry(t, s, sensorapi.Order{ID: c + ".2", Case: c, Action: sensorapi.Thaw, ContainerID: box.ID})
		})
	}
	wg.Wait()
	if box.Frozen() {
		t.Error("all have released it, and it is frozen")
	}
	if _, refused, err := s.Take(t.Context(), sensorapi.Order{ID: "nobody", Case: "c7", Action: sensorapi.Inspect, ContainerID: "elsewhere", Expires: time.Now().Add(time.Minute)}); !refused {
		t.Errorf("a container in which nothing was detected: refused %v, %v", refused, err)
	}
}

func carry(t *testing.T, s *sensor.Sensor, o sensorapi.Order) {
	t.Helper()
	o.Expires = time.Now().Add(time.Minute)
	if st, err := s.Carry(t.Context(), o); err != nil || !st.Done {
		t.Fatalf("%s: %+v, %v", o.ID, st, err)
	}
}

// TestSelfTest: its results are right here, and its own programs are reported to nobody.
func TestSelfTest(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("NOT RUN: root is needed")
	}
	p := newPublished()
	s, _ := startSensorWith(t, p, sensor.Config{Node: "test-node", StateDir: t.TempDir(), Containerd: []string{}, Docker: []string{}})
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		done, wrong := s.SelfTest()
		if wrong != "" || time.Now().After(deadline) {
			t.Fatalf("done: %v, %s", done, wrong)
		}
		if done {
			break
		}
	}
	if got := p.paths(); len(got) != 0 {
		t.Errorf("the self-test's programs were told: %q", got)
	}
}

// TestSelfTestOfAnotherSensor: what a sensor in a container runs as its self-test, "contraband
// doctor" in a pod for one, is recognised by its bytes and reported to nobody.
func TestSelfTestOfAnotherSensor(t *testing.T) {
	bed := containertest.Start(t)
	p := newPublished()
	s, _ := startSensor(t, bed, t.TempDir(), p)
	box := runBox(t, bed, nil)
	own, err := canary.SelfTest()
	if err != nil {
		t.Fatal(err)
	}
	for path, bytes := range map[string][]byte{"/tmp/added": own, "/tmp/x": program(t, 60*time.Second)} {
		if err := box.Drop(t.Context(), path, bytes); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{"/tmp/added", "/tmp/x"} {
		if err := box.Start(t.Context(), path); err != nil {
			t.Fatal(err)
		}
	}
	p.waitFor(t, "/tmp/x")
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		st, err := s.Stats()
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("%+v, %v", st, err)
		}
		if st.SelfTests == 1 {
			break
		}
	}
	if got := p.paths(); len(got) != 1 {
		t.Errorf("reported %q, want /tmp/x alone", got)
	}
}

// TestAfterSelfTest: the self-test's overlay is gone, and the kernel gives its device
// number to the next container, which is watched as any other.
func TestAfterSelfTest(t *testing.T) {
	bed := containertest.Start(t)
	p := newPublished()
	s, _ := startSensorWith(t, p, sensor.Config{Node: "test-node", StateDir: t.TempDir(), Containerd: []string{bed.Socket}, CRI: []string{}, Docker: []string{}})
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if done, wrong := s.SelfTest(); done && wrong == "" {
			break
		} else if wrong != "" || time.Now().After(deadline) {
			t.Fatalf("done: %v, %s", done, wrong)
		}
	}
	// The self-test had a tmpfs and an overlay: what is mounted next has the numbers of these.
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	for range 2 {
		box := runBox(t, bed, nil)
		path := "/tmp/" + strings.ToLower(rand.Text())
		if err := errors.Join(box.Drop(t.Context(), path, program(t, time.Minute)), box.Start(t.Context(), path)); err != nil {
			t.Fatal(err)
		}
		p.waitFor(t, path)
	}
}

// TestExceptions: what is expected stays on the node, and is counted.
func TestExceptions(t *testing.T) {
	bed := containertest.Start(t)
	box := runBox(t, bed, nil)
	for path, life := range map[string]time.Duration{"/tmp/expected": time.Second, "/tmp/unexpected": 60 * time.Second} {
		if err := box.Drop(t.Context(), path, program(t, life)); err != nil {
			t.Fatal(err)
		}
	}
	p := newPublished()
	_, stop := startSensor(t, bed, t.TempDir(), p)
	if err := box.Start(t.Context(), "/tmp/unexpected"); err != nil {
		t.Fatal(err)
	}
	digest := p.waitFor(t, "/tmp/unexpected").Container.ImageDigest
	stop()

	file := filepath.Join(t.TempDir(), "exceptions.yaml")
	body := fmt.Sprintf("exceptions:\n  - {image: %q, sha256: %q, owner: o, reason: r, until: 2999-01-01}\n", digest, canary.SHA256(program(t, time.Second)))
	if err := os.WriteFile(file, []byte(body), 0o600); err != nil {
		t.Fatal(err)
	}
	p = newPublished()
	s, _ := startSensorWith(t, p, sensor.Config{Node: "test-node", StateDir: t.TempDir(), Containerd: []string{bed.Socket}, Exceptions: file})
	if _, err := box.Exec(t.Context(), nil, "/tmp/expected"); err != nil {
		t.Fatal(err)
	}
	p.waitFor(t, "/tmp/unexpected") // it still runs: it is reported after the other, or before
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		st, err := s.Stats()
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("%+v, %v", st, err)
		}
		if st.Allowed == 1 {
			break
		}
	}
	if got := p.paths(); len(got) != 1 {
		t.Errorf("told: %q", got)
	}
}

func (p *published) arrival(path string) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.at[path]
}
