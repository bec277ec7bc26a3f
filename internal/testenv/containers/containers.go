// Package containers runs real containers for the demo, the canary and the tests:
// a private containerd (its own root, state and socket), an image made from the
// local busybox, and containers with their own overlayfs, namespaces and cgroup
// through runc. Nothing deployed imports it.
package containers

import (
	"archive/tar"
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sort"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Image is the name of the image that the containers run.
const Image = "localhost/contraband-demo:1"

// maxSocketPath is the longest path of a socket that containerd accepts, in bytes.
const maxSocketPath = 104

// startTimeout bounds the wait for containerd to serve requests.
const startTimeout = time.Minute

// Runtime is a running containerd.
type Runtime struct {
	Socket     string
	dir        string
	daemon     *exec.Cmd
	exited     chan struct{} // closed when the daemon has exited
	containers []*Container
}

// Missing returns an error that names the programs that are not installed and the command that installs them.
func Missing() error {
	var absent []string
	for program, pkg := range map[string]string{"containerd": "containerd", "ctr": "containerd", "runc": "runc", "busybox": "busybox-static"} {
		if _, err := exec.LookPath(program); err != nil {
			absent = append(absent, pkg)
		}
	}
	if len(absent) == 0 {
		return staticBusybox()
	}
	sort.Strings(absent)
	return fmt.Errorf("a real container needs programs that are not installed: apt-get install -y --no-install-recommends %s", strings.Join(absent, " "))
}

// staticBusybox checks that busybox is static: a dynamic one finds no C library in the container.
func staticBusybox() error {
	path, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	f, err := elf.Open(path)
	if err != nil {
		return fmt.Errorf("read %q: %w", path, err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("%q is not static: apt-get install -y --no-install-recommends busybox-static", path)
		}
	}
	return nil
}

// Start starts containerd below dir, which must not exist or come from an earlier Start,
// and imports the image. It needs root.
func Start(ctx context.Context, dir string) (*Runtime, error) {
	return start(ctx, dir, `disabled_plugins = ["io.containerd.grpc.v1.cri"]`)
}

// StartCRI starts a containerd that also serves the CRI, as on a Kubernetes node.
func StartCRI(ctx context.Context, dir string) (*Runtime, error) {
	return start(ctx, dir, fmt.Sprintf(`[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %q
  disable_apparmor = true
  restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"`, Image))
}

func start(ctx context.Context, dir, plugins string) (*Runtime, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("a real container needs root")
	}
	if err := Missing(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, err
	}
	r := &Runtime{Socket: filepath.Join(dir, "containerd.sock"), dir: dir, exited: make(chan struct{})}
	ttrpc := filepath.Join(dir, "ttrpc")
	if over := len(r.Socket) - maxSocketPath; over > 0 {
		return nil, fmt.Errorf("directory %q is %d bytes too long for containerd's sockets; set TMPDIR to a shorter one", dir, over)
	}
	config := fmt.Sprintf(`version = 2
root = %q
state = %q
%s
[grpc]
  address = %q
[ttrpc]
  address = %q
`, filepath.Join(dir, "root"), filepath.Join(dir, "state"), plugins, r.Socket, ttrpc)
	if err := os.WriteFile(filepath.Join(dir, "containerd.toml"), []byte(config), 0o600); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "containerd.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	r.daemon = exec.Command("containerd", "--config", filepath.Join(dir, "containerd.toml"))
	r.daemon.Stdout, r.daemon.Stderr = log, log
	r.daemon.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C must reach this process only
	if err := r.daemon.Start(); err != nil {
		return nil, fmt.Errorf("start containerd: %w", err)
	}
	go func() {
		r.daemon.Wait() // its log says why it ended
		close(r.exited)
	}()
	if err := r.ready(ctx); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	if err := r.importImage(ctx); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// ready waits until containerd serves requests. It fails at once when containerd exits:
// ctr would wait for a socket that never comes.
func (r *Runtime) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		attempt, cancel := context.WithTimeout(ctx, 5*time.Second)
		_, err := r.ctr(attempt, nil, "version")
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-r.exited:
			return fmt.Errorf("containerd exited:\n%s", r.lastLog())
		case <-ctx.Done():
			return fmt.Errorf("containerd is not ready after %s: %w\n%s", startTimeout, err, r.lastLog())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// lastLog returns the end of containerd's log.
func (r *Runtime) lastLog() string {
	log, err := os.ReadFile(filepath.Join(r.dir, "containerd.log"))
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(log[max(0, len(log)-2000):]))
}

