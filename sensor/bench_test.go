package sensor_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/contraband-dev/contraband/bpf"
	"github.com/contraband-dev/contraband/sensor"
)

// BenchmarkSensor prints the tables of docs/performance.md. Each figure stands
// beside one of a peer or of nothing, taken in the same run.
//
//	make bench-sensor
func BenchmarkSensor(b *testing.B) {
	dir := fixture(b)
	b.Run("quiet", func(b *testing.B) { benchQuiet(b, dir) })
	b.Run("paired", func(b *testing.B) { benchPaired(b, dir) })
	b.Run("latency", func(b *testing.B) { benchLatency(b, dir) })
	b.Run("storm", func(b *testing.B) { benchStorm(b, dir) })
}

func row(cells ...any) {
	text := make([]string, len(cells))
	for i, c := range cells {
		text[i] = fmt.Sprint(c)
	}
	fmt.Println("BENCH\t| " + strings.Join(text, " | ") + " |")
}

// execs runs a program of the image n times in the container, and returns the
// time that the loop took there, and the median of one.
func execs(b *testing.B, box *bundle, n int) (all, one time.Duration) {
	b.Helper()
	out, err := box.runc("exec", box.id, "/bin/actor", "loop", "/usr/bin/tool", fmt.Sprint(n))
	if err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	if _, err := fmt.Sscan(out, (*int64)(&all), (*int64)(&one)); err != nil {
		b.Fatalf("%q: %v", out, err)
	}
	return all, one
}

// benchQuiet: what the program at exec costs for a program of the image, by the
// kernel's own statistics, beside an empty program at the same hook.
func benchQuiet(b *testing.B, dir string) {
	box := startBundle(b, dir)
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		b.Fatal(err)
	}
	defer stats.Close()
	empty, detach := attachEmpty(b)
	defer detach()
	programs, err := bpf.Load(bpf.Config{CoreOnly: true})
	if err != nil {
		b.Fatal(err)
	}
	defer programs.Close()
	measure := func(what string, run func()) {
		runs0, took0, err := programs.Cost()
		e0, emptyErr := empty.Stats()
		run()
		runs1, took1, err1 := programs.Cost()
		e1, emptyErr1 := empty.Stats()
		for _, err := range []error{err, err1, emptyErr, emptyErr1} {
			if err != nil {
				b.Fatal(err)
			}
		}
		ours := float64(took1-took0) / float64(runs1-runs0)
		none := float64(e1.Runtime-e0.Runtime) / float64(e1.RunCount-e0.RunCount)
		row(what, fmt.Sprintf("%.0f ns", ours), fmt.Sprintf("%.0f ns", none), fmt.Sprintf("%.1fx", ours/none), runs1-runs0)
	}
	row("(a) BPF run-time statistics", "our program", "an empty program", "ratio", "runs")
	measure("exec of an image file in a container", func() { execs(b, box, 5000) })
	measure("exec on the host", func() {
		for range 500 {
			if err := exec.Command("/bin/true").Run(); err != nil {
				b.Fatal(err)
			}
		}
	})
	copyInto(b, dir+"/actor", box.dir+"/shared/p", "x")
	measure("exec of an added file, told once and then counted", func() {
		if out, err := box.runc("exec", box.id, "/bin/actor", "loop", "/data/p", "2000"); err != nil {
			b.Fatalf("%v\n%s", err, out)
		}
	})
}

// attachEmpty attaches a program that does nothing to sched_process_exec.
func attachEmpty(b *testing.B) (*ebpf.Program, func()) {
	return attachNothing(b, ebpf.ProgramSpec{Type: ebpf.Tracing, AttachType: ebpf.AttachTraceRawTp, AttachTo: "sched_process_exec"})
}

// attachEmptyLSM attaches one to each LSM hook that the sensor uses.
func attachEmptyLSM(b *testing.B) func() {
	var detach []func()
	for _, hook := range []string{"bprm_check_security", "mmap_file"} {
		_, d := attachNothing(b, ebpf.ProgramSpec{Type: ebpf.LSM, AttachType: ebpf.AttachLSMMac, AttachTo: hook, Flags: unix.BPF_F_SLEEPABLE})
		detach = append(detach, d)
	}
	return func() {
		for _, d := range detach {
			d()
		}
	}
}

