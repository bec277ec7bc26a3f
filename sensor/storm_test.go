package sensor_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/contraband-dev/contraband/internal/sensorapi"
	"github.com/contraband-dev/contraband/sensor"
)

// TestHashOfWhatIsGone: a thousand programs (fewer in an emulator), each of which unlinks its own file
// at once and ends, are each hashed wherever the LSM or the fanotify tier is on;
// and the hash is that of what ran.
func TestHashOfWhatIsGone(t *testing.T) {
	b := startBundle(t, fixture(t))
	p := newPublished()
	s, _ := startSensorWith(t, p, sensor.Config{Node: "test-node", StateDir: t.TempDir(), CRI: []string{}, Containerd: []string{}, Docker: []string{}})
	if c := s.Coverage(); !c.IMA && !c.Fanotify {
		t.Skipf("NOT RUN: neither tier is here: %s", c)
	}
	n := 1000
	if os.Getenv(fixtureVariable) != "" { // in an emulator, where each takes a tenth of a second
		n = 200
	}
	b.sh(t, fmt.Sprintf("mkdir /tmp/s; actor storm /usr/bin/actor /tmp/s %d 1", n))
	if !p.waitCount(n, time.Minute) {
		st, err := s.Stats()
		t.Fatalf("%d of %d were told; %+v, %v", len(p.paths()), n, st, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	sums := map[string]bool{}
	unhashed := 0
	for _, d := range p.got {
		if d.File.SHA256 == "" {
			unhashed++
			t.Logf("%s: %s", d.Process.Path, d.File.Unhashed)
		}
		sums[d.File.SHA256] = true
	}
	if unhashed > 0 || len(sums) != n {
		t.Errorf("%d of %d were not hashed; %d different hashes", unhashed, n, len(sums))
	}
	st, err := s.Stats()
	if err != nil || st.Kernel.Dropped != 0 {
		t.Errorf("%+v, %v", st, err)
	}
}

// Programs of a volume end before the sensor can ask them for their file, which stays. It
// is found on the host, also when the last one's parent is gone by then; what the host has
// not mounted is found by the parent.
func TestHashOnVolumes(t *testing.T) {
	b := startBundle(t, fixture(t))
	p := newPublished()
	startSensorWith(t, p, sensor.Config{Node: "test-node", StateDir: t.TempDir(), Tier: sensor.CoreTier, CRI: []string{}, Containerd: []string{}, Docker: []string{}})
	const n = 100
	run := fmt.Sprintf(`i=0; while [ $i -lt %d ]; do cp /usr/bin/actor $0/v$i; echo $i >> $0/v$i; $0/v$i exit; i=$((i+1)); done`, n)
	b.sh(t, fmt.Sprintf(`sh -c '%s' /data`, run))
	b.sh(t, fmt.Sprintf(`sh -c '%s; sleep 3' /vol`, run))
	if !p.waitCount(2*n, time.Minute) {
		t.Fatalf("%d of %d were told", len(p.paths()), 2*n)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	known := 0
	for _, d := range p.got {
		if d.File.SHA256 == "" || d.Route != sensorapi.Volume {
			t.Errorf("%s: %s, not hashed: %s", d.Process.Path, d.Route, d.File.Unhashed)
		}
		if a := d.Process.Ancestors; len(a) > 0 && a[0].PID == d.Process.PPID && a[0].Path == "/usr/bin/busybox" {
			known++
		}
	}
	if known < n/2 { // of the second hundred the parent is there for three seconds more
		t.Errorf("%d of %d know what they came of; the last: %+v", known, len(p.got), p.got[len(p.got)-1].Process)
	}
}

// waitCount reports whether n detections have come within the limit.
func (p *published) waitCount(n int, limit time.Duration) bool {
	for deadline := time.Now().Add(limit); ; time.Sleep(10 * time.Millisecond) {
		if len(p.paths()) >= n {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
	}
}
