package sensor_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/contraband-dev/contraband/internal/sensorapi"
	"github.com/contraband-dev/contraband/sensor"
)

// need is the tier without which a route is not seen.
type need int

const (
	core need = iota
	lsm       // BPF LSM: files that are mapped
)

// deed is one way to run what is not of the image, or to run what is.
type deed struct {
	name   string
	script string          // run by sh in the container; P is a program that is not of the image
	path   string          // where it is seen
	route  sensorapi.Route // "": silent
	sameAs string
	needs  need
	unsure bool // hashed only where the LSM or the fanotify tier sees it
}

// deeds is the matrix: what this sensor promises, line by line.
var deeds = []deed{
	{name: "added: a new file", script: "cp /data/p /tmp/new; /tmp/new", path: "/tmp/new", route: sensorapi.Added},
	{name: "added: written, then renamed", script: "cp /data/p /tmp/x; mv /tmp/x /tmp/renamed; /tmp/renamed", path: "/tmp/renamed", route: sensorapi.Added},
	{name: "added: hard link of an added file", script: "cp /data/p /tmp/y; ln /tmp/y /tmp/linked; /tmp/linked", path: "/tmp/linked", route: sensorapi.Added},
	{name: "added: an image file removed and made anew", script: "rm /usr/bin/other; cp /data/p /usr/bin/other; /usr/bin/other", path: "/usr/bin/other", route: sensorapi.Added},
	{name: "added: O_TMPFILE", script: "actor tmpfile /data/p", path: "/tmp/#", route: sensorapi.Added, unsure: true},
	{name: "added: execveat by descriptor", script: "cp /data/p /tmp/at; actor execveat /tmp/at", path: "/tmp/at", route: sensorapi.Added},
	{name: "added: written by io_uring, run by execveat", script: "actor uring /data/p /tmp/ring", path: "/tmp/ring", route: sensorapi.Added},
	{name: "added: unlinks itself and ends at once", script: "cp /data/p /tmp/brief; exec /tmp/brief unlink", path: "/tmp/brief", route: sensorapi.Added, unsure: true},
	{name: "added: a copy of an image file", script: "cp /usr/bin/actor /tmp/copy; /tmp/copy", path: "/tmp/copy", route: sensorapi.Added, sameAs: "/usr/bin/actor"},
	{name: "modified: an image file written to", script: "printf x >> /usr/bin/written; /usr/bin/written", path: "/usr/bin/written", route: sensorapi.Modified},
	{name: "deleted: unlinked, then run", script: "cp /data/p /tmp/gone; actor unlinked /tmp/gone", path: "/tmp/gone", route: sensorapi.Deleted, unsure: true},
	{name: "volume: tmpfs", script: "cp /data/p /vol/t; /vol/t; sleep 0.05", path: "/vol/t", route: sensorapi.Volume, unsure: true},
	{name: "volume: bind mount of a host directory", script: "cp /data/p /data/b; /data/b; sleep 0.05", path: "/data/b", route: sensorapi.Volume},
	{name: "memory: memfd and execveat", script: "actor memfd /data/p", path: "/memfd:hidden", route: sensorapi.Memory, unsure: true},
	{name: "script: added", script: "printf '#!/bin/sh\nexit 0\n#x' > /tmp/s.sh; chmod 755 /tmp/s.sh; /tmp/s.sh", path: "/tmp/s.sh", route: sensorapi.Script},
	{name: "script: added, called by a relative name", script: "cd /tmp; printf '#!/bin/sh\nsleep 0.1\n' > r.sh; chmod 755 r.sh; ./r.sh", path: "/tmp/r.sh", route: sensorapi.Script},
	{name: "script: on a volume", script: "printf '#!/bin/sh\nsleep 0.1\n' > /vol/v.sh; chmod 755 /vol/v.sh; /vol/v.sh", path: "/vol/v.sh", route: sensorapi.Script},
	{name: "loader: a program given to ld.so", script: "cp /usr/bin/actor-dynamic /tmp/dyn; printf x >> /tmp/dyn; /lib64/ld-linux-x86-64.so.2 /tmp/dyn exit", path: "/tmp/dyn", route: sensorapi.Loader, needs: lsm},
	{name: "library: LD_PRELOAD", script: "cp /data/actor.so /tmp/pre.so; LD_PRELOAD=/tmp/pre.so actor-dynamic exit", path: "/tmp/pre.so", route: sensorapi.Library, needs: lsm},
	{name: "library: dlopen", script: "cp /data/actor.so /tmp/open.so; actor-dynamic dlopen /tmp/open.so", path: "/tmp/open.so", route: sensorapi.Library, needs: lsm},
	{name: "nested: an overlay of the attacker's own", script: "cd /vol; mkdir l u w m; cp /data/p l/evil; mount -t overlay overlay -o lowerdir=/vol/l,upperdir=/vol/u,workdir=/vol/w /vol/m && /vol/m/evil; i=0; until umount /vol/m 2>/dev/null; do i=$((i+1)); [ $i -lt 40 ] || exit 1; sleep 0.25; done", path: "/vol/m/evil", route: sensorapi.Nested, unsure: true},

	{name: "silent: an image file", script: "/usr/bin/tool", path: "/usr/bin/tool"},
	{name: "silent: an image script", script: "/usr/bin/script", path: "/usr/bin/script"},
	{name: "silent: chmod", script: "chmod 755 /usr/bin/tool; /usr/bin/tool", path: "/usr/bin/tool"},
	{name: "silent: touch", script: "touch /usr/bin/tool; /usr/bin/tool", path: "/usr/bin/tool"},
	{name: "silent: chown", script: "chown 0 /usr/bin/tool; /usr/bin/tool", path: "/usr/bin/tool"},
	{name: "silent: opened to read and write", script: ": >> /usr/bin/tool; /usr/bin/tool", path: "/usr/bin/tool"},
	{name: "silent: hard link", script: "ln /usr/bin/tool /usr/bin/tool3; /usr/bin/tool3", path: "/usr/bin/tool3"},
	{name: "silent: rename", script: "mv /usr/bin/tool3 /usr/bin/tool4; /usr/bin/tool4", path: "/usr/bin/tool4"},
	{name: "silent: chmod of a hard-linked file, then mounted anew", script: "/usr/bin/tool2", path: "/usr/bin/tool2"}, // the chmod is matrix's
	{name: "silent: a compiler's memory, mapped twice", script: "actor jit vmem", path: "/memfd:vmem"},
	{name: "silent: chmod of a script", script: "chmod 755 /usr/bin/script; /usr/bin/script", path: "/usr/bin/script"},
}