func attachNothing(b *testing.B, spec ebpf.ProgramSpec) (*ebpf.Program, func()) {
	b.Helper()
	spec.Name, spec.License = "empty", "GPL"
	spec.Instructions = asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}
	program, err := ebpf.NewProgram(&spec)
	if err != nil {
		b.Fatal(err)
	}
	var l link.Link
	if spec.Type == ebpf.LSM {
		l, err = link.AttachLSM(link.LSMOptions{Program: program})
	} else {
		l, err = link.AttachTracing(link.TracingOptions{Program: program})
	}
	if err != nil {
		b.Fatal(err)
	}
	return program, func() { l.Close(); program.Close() }
}

// benchPaired: fork, exec and wait with and without each watcher, in turns. The
// floor is the same without anything, twice.
func benchPaired(b *testing.B, dir string) {
	box := startBundle(b, dir)
	const rounds, n = 15, 400
	nothing := func() func() { return func() {} }
	watchers := []struct {
		name  string
		start func() func()
	}{
		{"nothing, again (the noise floor)", nothing},
		{"this sensor, as it comes", func() func() { return startForBench(b, sensor.DefaultTiers) }},
		{"this sensor, core tier", func() func() { return startForBench(b, sensor.CoreTier) }},
		{"bpftrace, printing every exec", startBpftrace(b)},
		{"execsnoop (libbpf-tools)", startPeer(b, "", "execsnoop")},
	}
	row("(c) fork+exec+wait of an image file in a container, paired", "median ratio to nothing", "lower and upper quartile", "rounds")
	for _, w := range watchers {
		if w.start == nil {
			row(w.name, "NOT RUN: not installed", "", "")
			continue
		}
		var ratios []float64
		stop := w.start()
		stop()
		for i := range rounds {
			var with, without time.Duration
			measure := func() { stop := w.start(); with, _ = execs(b, box, n); stop() }
			if i%2 == 0 {
				measure()
			}
			without, _ = execs(b, box, n)
			if i%2 == 1 {
				measure()
			}
			ratios = append(ratios, float64(with)/float64(without))
		}
		slices.Sort(ratios)
		row(w.name, fmt.Sprintf("%.3f", ratios[rounds/2]), fmt.Sprintf("%.3f to %.3f", ratios[rounds/4], ratios[3*rounds/4]), rounds)
	}
}

func startForBench(b *testing.B, tier sensor.Tier) func() {
	_, stop := startSensorWith(b, newPublished(), sensor.Config{Node: "bench", StateDir: b.TempDir(), CRI: []string{}, Containerd: []string{}, Docker: []string{}, Tier: tier})
	time.Sleep(200 * time.Millisecond) // its self-test runs programs of its own
	return stop
}

func startBpftrace(b *testing.B) func() func() {
	return startPeer(b, "ready", "bpftrace", "-B", "line", "-e", `BEGIN { printf("ready\n"); } tracepoint:sched:sched_process_exec { printf("%d %s\n", pid, comm); }`)
}

// startPeer returns nil when the peer is not on this machine. ready is the line of its
// output that says that it watches; "" where there is none, and it is given two seconds.
func startPeer(b *testing.B, ready, program string, args ...string) func() func() {
	if _, err := exec.LookPath(program); err != nil {
		return nil
	}
	const tracefs = "/sys/kernel/tracing" // the peers look there
	if _, err := os.Stat(tracefs + "/events"); err != nil {
		if err := unix.Mount("tracefs", tracefs, "tracefs", 0, ""); err != nil {
			b.Fatalf("mount tracefs for %s: %v", program, err)
		}
	}
	return func() func() {
		ctx, cancel := context.WithCancel(context.Background())
		cmd := exec.CommandContext(ctx, program, args...)
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			b.Fatal(err)
		}
		watches, read := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(read)
			for lines := bufio.NewScanner(out); lines.Scan(); {
				if ready != "" && lines.Text() == ready {
					close(watches)
				}
			}
		}()
		patience := 2 * time.Second
		if ready != "" {
			patience = 5 * time.Minute // it compiles its program, in an emulator slowly
		}
		select {
		case <-watches:
		case <-time.After(patience):
			if ready != "" {
				b.Fatalf("%s has not said %q within %s", program, ready, patience)
			}
		}
		return func() { cancel(); <-read; _ = cmd.Wait() }
	}
}