func (r *Runtime) importImage(ctx context.Context) error {
	file := filepath.Join(r.dir, "image.tar")
	if err := WriteImage(file); err != nil {
		return err
	}
	defer os.Remove(file)
	for _, ns := range []string{"default", "k8s.io"} { // the CRI uses a namespace of its own
		if _, err := r.ctr(ctx, nil, "--namespace", ns, "images", "import", "--snapshotter", "overlayfs", file); err != nil {
			return err
		}
	}
	return nil
}

// WriteImage writes the image as an archive that container runtimes can import.
func WriteImage(file string) error {
	img, err := image()
	if err != nil {
		return fmt.Errorf("make image: %w", err)
	}
	if err := tarball.WriteToFile(file, name.MustParseReference(Image), img); err != nil {
		return fmt.Errorf("write image: %w", err)
	}
	return nil
}

// image builds an image of one layer: busybox, links named after its applets, a second copy of it,
// and the folders that programs expect.
func image() (v1.Image, error) {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return nil, err
	}
	program, err := os.ReadFile(busybox)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	put := func(h tar.Header, body []byte) {
		h.Size = int64(len(body))
		err = errors.Join(err, w.WriteHeader(&h))
		_, e := w.Write(body)
		err = errors.Join(err, e)
	}
	for _, dir := range []string{"bin", "etc", "proc", "sys", "dev", "root", "tmp", "usr/bin", "vol"} {
		mode := int64(0o755)
		if dir == "tmp" {
			mode = 0o1777
		}
		put(tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: mode}, nil)
	}
	put(tar.Header{Typeflag: tar.TypeReg, Name: "etc/passwd", Mode: 0o644}, []byte("root:x:0:0:root:/root:/bin/sh\n"))
	put(tar.Header{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755}, program)
	put(tar.Header{Typeflag: tar.TypeReg, Name: "usr/bin/tool", Mode: 0o755}, program)
	put(tar.Header{Typeflag: tar.TypeReg, Name: "usr/bin/busybox", Mode: 0o755}, append(program, '\n')) // a file that tests modify
	for _, applet := range []string{"sh", "sleep", "cat", "cp", "mv", "rm", "chmod", "chown", "touch", "ln", "ls", "true", "echo", "mkdir", "nc", "tar", "httpd"} {
		put(tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + applet, Linkname: "busybox", Mode: 0o777}, nil)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		return nil, err
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, err
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", runtime.GOARCH
	file.Config = v1.Config{Cmd: []string{"/bin/sleep", "3600"}, Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, WorkingDir: "/"}
	return mutate.ConfigFile(img, file)
}

// Container is a running container.
type Container struct {
	ID      string
	runtime *Runtime
	n       int
}

// Run starts a container whose first process sleeps for an hour.
func (r *Runtime) Run(ctx context.Context, id string, labels map[string]string) (*Container, error) {
	args := []string{"run", "--detach", "--snapshotter", "overlayfs", "--mount", "type=tmpfs,src=tmpfs,dst=/vol,options=mode=755"} // a volume
	for k, v := range labels {
		args = append(args, "--label", k+"="+v)
	}
	if _, err := r.ctr(ctx, nil, append(args, Image, id, "/bin/sleep", "3600")...); err != nil {
		return nil, err
	}
	c := &Container{ID: id, runtime: r}
	r.containers = append(r.containers, c)
	return c, nil
}

// Exec runs a program in the container and waits for it.
func (c *Container) Exec(ctx context.Context, stdin io.Reader, args ...string) (string, error) {
	c.n++
	return c.runtime.ctr(ctx, stdin, append([]string{"tasks", "exec", "--exec-id", fmt.Sprintf("x%d-%d", time.Now().UnixNano(), c.n), c.ID}, args...)...)
}