// notInTable: its column would say what that of the default tiers says.
const notInTable = "all tiers"

// TestMatrix does every deed in a real container and prints, for this kernel and
// each set of tiers, what was caught, named and hashed.
func TestMatrix(t *testing.T) {
	dir := fixture(t)
	for _, tiers := range []struct {
		name string
		bpf  sensor.Tier
	}{{"default tiers", sensor.DefaultTiers}, {"core alone", sensor.CoreTier}, {notInTable, sensor.AllTiers}} {
		t.Run(tiers.name, func(t *testing.T) { matrix(t, dir, tiers.name, tiers.bpf) })
	}
}

func matrix(t *testing.T, fixture, name string, tier sensor.Tier) {
	b := startBundle(t, fixture)
	copyInto(t, fixture+"/actor", b.dir+"/shared/p", "x") // one byte more: not of the image
	copyInto(t, fixture+"/actor.so", b.dir+"/shared/actor.so", "")
	b.sh(t, "chmod 755 /usr/bin/tool2") // what was hard-linked in the image is upper only after a remount
	b.remount(t)

	p := newPublished()
	s, _ := startSensorWith(t, p, sensor.Config{Node: "test-node", StateDir: t.TempDir(), Containerd: []string{}, Docker: []string{}, Tier: tier})
	coverage := s.Coverage()
	var release unix.Utsname
	if err := unix.Uname(&release); err != nil {
		t.Fatal(err)
	}
	kernel := unix.ByteSliceToString(release.Release[:])
	t.Logf("%s: %s", kernel, coverage)
	line := func(row, cell string) {
		if name != notInTable {
			fmt.Printf("MATRIX\t%s\t%s\t%s\t%s\n", kernel, name, row, cell)
		}
	}
	line("tiers", coverage.Tiers())
	if tier == sensor.AllTiers && !coverage.IMA {
		t.Skipf("NOT RUN: on this kernel the default tiers are all that there are: %s", coverage)
	}
	if tier == sensor.AllTiers && !coverage.Fanotify {
		t.Errorf("asked for all tiers, got %s", coverage)
	}

	impossible := map[string]bool{}
	for _, d := range deeds {
		switch out, err := b.runc("exec", b.id, "/bin/sh", "-c", d.script); {
		case strings.Contains(fmt.Sprint(err), "exit status 77"): // IMPOSSIBLE in actor.c
			impossible[d.name] = true
		case err != nil:
			t.Errorf("%s: %v\n%s", d.script, err, strings.TrimSpace(out))
		}
	}
	mark(t, b, p)
	for _, d := range deeds {
		if impossible[d.name] {
			line(d.name, "this kernel cannot")
			continue
		}
		got, caught := p.find(d)
		hashed := caught && got.File.SHA256 != ""
		named := caught && got.Container.ID == b.id
		line(d.name, verdictOf(d, caught, named, hashed))
		switch seen := d.needs == core || coverage.LSM; {
		case d.route == "" && caught:
			t.Errorf("%s: a false alarm: %+v", d.name, got)
		case d.route == "":
		case seen && !caught:
			t.Errorf("%s: missed; got %q", d.name, p.paths())
		case !seen && caught:
			t.Errorf("%s: seen without its tier: %+v", d.name, got)
		case !seen:
		case got.Route != d.route || got.SameAs != d.sameAs:
			t.Errorf("%s: route %q, same as %q; want %q, %q", d.name, got.Route, got.SameAs, d.route, d.sameAs)
		case !named:
			t.Errorf("%s: in container %q, want %q", d.name, got.Container.ID, b.id)
		case !hashed && (!d.unsure || coverage.IMA):
			t.Errorf("%s: not hashed: %s", d.name, got.File.Unhashed)
		case !hashed && got.File.Unhashed == "":
			t.Errorf("%s: neither hashed nor a reason", d.name)
		}
	}
	if len(p.repeatedPaths()) > 0 {
		t.Errorf("told twice: %q", p.repeatedPaths())
	}
}