// benchLatency: from the exec to the detection with its hash, and to the disk,
// beside sha256sum of the same file.
func benchLatency(b *testing.B, dir string) {
	box := startBundle(b, dir)
	p := newPublished()
	_, stop := startSensorWith(b, p, sensor.Config{Node: "bench", StateDir: b.TempDir(), CRI: []string{}, Containerd: []string{}, Docker: []string{}})
	defer stop()
	time.Sleep(300 * time.Millisecond)
	row("(d) exec to detection", "exec to hashed and named", "sha256sum of the file", "limit 1.2x + 2 ms", "and to the disk, fsynced")
	for _, size := range []struct {
		name  string
		bytes int
	}{{"10 KB", 10 << 10}, {"1 MB", 1 << 20}, {"50 MB", 50 << 20}} {
		var ours, disk, sum []time.Duration
		for i := range 7 {
			path := fmt.Sprintf("/tmp/l%d-%d", size.bytes, i)
			host := filepath.Join(box.dir, "rootfs", path)
			script := fmt.Sprintf("#!/bin/sh\nexit 0\n#%d", i)
			pad(b, dir+"/actor", host, size.bytes, script)
			box.sh(b, path)
			d := p.waitFor(b, path)
			ours = append(ours, d.Timing.Attributed.Sub(d.Time))
			disk = append(disk, p.arrival(path).Sub(d.Time))
			began := time.Now()
			if out, err := exec.Command("sha256sum", host).CombinedOutput(); err != nil {
				b.Fatalf("%v %s", err, out)
			}
			sum = append(sum, time.Since(began))
		}
		limit := time.Duration(1.2*float64(median(sum))) + 2*time.Millisecond
		verdict := "within"
		if median(ours) > limit {
			verdict = "OVER"
		}
		row(size.name, median(ours).Round(10*time.Microsecond), median(sum).Round(10*time.Microsecond), fmt.Sprintf("%s (%s)", limit.Round(10*time.Microsecond), verdict), median(disk).Round(10*time.Microsecond))
	}
}

// pad makes a program of at least a size, unlike any other.
func pad(b *testing.B, from, to string, size int, more string) {
	b.Helper()
	body, err := os.ReadFile(from)
	if err != nil {
		b.Fatal(err)
	}
	if size < len(body) { // smaller than the actor: a shell script's worth, run through the image's shell
		body = []byte(more)
	}
	body = append(body, make([]byte, max(0, size-len(body)-len(more)))...)
	if err := os.WriteFile(to, append(body, more...), 0o755); err != nil {
		b.Fatal(err)
	}
}

func median(d []time.Duration) time.Duration {
	d = slices.Clone(d)
	slices.Sort(d)
	return d[len(d)/2]
}

// benchStorm: ten thousand execs of one added file, and of as many different ones.
func benchStorm(b *testing.B, dir string) {
	row("(e) storm of 10,000 execs", "seen", "reported", "repeats counted", "dropped by the ring", "hashed", "resident after", "until all were reported")
	for _, distinct := range []int{0, 1} {
		box := startBundle(b, dir)
		p := newPublished()
		s, stop := startSensorWith(b, p, sensor.Config{Node: "bench", StateDir: b.TempDir(), CRI: []string{}, Containerd: []string{}, Docker: []string{}, SpoolMax: 20_000})
		time.Sleep(300 * time.Millisecond)
		const n = 10_000
		began := time.Now()
		box.sh(b, fmt.Sprintf("mkdir /tmp/s; actor storm /usr/bin/actor /tmp/s %d %d", n, distinct))
		for last := -1; ; time.Sleep(500 * time.Millisecond) {
			st, err := s.Stats()
			if err != nil {
				b.Fatal(err)
			}
			if got := len(p.paths()); st.Unread == 0 && st.Spooled == 0 && got == last {
				break
			} else {
				last = got
			}
		}
		took := time.Since(began)
		st, err := s.Stats()
		if err != nil {
			b.Fatal(err)
		}
		hashed := 0
		p.mu.Lock()
		for _, d := range p.got {
			if d.File.SHA256 != "" {
				hashed++
			}
		}
		told := len(p.got)
		p.mu.Unlock()
		what := "one file"
		if distinct == 1 {
			what = "different files, each of which unlinks itself"
		}
		row(what, st.Kernel.Sent+st.Kernel.Repeated+st.Kernel.Dropped, told, st.Kernel.Repeated, st.Kernel.Dropped, fmt.Sprintf("%d of %d", hashed, told), resident(), took.Round(100*time.Millisecond))
		stop()
	}
}

