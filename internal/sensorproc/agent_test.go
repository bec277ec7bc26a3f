package sensorproc

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"cloud.google.com/go/pubsub/v2/pstest"
	"github.com/cilium/ebpf"
	"github.com/spf13/pflag"

	"github.com/contraband-dev/contraband/internal/canary"
	"github.com/contraband-dev/contraband/internal/sensorapi"
	"github.com/contraband-dev/contraband/internal/testenv/containers"
	"github.com/contraband-dev/contraband/internal/testenv/containers/containertest"
)

const topic = "projects/p/topics/detections"

// process is the lean binary, as the DaemonSet runs it.
type process struct {
	cmd   *exec.Cmd
	state string
	addr  string // of metrics and health
}

var build = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "contraband-sensor-")
	if err != nil {
		return "", err
	}
	out, err := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", dir, "github.com/contraband-dev/contraband/cmd/contraband-sensor").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return filepath.Join(dir, "contraband-sensor"), nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := build(); err == nil {
		os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// pubsub is a topic on a server that speaks the real protocol.
func pubsub(t testing.TB) *pstest.Server {
	t.Helper()
	srv := pstest.NewServer()
	t.Cleanup(func() { srv.Close() })
	if _, err := srv.GServer.CreateTopic(t.Context(), &pubsubpb.Topic{Name: topic}); err != nil {
		t.Fatal(err)
	}
	return srv
}

func startProcess(t testing.TB, bed *containers.Runtime, srv *pstest.Server, state string, flags ...string) *process {
	t.Helper()
	return startThrough(t, nil, bed, srv, state, flags...)
}

// startThrough starts it by another program, with that one's arguments before its own.
func startThrough(t testing.TB, by []string, bed *containers.Runtime, srv *pstest.Server, state string, flags ...string) *process {
	t.Helper()
	binary, err := build()
	if err != nil {
		t.Fatal(err)
	}
	by = append(by, binary)
	p := &process{state: state, cmd: exec.Command(by[0], append(append(by[1:], "--state-dir", state, "--listen", "127.0.0.1:0", "--containerd", bed.Socket,
		"--cri", "", "--docker", ""), flags...)...)}
	p.cmd.Env = append(os.Environ(), "PUBSUB_EMULATOR_HOST="+srv.Addr, "CONTRABAND_SENSOR_TOPIC="+topic, "CONTRABAND_SENSOR_NODE=n1")
	logs, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	address := make(chan string, 1)
	go func() {
		for lines := bufio.NewScanner(logs); lines.Scan(); {
			var line struct{ Msg, Address string }
			if json.Unmarshal(lines.Bytes(), &line) == nil && line.Address != "" {
				address <- line.Address
			}
		}
	}()
	select {
	case p.addr = <-address:
	case <-time.After(20 * time.Second):
		t.Fatal("the sensor did not say where its metrics are")
	}
	p.waitReady(t)
	return p
}

func (p *process) kill() {
	if p.cmd.ProcessState == nil {
		_ = p.cmd.Process.Kill() // ended already is as good
		_ = p.cmd.Wait()
	}
}

func (p *process) get(path string) (string, error) {
	client := http.Client{Timeout: 5 * time.Second}
	resp, err := client.Get("http://" + p.addr + path)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusOK {
		err = errors.Join(err, errors.New(resp.Status))
	}
	return string(body), err
}

func (p *process) waitReady(t testing.TB) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		body, err := p.get("/readyz")
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not ready: %v: %s", err, body)
		}
	}
}

func (p *process) metric(t testing.TB, name string) string {
	t.Helper()
	body, err := p.get("/metrics")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(body) {
		if value, found := strings.CutPrefix(line, name+" "); found {
			return strings.TrimSpace(value)
		}
	}
	t.Fatalf("no metric %q", name)
	return ""
}

// paths of the detections that were published, each once a message.
func told(t testing.TB, srv *pstest.Server) map[string]int {
	t.Helper()
	out := map[string]int{}
	for _, m := range srv.Messages() {
		d, err := sensorapi.ParseDetection(m.Data)
		if err != nil {
			t.Fatal(err)
		}
		out[d.Process.Path]++
	}
	return out
}

func waitTold(t testing.TB, srv *pstest.Server, n int) map[string]int {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		got := told(t, srv)
		if len(got) >= n {
			return got
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d detections were published", len(got), n)
		}
	}
}