// Start starts a program in the container and does not wait for it to end.
func (c *Container) Start(ctx context.Context, args ...string) error {
	c.n++
	_, err := c.runtime.ctr(ctx, nil, append([]string{"tasks", "exec", "--detach", "--exec-id", fmt.Sprintf("x%d-%d", time.Now().UnixNano(), c.n), c.ID}, args...)...)
	return err
}

// Drop writes an executable from inside the container, as an attacker would.
func (c *Container) Drop(ctx context.Context, path string, program []byte) error {
	_, err := c.Exec(ctx, bytes.NewReader(program), "/bin/sh", "-c", `mkdir -p "${0%/*}" && cat > "$0" && chmod +x "$0"`, path)
	return err
}

// PID returns the process ID, on the host, of the container's first process.
func (c *Container) PID(ctx context.Context) (string, error) {
	list, err := c.runtime.ctr(ctx, nil, "tasks", "list")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(list) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == c.ID {
			return f[1], nil
		}
	}
	return "", fmt.Errorf("container %q has no process", c.ID)
}

// Cgroup returns the path of the container's cgroup below the mount of the unified hierarchy.
func (c *Container) Cgroup() string { return "/default/" + c.ID }

// unified lists where the unified hierarchy may be mounted: on hybrid systems, and elsewhere.
var unified = []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"}

// Frozen reports whether the kernel says that the container's cgroup is frozen.
func (c *Container) Frozen() bool {
	for _, mount := range unified {
		if b, err := os.ReadFile(mount + c.Cgroup() + "/cgroup.events"); err == nil {
			return strings.Contains(string(b), "frozen 1")
		}
	}
	return false
}

// Remove kills the container's processes, frozen or not, and deletes it.
func (c *Container) Remove(ctx context.Context) error {
	for _, mount := range unified {
		// A frozen task cannot be deleted; thawing one that is not frozen has no effect.
		if err := os.WriteFile(mount+c.Cgroup()+"/cgroup.freeze", []byte("0"), 0); err == nil {
			break
		}
	}
	c.runtime.containers = slices.DeleteFunc(c.runtime.containers, func(other *Container) bool { return other == c })
	_, err := c.runtime.ctr(ctx, nil, "tasks", "delete", "--force", c.ID)
	_, err2 := c.runtime.ctr(ctx, nil, "containers", "delete", c.ID)
	return errors.Join(err, err2)
}

// Close removes all containers and stops containerd.
func (r *Runtime) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var errs []error
	for _, c := range slices.Clone(r.containers) {
		errs = append(errs, c.Remove(ctx))
	}
	if err := r.daemon.Process.Signal(syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
		errs = append(errs, err)
	}
	select {
	case <-r.exited: // its exit status after a signal means nothing
	case <-ctx.Done():
		errs = append(errs, r.daemon.Process.Kill(), ctx.Err())
	}
	return errors.Join(errs...)
}

func (r *Runtime) ctr(ctx context.Context, stdin io.Reader, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "ctr", append([]string{"--address", r.Socket}, args...)...)
	cmd.Stdin = stdin
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("ctr %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}

// RunBriefly runs a program in a new container, waits for it, and removes the container.
func (r *Runtime) RunBriefly(ctx context.Context, id string, labels map[string]string, args ...string) (string, error) {
	run := []string{"run", "--rm", "--snapshotter", "overlayfs"}
	for k, v := range labels {
		run = append(run, "--label", k+"="+v)
	}
	return r.ctr(ctx, nil, append(append(run, Image, id), args...)...)
}

// RunRootFS runs a command in a new container on a root filesystem that the caller has
// mounted, with the host's network, an environment and further mounts in ctr's form; it
// waits for the command and removes the container.
func (r *Runtime) RunRootFS(ctx context.Context, id, rootfs string, env, mounts []string, args ...string) (string, error) {
	run := []string{"run", "--rm", "--net-host"}
	for _, m := range mounts {
		run = append(run, "--mount", m)
	}
	for _, e := range env {
		run = append(run, "--env", e)
	}
	return r.ctr(ctx, nil, append(append(run, "--rootfs", rootfs, id), args...)...)
}
