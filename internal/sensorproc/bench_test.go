package sensorproc

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/contraband-dev/contraband/internal/canary"
	"github.com/contraband-dev/contraband/internal/testenv/containers"
)

// BenchmarkMemory prints what the lean binary needs with five hundred containers:
// cgroups with a container's name, in each of which a program runs that is reported.
func BenchmarkMemory(b *testing.B) {
	if os.Getuid() != 0 {
		b.Skip("NOT RUN: root is needed")
	}
	const containerCount = 500
	srv := pubsub(b)
	p := startProcess(b, &containers.Runtime{Socket: "/nonexistent"}, srv, b.TempDir())
	idle := p.status(b, "VmRSS") + ", of its own " + p.status(b, "RssAnon")
	root := overlayWith(b)
	for i := range containerCount {
		runIn(b, root, fmt.Sprintf("%064x", i))
	}
	waitTold(b, srv, 1)
	for deadline := time.Now().Add(time.Minute); p.metric(b, `contraband_sensor_publishes_total{result="ok"}`) != fmt.Sprint(containerCount); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			b.Fatalf("%s of %d were published", p.metric(b, `contraband_sensor_publishes_total{result="ok"}`), containerCount)
		}
	}
	before := p.cpu(b)
	const quiet = 10 * time.Second
	time.Sleep(quiet)
	used := p.cpu(b) - before
	info, err := os.Stat(p.cmd.Path)
	if err != nil {
		b.Fatal(err)
	}
	for _, line := range []string{
		"| contraband-sensor | | limit |", "|---|---|---|",
		fmt.Sprintf("| resident at start | %s | |", idle),
		fmt.Sprintf("| resident after detections in %d containers | %s | 40 MB |", containerCount, p.status(b, "VmRSS")),
		fmt.Sprintf("| of that, memory of its own (the rest is the program's file and the ring buffer) | %s | |", p.status(b, "RssAnon")),
		fmt.Sprintf("| (file %s, shared %s) | | |", p.status(b, "RssFile"), p.status(b, "RssShmem")),
		fmt.Sprintf("| most that was resident | %s | |", p.status(b, "VmHWM")),
		fmt.Sprintf("| CPU while nothing happens, over %s | %.2f%% of a core | |", quiet, 100*used.Seconds()/quiet.Seconds()),
		fmt.Sprintf("| size of the binary | %.1f MB | |", float64(info.Size())/1e6),
	} {
		fmt.Println("BENCH\t" + line)
	}
}

func (p *process) status(t testing.TB, key string) string {
	t.Helper()
	body, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(body)) {
		if rest, found := strings.CutPrefix(line, key+":"); found {
			var kb int
			if _, err := fmt.Sscan(rest, &kb); err != nil {
				t.Fatal(err)
			}
			return fmt.Sprintf("%.1f MB", float64(kb)/1000)
		}
	}
	t.Fatalf("no %s", key)
	return ""
}

// cpu is the time that the process has used, in user space and in the kernel.
func (p *process) cpu(t testing.TB) time.Duration {
	t.Helper()
	body, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(body)[strings.LastIndexByte(string(body), ')')+1:])
	var user, system int64
	if _, err := fmt.Sscan(fields[11]+" "+fields[12], &user, &system); err != nil {
		t.Fatal(err)
	}
	return time.Duration(user+system) * (time.Second / 100) // USER_HZ
}

// overlayWith is an overlay whose upper layer holds the canary.
func overlayWith(b *testing.B) string {
	b.Helper()
	dir := b.TempDir()
	for _, d := range []string{"l", "u", "w", "m"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			b.Fatal(err)
		}
	}
	root := filepath.Join(dir, "m")
	if err := unix.Mount("overlay", root, "overlay", 0, fmt.Sprintf("lowerdir=%[1]s/l,upperdir=%[1]s/u,workdir=%[1]s/w", dir)); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := unix.Unmount(root, unix.MNT_DETACH); err != nil {
			b.Error(err)
		}
	})
	return root
}

// runIn runs the canary in a cgroup that bears a container's name, and removes it.
func runIn(b *testing.B, root, id string) {
	b.Helper()
	program, err := canary.Here(time.Second)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := os.Stat(root + "/canary"); err != nil {
		if err := os.WriteFile(root+"/canary", program, 0o755); err != nil {
			b.Fatal(err)
		}
	}
	parent := "/sys/fs/cgroup/unified"
	if _, err := os.Stat(parent); err != nil {
		parent = "/sys/fs/cgroup"
	}
	dir := filepath.Join(parent, "contraband-bench", id)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		b.Fatal(err)
	}
	f, err := os.Open(dir)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	cmd := exec.Command("/canary")
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS, Chroot: root, UseCgroupFD: true, CgroupFD: int(f.Fd())}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
		if err := os.Remove(dir); err != nil {
			b.Error(err)
		}
	})
}