func box(t *testing.T, bed *containers.Runtime) *containers.Container {
	t.Helper()
	b, err := bed.Run(t.Context(), fmt.Sprintf("a%d", time.Now().UnixNano()), nil)
	if err != nil {
		t.Fatal(err)
	}
	program, err := canary.Here(time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Drop(t.Context(), "/tmp/p", program); err != nil {
		t.Fatal(err)
	}
	return b
}

// storm runs n different files, none of which is of the image, and does not wait
// for the programs, which live for a second.
func storm(t *testing.T, b *containers.Container, name string, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	script := fmt.Sprintf(`i=0; while [ $i -lt %d ]; do cp /tmp/p /tmp/%s$i; echo $i >> /tmp/%s$i; /tmp/%s$i >/dev/null & i=$((i+1)); done; wait`, n, name, name, name)
	if out, err := b.Exec(ctx, nil, "/bin/sh", "-c", script); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// TestProcess: detections reach Pub/Sub; metrics and health tell the truth; and
// nothing of it is left in the kernel afterwards.
func TestProcess(t *testing.T) {
	bed, srv := containertest.Start(t), pubsub(t)
	before := kernelObjects(t)
	p := startProcess(t, bed, srv, t.TempDir())
	storm(t, box(t, bed), "s", 3)
	if got := waitTold(t, srv, 3); got["/tmp/s0"] != 1 || got["/tmp/s2"] != 1 {
		t.Errorf("published %v", got)
	}
	for name, want := range map[string]string{
		`contraband_sensor_selftest`: "1", `contraband_sensor_coverage{route="added"}`: "1",
		`contraband_sensor_candidates_total{outcome="detected"}`: "3", `contraband_sensor_missed_total{what="ring_buffer"}`: "0",
		`contraband_sensor_publishes_total{result="ok"}`: "3", `contraband_sensor_spool_waiting`: "0",
	} {
		if got := p.metric(t, name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	if body, err := p.get("/healthz"); err != nil {
		t.Errorf("health: %v %s", err, body)
	}
	if _, err := p.get("/debug/pprof/"); err == nil {
		t.Error("profiles are served without --pprof")
	}
	if during := kernelObjects(t); during == before {
		t.Fatal("the count of BPF programs says nothing: none was added")
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("exit after SIGTERM: %v", err)
	}
	for deadline := time.Now().Add(10 * time.Second); kernelObjects(t) != before; time.Sleep(50 * time.Millisecond) { // freed after a grace period
		if time.Now().After(deadline) {
			t.Fatalf("left in the kernel: %d objects, before: %d", kernelObjects(t), before)
		}
	}
}

// TestCapabilities: with what the DaemonSet gives it, and no more, it sees and names
// all that it sees with every right.
func TestCapabilities(t *testing.T) {
	manifest, err := os.ReadFile("../../manifests/sensor/daemonset.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, list, found := strings.Cut(string(manifest), "add: [")
	list, _, closed := strings.Cut(list, "]")
	if !found || !closed {
		t.Fatal("the manifest adds no capabilities")
	}
	bounding := "-all"
	for name := range strings.SplitSeq(list, ", ") {
		bounding += ",+" + strings.ToLower(name)
	}
	bed := containertest.Start(t)
	coverage := func(by ...string) (lines []string) {
		srv := pubsub(t)
		p := startThrough(t, by, bed, srv, t.TempDir())
		defer p.kill()
		b := box(t, bed)
		storm(t, b, "c", 3)
		if got := waitTold(t, srv, 3); got["/tmp/c0"] != 1 || got["/tmp/c2"] != 1 {
			t.Errorf("%v: published %v", by, got)
		}
		for _, m := range srv.Messages() {
			if d, err := sensorapi.ParseDetection(m.Data); err != nil || d.File.SHA256 == "" || d.Container.Name == "" && d.Container.ID == "" {
				t.Errorf("%v: %v, or not hashed or not named: %s", by, err, m.Data)
			}
		}
		body, err := p.get("/metrics")
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(body) {
			if strings.HasPrefix(line, "contraband_sensor_coverage{") || strings.HasPrefix(line, "contraband_sensor_selftest ") {
				lines = append(lines, line)
			}
		}
		return lines
	}
	all := coverage()
	least := coverage("setpriv", "--no-new-privs", "--inh-caps=-all", "--bounding-set="+bounding)
	if len(all) == 0 || !slices.Equal(all, least) {
		t.Errorf("with the manifest's capabilities\n%s\nwith all\n%s", strings.Join(least, ""), strings.Join(all, ""))
	}
}

// kernelObjects counts the BPF programs, maps and links of this machine.
func kernelObjects(t testing.TB) (n int) {
	t.Helper()
	for id, err := ebpf.ProgramGetNextID(0); err == nil; id, err = ebpf.ProgramGetNextID(id) {
		n++
	}
	for id, err := ebpf.MapGetNextID(0); err == nil; id, err = ebpf.MapGetNextID(id) {
		n++
	}
	return n
}

// TestStopped: a sensor that stands still stops nobody, and catches up.
func TestStopped(t *testing.T) {
	bed, srv := containertest.Start(t), pubsub(t)
	p := startProcess(t, bed, srv, t.TempDir())
	b := box(t, bed)
	if err := p.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	storm(t, b, "s", 100) // fails when it takes a minute: it would, if anything waited for the sensor
	if got := told(t, srv); len(got) != 0 {
		t.Errorf("a stopped sensor published %d detections", len(got))
	}
	if err := p.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	waitTold(t, srv, 100)
}

// TestKilled: kill -9 in a storm. What was on disk is delivered by the next one,
// and what still runs is found again: here, everything.
func TestKilled(t *testing.T) {
	bed, srv := containertest.Start(t), pubsub(t)
	state := t.TempDir()
	b := box(t, bed)
	program, err := canary.Here(60 * time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Drop(t.Context(), "/tmp/p", program); err != nil {
		t.Fatal(err)
	}
	p := startProcess(t, bed, srv, state)
	const n = 60
	for i := range n {
		if i == n/2 {
			p.kill()
		}
		path := fmt.Sprintf("/tmp/k%d", i)
		if out, err := b.Exec(t.Context(), nil, "/bin/sh", "-c", fmt.Sprintf("cp /tmp/p %[1]s; echo %[1]s >> %[1]s; %[1]s >/dev/null 2>&1 </dev/null &", path)); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	startProcess(t, bed, srv, state)
	got := waitTold(t, srv, n)
	repeated := 0
	for _, times := range got {
		repeated += times - 1
	}
	t.Logf("%d of %d told, %d of them published again by the second sensor", len(got), n, repeated)
	if repeated > 1 { // the one whose publish had succeeded and was not yet taken off the disk
		t.Errorf("%d detections were published more than once", repeated)
	}
}

func TestEnvironment(t *testing.T) {
	flags := pflag.NewFlagSet("x", pflag.ContinueOnError)
	given := flags.String("state-dir", "default", "")
	number := flags.Int("spool-max", 1, "")
	if err := flags.Parse([]string{"--spool-max", "7"}); err != nil {
		t.Fatal(err)
	}
	set := map[string]string{"CONTRABAND_SENSOR_STATE_DIR": "/x", "CONTRABAND_SENSOR_SPOOL_MAX": "9"}
	lookup := func(name string) (string, bool) { v, ok := set[name]; return v, ok }
	if err := fromEnvironment(flags, lookup); err != nil || *given != "/x" || *number != 7 {
		t.Errorf("%q, %d, %v; want the variable, and the flag over the variable", *given, *number, err)
	}
	set["CONTRABAND_SENSOR_SPOOL_MAX"] = "many"
	fresh := pflag.NewFlagSet("x", pflag.ContinueOnError)
	fresh.Int("spool-max", 1, "")
	if err := fromEnvironment(fresh, lookup); err == nil || !strings.Contains(err.Error(), "CONTRABAND_SENSOR_SPOOL_MAX") {
		t.Errorf("a bad value: %v", err)
	}
}

func TestStalled(t *testing.T) {
	h, now := &health{}, time.Now()
	for _, step := range []struct {
		unread, read uint64
		after        time.Duration
		well         bool
	}{
		{0, 0, 0, true}, {5, 0, 0, true}, {5, 0, 59 * time.Second, true}, {5, 0, 61 * time.Second, false},
		{9, 1, 62 * time.Second, true}, // one was read, though more wait
		{9, 1, 130 * time.Second, false}, {0, 10, 131 * time.Second, true},
	} {
		if err := h.stalled(step.unread, step.read, now.Add(step.after)); (err == nil) != step.well {
			t.Errorf("%d unread after %s: %v", step.unread, step.after, err)
		}
	}
}