// mark runs something that is certainly reported, and waits for it: whatever ran
// before has then been reported too.
func mark(t *testing.T, b *bundle, p *published) {
	t.Helper()
	b.sh(t, "cp /data/p /tmp/mark; printf mark >> /tmp/mark; /tmp/mark; sleep 0.1")
	p.waitFor(t, "/tmp/mark")
	time.Sleep(300 * time.Millisecond) // what is examined side by side
}

// find returns the detection of a deed; a path that ends in # is a beginning.
func (p *published) find(want deed) (sensorapi.Detection, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, d := range p.got {
		prefix, isPrefix := strings.CutSuffix(want.path, "#")
		if d.Process.Path == want.path || isPrefix && strings.HasPrefix(d.Process.Path, prefix+"#") {
			return d, true
		}
	}
	return sensorapi.Detection{}, false
}

func (p *published) repeatedPaths() (out []string) {
	seen := map[string]bool{}
	for _, path := range p.paths() {
		if seen[path] {
			out = append(out, path)
		}
		seen[path] = true
	}
	return out
}

func verdictOf(d deed, caught, named, hashed bool) string {
	switch {
	case d.route == "" && caught:
		return "FALSE ALARM"
	case d.route == "":
		return "silent"
	case !caught:
		return "not seen"
	}
	out := "caught"
	if named {
		out += ", named"
	}
	if hashed {
		out += ", hashed"
	}
	return out
}

func copyInto(t testing.TB, from, to, more string) {
	t.Helper()
	body, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, append(body, more...), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := exec.Command("chmod", "755", to).Run(); err != nil {
		t.Fatal(err)
	}
}
