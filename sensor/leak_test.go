package sensor_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/contraband-dev/contraband/internal/sensorapi"
	"github.com/contraband-dev/contraband/internal/testenv/containers/containertest"
	"github.com/contraband-dev/contraband/sensor"
)

// resources are this process's descriptors, and the BPF objects of the machine.
func resources(t *testing.T) map[string]int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]int{"descriptors": len(fds)}
	for id, err := ebpf.ProgramGetNextID(0); err == nil; id, err = ebpf.ProgramGetNextID(id) {
		out["programs"]++
	}
	for id, err := ebpf.MapGetNextID(0); err == nil; id, err = ebpf.MapGetNextID(id) {
		out["maps"]++
	}
	links := new(link.Iterator)
	for links.Next() {
		out["links"]++
	}
	links.Close()
	if err := links.Err(); err != nil {
		t.Logf("links are not counted: %v", err)
	}
	return out
}

// settled are the resources once they have not changed for a second: the kernel frees
// programs and their maps after a grace period.
func settled(t *testing.T) map[string]int {
	t.Helper()
	last, since := resources(t), time.Now()
	for deadline := since.Add(20 * time.Second); time.Since(since) < time.Second; time.Sleep(50 * time.Millisecond) {
		if now := resources(t); fmt.Sprint(now) != fmt.Sprint(last) {
			last, since = now, time.Now()
		}
		if time.Now().After(deadline) {
			t.Fatalf("what is held does not come to rest: %v", last)
		}
	}
	return last
}

// TestNothingIsLeft: a sensor that has watched and was closed, in a process that continues,
// leaves no descriptor, program, map or link.
func TestNothingIsLeft(t *testing.T) {
	b := startBundle(t, fixture(t))
	watch := func(i int) {
		p := newPublished()
		_, stop := startSensorWith(t, p, sensor.Config{Node: "test-node", StateDir: t.TempDir(), Tier: sensor.AllTiers, CRI: []string{}, Containerd: []string{}, Docker: []string{}})
		path := fmt.Sprintf("/tmp/leak%d", i)
		b.sh(t, fmt.Sprintf("cp /usr/bin/actor %[1]s; echo %[2]d >> %[1]s; %[1]s exit; cp %[1]s /vol/leak%[2]d; /vol/leak%[2]d exit", path, i))
		p.waitFor(t, path)
		p.waitFor(t, fmt.Sprintf("/vol/leak%d", i))
		stop()
	}
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // which would close what nobody has closed
	watch(0)                                         // what is made once for all, such as the loader's caches
	before := settled(t)
	for i := range 3 {
		watch(i + 1)
	}
	var after map[string]int
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) { // programs are freed after a grace period
		if after = resources(t); fmt.Sprint(after) == fmt.Sprint(before) {
			return
		}
	}
	t.Errorf("after three more sensors %v, before %v", after, before)
}

// TestServicesOfTheHost: what the host runs in a mount namespace of its own is no
// container's; it is found out once, and then the kernel sends no more events of it.
func TestServicesOfTheHost(t *testing.T) {
	startBundle(t, fixture(t)) // skips where nothing can be watched
	p := newPublished()
	s, _ := startSensorWith(t, p, sensor.Config{Node: "test-node", StateDir: t.TempDir(), CRI: []string{}, Containerd: []string{}, Docker: []string{}})
	dir := t.TempDir()
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup2"))
	if err != nil || len(mounts) == 0 {
		t.Skipf("NOT RUN: no cgroup2: %v", err)
	}
	cgroup := filepath.Join(mounts[0].Mountpoint, "contraband-test.service")
	if err := os.Mkdir(cgroup, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(cgroup) })
	home, err := os.Open(cgroup)
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close()
	service := func(i int) {
		t.Helper()
		path := filepath.Join(dir, fmt.Sprint("service", i))
		if err := os.WriteFile(path, program(t, 0), 0o755); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(path)
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS, UseCgroupFD: true, CgroupFD: int(home.Fd())}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, out)
		}
	}
	service(0)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		st, err := s.Stats()
		if err != nil {
			t.Fatal(err)
		}
		if st.NotContainer > 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("it is taken for a container: %v", p.paths())
		}
	}
	time.Sleep(100 * time.Millisecond) // it is put where the kernel looks just after
	before, err := s.Stats()
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		service(i + 1)
	}
	time.Sleep(200 * time.Millisecond)
	after, err := s.Stats()
	if err != nil || after.Kernel.Sent != before.Kernel.Sent || after.Kernel.Quiet < before.Kernel.Quiet+5 {
		t.Errorf("told again: %+v, before %+v, %v", after, before, err)
	}
}

// TestRewrittenWithinATick: a file that was reported, and has other bytes a moment later with
// the same change time, is another program.
func TestRewrittenWithinATick(t *testing.T) {
	b := startBundle(t, fixture(t))
	p := newPublished()
	startSensorWith(t, p, sensor.Config{Node: "test-node", StateDir: t.TempDir(), CRI: []string{}, Containerd: []string{}, Docker: []string{}})
	const rounds = 20
	for i := range rounds {
		// Each is a program of its own; what follows the ELF's end does not change what it does.
		b.sh(t, fmt.Sprintf("f=/tmp/tick%d; cp /usr/bin/actor $f; for n in 1 2 3 4; do printf $n | dd of=$f bs=1 count=1 seek=8 conv=notrunc 2>/dev/null; $f exit; done", i))
	}
	if !p.waitCount(4*rounds, 20*time.Second) {
		t.Errorf("%d of %d programs were told", len(p.paths()), 4*rounds)
	}
}

// TestFreezeEnds: a freeze outlives the sensor that made it, and ends in its time.
func TestFreezeEnds(t *testing.T) {
	bed := containertest.Start(t)
	p, state := newPublished(), t.TempDir()
	s, stop := startSensor(t, bed, state, p)
	box := runBox(t, bed, nil)
	if err := box.Drop(t.Context(), "/tmp/x", program(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	if err := box.Start(t.Context(), "/tmp/x"); err != nil {
		t.Fatal(err)
	}
	d := p.waitFor(t, "/tmp/x")
	until := time.Now().Add(4 * time.Second)
	status, err := s.Carry(t.Context(), sensorapi.Order{ID: "c1-freeze", Case: "c1", Action: sensorapi.Freeze, ContainerID: d.Container.ID, Expires: until})
	if err != nil || !status.Done || !box.Frozen() {
		t.Fatalf("%+v, %v", status, err)
	}
	stop()
	if !box.Frozen() {
		t.Fatal("it ended with the sensor")
	}
	startSensor(t, bed, state, newPublished())
	if time.Now().Before(until.Add(-time.Second)) && !box.Frozen() {
		t.Error("it ended at the start of the next sensor")
	}
	for box.Frozen() {
		if time.Now().After(until.Add(10 * time.Second)) {
			t.Fatal("it does not end in its time")
		}
		time.Sleep(20 * time.Millisecond)
	}
	if time.Now().Before(until.Add(-100 * time.Millisecond)) {
		t.Errorf("it ended %s before its time", time.Until(until))
	}
}