func resident() string {
	body, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err.Error()
	}
	for line := range strings.Lines(string(body)) {
		if rest, found := strings.CutPrefix(line, "VmRSS:"); found {
			return strings.TrimSpace(rest) + " (the whole test)"
		}
	}
	return "unknown"
}

// BenchmarkInstructions is run in an emulator whose clock counts instructions
// (sensor/kernels/run.sh, BENCH=1): what takes a nanosecond there is one.
func BenchmarkInstructions(b *testing.B) {
	if os.Getenv(fixtureVariable) == "" {
		b.Skip("NOT RUN: it is for the emulator: make bench-sensor")
	}
	box := startBundle(b, fixture(b))
	const rounds, n = 9, 100
	watchers := []struct {
		name  string
		start func() func()
	}{
		{"nothing, again (the noise floor)", func() func() { return func() {} }},
		{"an empty program at exec", func() func() { _, detach := attachEmpty(b); return detach }},
		{"this sensor, core tier", func() func() { return startForBench(b, sensor.CoreTier) }},
		{"empty programs at exec, check and map", func() func() {
			_, detach := attachEmpty(b)
			lsm := attachEmptyLSM(b)
			return func() { lsm(); detach() }
		}},
		{"this sensor, as it comes", func() func() { return startForBench(b, sensor.DefaultTiers) }},
		{"this sensor, all its tiers", func() func() { return startForBench(b, sensor.AllTiers) }},
		{"bpftrace, printing every exec", startBpftrace(b)},
		{"execsnoop (libbpf-tools)", startPeer(b, "", "execsnoop")},
		{"auditd's execve rule (auditctl)", auditRule(b)},
	}
	row("(b) instructions a fork+exec+wait of an image file in a container", "instructions", "more than nothing", "lower and upper quartile")
	// In turns, each beside nothing in the same round: what the guest does besides drifts.
	// Of the hundred of a turn the median: timers and what runs late fall into a few of them.
	execs(b, box, n)
	took := func() float64 { _, one := execs(b, box, n); return float64(one) }
	all, nothing := make([][]float64, len(watchers)), []float64(nil)
	for range rounds {
		none := took()
		for i, w := range watchers {
			if w.start == nil {
				continue
			}
			stop := w.start()
			execs(b, box, 10)
			all[i] = append(all[i], took()-none)
			stop()
		}
		nothing = append(nothing, none)
	}
	slices.Sort(nothing)
	none := nothing[rounds/2]
	row("nothing", fmt.Sprintf("%.0f", none), "", "")
	for i, w := range watchers {
		more := all[i]
		if w.start == nil {
			row(w.name, "NOT RUN: not in the guest", "", "")
			continue
		}
		slices.Sort(more)
		percent := func(n float64) string { return fmt.Sprintf("%+.2f%%", 100*n/none) }
		row(w.name, fmt.Sprintf("%.0f", none+more[rounds/2]), percent(more[rounds/2]), percent(more[rounds/4])+" to "+percent(more[3*rounds/4]))
	}
}

func auditRule(b *testing.B) func() func() {
	if _, err := exec.LookPath("auditctl"); err != nil {
		return nil
	}
	rule := []string{"always,exit", "-F", "arch=b64", "-S", "execve"}
	return func() func() {
		for _, args := range [][]string{{"-e", "1"}, append([]string{"-a"}, rule...)} {
			if out, err := exec.Command("auditctl", args...).CombinedOutput(); err != nil {
				b.Logf("auditctl %q: %v %s", args, err, out)
			}
		}
		return func() {
			if out, err := exec.Command("auditctl", append([]string{"-d"}, rule...)...).CombinedOutput(); err != nil {
				b.Logf("auditctl -d: %v %s", err, out)
			}
		}
	}
}
