package sensor_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fixtureVariable names a directory of built fixtures: on a machine without a
// compiler, such as a bare kernel in an emulator.
const fixtureVariable = "SENSOR_TEST_FIXTURE"

// fixture returns a directory with actor, actor-dynamic, actor.so, busybox, and
// the C library and loader that the dynamic ones need under lib/.
func fixture(t testing.TB) string {
	t.Helper()
	if dir := os.Getenv(fixtureVariable); dir != "" {
		return dir
	}
	if os.Getuid() != 0 {
		t.Skip("NOT RUN: root is needed, for BPF and containers")
	}
	for _, program := range []string{"runc", "gcc", "busybox"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("NOT RUN: %v (make deps)", err)
		}
	}
	dir := t.TempDir()
	out, err := exec.Command("sh", "testdata/fixture.sh", dir).CombinedOutput()
	if err != nil {
		t.Fatalf("build the fixtures: %v\n%s", err, out)
	}
	return dir
}

// bundle is a container that runc runs on an overlay of our own making, so that
// its layers can be looked at and mounted anew.
type bundle struct {
	id, dir, lower, upper string
}

// startBundle runs one with the image's files below lower; it sleeps.
func startBundle(t testing.TB, fixture string) *bundle {
	t.Helper()
	id := fmt.Sprintf("%064x", rand.Uint64())
	b := &bundle{id: id, dir: t.TempDir()}
	b.lower, b.upper = filepath.Join(b.dir, "image"), filepath.Join(b.dir, "upper")
	for _, d := range []string{"rootfs", "upper", "work", "shared", "image/tmp", "image/vol", "image/data", "image/proc", "image/dev", "image/lib64", "image/usr/bin"} {
		if err := os.MkdirAll(filepath.Join(b.dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	script := fmt.Sprintf(`cd %[1]s && cp -r %[2]s/lib . && cp %[2]s/lib/ld-linux* lib64/ && cp %[2]s/busybox %[2]s/actor %[2]s/actor-dynamic usr/bin/ &&
		ln -s usr/bin bin && for a in sh sleep cp mv ln chmod chown touch cat rm mount umount mkdir unshare; do ln -s busybox usr/bin/$a; done &&
		cp usr/bin/actor usr/bin/tool && ln usr/bin/tool usr/bin/tool2 && cp usr/bin/actor usr/bin/other && cp usr/bin/actor usr/bin/written && printf '#!/bin/sh\nexit 0\n' > usr/bin/script && chmod 755 usr/bin/script`, b.lower, fixture)
	if out, err := exec.Command("sh", "-c", script).CombinedOutput(); err != nil {
		t.Fatalf("make the image: %v\n%s", err, out)
	}
	b.mount(t)
	b.start(t)
	t.Cleanup(func() {
		b.stop(t)
		if err := unix.Unmount(filepath.Join(b.dir, "rootfs"), unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return b
}

func (b *bundle) mount(t testing.TB) {
	t.Helper()
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", b.lower, b.upper, filepath.Join(b.dir, "work"))
	if err := unix.Mount("overlay", filepath.Join(b.dir, "rootfs"), "overlay", 0, options); err != nil {
		t.Fatalf("mount an overlay: %v", err)
	}
}

func (b *bundle) config() map[string]any {
	type object = map[string]any
	all := []string{"CAP_SYS_ADMIN", "CAP_DAC_OVERRIDE", "CAP_CHOWN", "CAP_FOWNER", "CAP_SETUID", "CAP_SETGID", "CAP_SYS_CHROOT"}
	mount := func(to, kind, from string, options ...string) object {
		return object{"destination": to, "type": kind, "source": from, "options": options}
	}
	return object{
		"ociVersion": "1.0.2", "hostname": "box", "root": object{"path": "rootfs"},
		"process": object{"args": []string{"/bin/sleep", "100000"}, "cwd": "/", "env": []string{"PATH=/bin"}, "user": object{"uid": 0, "gid": 0},
			"capabilities": object{"bounding": all, "effective": all, "permitted": all}},
		"mounts": []object{mount("/proc", "proc", "proc"), mount("/dev", "tmpfs", "tmpfs", "mode=755"), mount("/vol", "tmpfs", "tmpfs", "mode=777"),
			mount("/data", "bind", filepath.Join(b.dir, "shared"), "rbind", "rw")},
		"linux": object{"cgroupsPath": "/contraband-test/" + b.id, "namespaces": []object{{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}},
			"resources": object{"devices": []object{{"allow": true, "access": "rwm"}}}},
	}
}

func (b *bundle) start(t testing.TB) {
	t.Helper()
	body, err := json.Marshal(b.config())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.dir, "config.json"), body, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := b.runc("run", "--no-pivot", "--detach", "--bundle", b.dir, b.id); err != nil {
		t.Fatalf("runc run: %v\n%s", err, out)
	}
}

func (b *bundle) runc(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	// A file and no pipe: what the container leaves running would hold a pipe open.
	out, err := os.CreateTemp(b.dir, "out")
	if err != nil {
		return "", err
	}
	defer out.Close()
	cmd := exec.CommandContext(ctx, "runc", append([]string{"--root", filepath.Join(b.dir, "runc")}, args...)...)
	cmd.Stdout, cmd.Stderr = out, out
	err = cmd.Run()
	if _, e := out.Seek(0, io.SeekStart); e != nil {
		return "", e
	}
	text, _ := io.ReadAll(out)
	return string(text), err
}

func (b *bundle) stop(t testing.TB) {
	t.Helper()
	if out, err := b.runc("delete", "--force", b.id); err != nil {
		t.Errorf("runc delete: %v\n%s", err, out)
	}
}

// sh runs a script in the container and fails the test when it fails.
func (b *bundle) sh(t testing.TB, script string) {
	t.Helper()
	if out, err := b.runc("exec", b.id, "/bin/sh", "-c", script); err != nil {
		t.Errorf("%s: %v\n%s", script, err, strings.TrimSpace(out))
	}
}

// remount mounts the same layers anew, with the container away meanwhile: what
// overlayfs remembered of the files is forgotten.
func (b *bundle) remount(t testing.TB) {
	t.Helper()
	b.stop(t)
	if err := unix.Unmount(filepath.Join(b.dir, "rootfs"), 0); err != nil {
		t.Fatalf("unmount: %v", err)
	}
	b.mount(t)
	b.start(t)
}
