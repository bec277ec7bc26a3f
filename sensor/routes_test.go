package sensor_test

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/contraband-dev/contraband/internal/canary"
	"github.com/contraband-dev/contraband/internal/sensorapi"
	"github.com/contraband-dev/contraband/internal/testenv/containers/containertest"
)

// helperVariable makes this test binary a program inside a container.
const helperVariable = "SENSOR_TEST_HELPER"

func TestMain(m *testing.M) {
	if os.Getenv(helperVariable) == "memfd" {
		runFromMemory()
	}
	os.Exit(m.Run())
}

// runFromMemory executes the canary from a memfd.
func runFromMemory() {
	program, err := canary.Here(time.Second)
	if err != nil {
		panic(err)
	}
	fd, err := unix.MemfdCreate("hidden", 0)
	if err != nil {
		panic(err)
	}
	if _, err := unix.Write(fd, program); err != nil {
		panic(err)
	}
	panic(unix.Exec(fmt.Sprintf("/proc/self/fd/%d", fd), []string{"[kworker]"}, nil))
}

// TestFromMemory runs a program that never was a file.
func TestFromMemory(t *testing.T) {
	bed := containertest.Start(t)
	box := runBox(t, bed, nil)
	p := newPublished()
	startSensor(t, bed, t.TempDir(), p)
	helper := t.TempDir() + "/helper"
	build := exec.Command("go", "test", "-c", "-o", helper, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // the container has no C library
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the helper: %v\n%s", err, out)
	}
	body, err := os.ReadFile(helper)
	if err != nil {
		t.Fatal(err)
	}
	if err := box.Drop(t.Context(), "/tmp/helper", body); err != nil {
		t.Fatal(err)
	}
	if out, err := box.Exec(t.Context(), nil, "/bin/sh", "-c", helperVariable+"=memfd exec /tmp/helper"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	d := p.waitFor(t, "/memfd:hidden")
	if d.Route != sensorapi.Memory || d.File.SHA256 != canary.SHA256(program(t, time.Second)) {
		t.Errorf("route %q, file %+v", d.Route, d.File)
	}
}

// TestRestoredBytesAreNotTheImages: malware that puts the image's bytes back
// after it has begun is not called the image's.
func TestRestoredBytesAreNotTheImages(t *testing.T) {
	bed := containertest.Start(t)
	box := runBox(t, bed, nil)
	if err := box.Drop(t.Context(), "/tmp/evil", program(t, time.Second)); err != nil {
		t.Fatal(err)
	}
	p := newPublished()
	startSensor(t, bed, t.TempDir(), p)
	for range 5 {
		script := "cat /usr/bin/tool > /tmp/orig; cat /tmp/evil > /usr/bin/tool; /usr/bin/tool >/dev/null; cat /tmp/orig > /usr/bin/tool; true"
		if out, err := box.Exec(t.Context(), nil, "/bin/sh", "-c", script); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	if d := p.waitFor(t, "/usr/bin/tool"); d.Route != sensorapi.Modified {
		t.Errorf("route %q", d.Route)
	}
}

// TestOverlayOfOnesOwn: an overlay mounted in a user namespace, with the program
// in its lower layer, is no image.
func TestOverlayOfOnesOwn(t *testing.T) {
	bed := containertest.Start(t)
	box := runBox(t, bed, nil)
	p := newPublished()
	startSensor(t, bed, t.TempDir(), p)
	if err := box.Drop(t.Context(), "/tmp/l/evil", program(t, time.Second)); err != nil {
		t.Fatal(err)
	}
	// nsenter plays the user namespace's owner inside the container's mounts.
	script := `cd /vol && mkdir -p l u w m && cp /tmp/l/evil l/evil && mount -t overlay overlay -o lowerdir=/vol/l,upperdir=/vol/u,workdir=/vol/w,userxattr /vol/m && chroot /vol/m /evil`
	pid, err := box.PID(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cgroup := fmt.Sprintf(`for d in /sys/fs/cgroup/unified /sys/fs/cgroup; do [ -f $d%s/cgroup.procs ] && echo $$ > $d%s/cgroup.procs && break; done; `, box.Cgroup(), box.Cgroup())
	out, err := exec.Command("sh", "-c", cgroup+`exec nsenter -t "$0" -m -p -- /bin/busybox unshare -U -r -m /bin/busybox sh -c "$1"`, pid,
		`mount() { /bin/busybox mount "$@"; }; chroot() { /bin/busybox chroot "$@"; }; `+script).CombinedOutput()
	if err != nil {
		t.Fatalf("the attack itself could not be made here: %v\n%s", err, out)
	}
	if d := p.waitFor(t, "/evil"); d.Route != sensorapi.Nested {
		t.Errorf("route %q, want nested", d.Route)
	}
}
