package testcluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"cloud.google.com/go/container/apiv1/containerpb"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/contraband-dev/contraband/internal/testenv/containers"
)

// The whole node: its name, its address and its pods'.
const (
	NodeName = "node-1"
	nodeIP   = "10.77.0.1"
	podNet   = "10.244.0.0/24"
)

// Image that the tests' pods run.
const Image = containers.Image

// inside marks the process that runs in the node's namespaces.
const inside = "CONTRABAND_TEST_INSIDE"

// Main has to be called by TestMain of a package that uses RunOnNode: containerd
// calls the test's own program in place of runc.
func Main(m *testing.M) {
	if filepath.Base(os.Args[0]) == "runc-wrapper" {
		os.Exit(runcWrapper(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// RunOnNode runs test in namespaces of its own, with a whole Kubernetes node in
// them: kubelet, containerd, runc and a CNI. It runs the calling test again, in a
// process that is there; whatever it started is ended with it, by id.
func RunOnNode(t *testing.T, test func(t *testing.T, c *Cluster)) {
	if os.Getenv(inside) != "" {
		test(t, startNode(t))
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("NOT RUN: needs root: namespaces, containers and BPF programs")
	}
	if _, err := Binaries(); err != nil {
		t.Skipf("NOT RUN: %v", err)
	}
	for _, program := range []string{"containerd", "runc", "nft", "ip", "/usr/lib/cni/ptp"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("%s is missing: run `make deps-kubernetes`", program)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run", "^"+regexp.QuoteMeta(t.Name())+"$", "-test.v", "-test.timeout", "10m")
	cmd.Env = append(os.Environ(), inside+"=1")
	// Not a PID namespace: the kernel gives the sensor the PIDs of the first one.
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS, Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	network, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	lines(out, func(line string) { fmt.Println("\t" + line) })
	err = cmd.Wait()
	sweep(network)
	if err != nil {
		t.Fatalf("on the node: %v", err)
	}
}

func lines(r interface{ Read([]byte) (int, error) }, each func(string)) {
	var rest string
	buf := make([]byte, 64<<10)
	for {
		n, err := r.Read(buf)
		parts := strings.Split(rest+string(buf[:n]), "\n")
		for _, p := range parts[:len(parts)-1] {
			each(p)
		}
		rest = parts[len(parts)-1]
		if err != nil {
			if rest != "" {
				each(rest)
			}
			return
		}
	}
}

// sweep ends what a test left in its network namespace, and its pods' cgroups: a
// containerd shim outlives the containerd that started it.
func sweep(network string) {
	for range 20 {
		left := 0
		for _, link := range mustGlob("/proc/[0-9]*/ns/net") {
			if at, err := os.Readlink(link); err != nil || at != network {
				continue
			}
			var pid int
			fmt.Sscanf(link, "/proc/%d/", &pid)
			syscall.Kill(pid, syscall.SIGKILL)
			left++
		}
		for _, procs := range mustGlob("/sys/fs/cgroup/*/kubepods*") {
			left += killIn(procs)
		}
		if left == 0 {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	for range 50 { // what was killed stays in its cgroup until it is gone
		left := mustGlob("/sys/fs/cgroup/*/kubepods*")
		for _, dir := range left {
			exec.Command("find", dir, "-depth", "-type", "d", "-exec", "rmdir", "{}", ";").Run()
		}
		if len(left) == 0 {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func killIn(dir string) (n int) {
	filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil || filepath.Base(path) != "cgroup.procs" {
			return nil
		}
		body, _ := os.ReadFile(path)
		for _, f := range strings.Fields(string(body)) {
			var pid int
			fmt.Sscan(f, &pid)
			if pid > 1 {
				syscall.Kill(pid, syscall.SIGKILL)
				n++
			}
		}
		return nil
	})
	return n
}

func mustGlob(pattern string) []string {
	found, err := filepath.Glob(pattern)
	if err != nil {
		panic(err) // the pattern is ours
	}
	return found
}

// prepare makes the namespaces a node's: a network, a cgroup2 view, folders of its
// own where programs insist on theirs.
const prepare = `set -eu
mount --make-rprivate /
hostname ` + NodeName + `
ip link set lo up
ip link add node0 type bridge
ip addr add ` + nodeIP + `/24 dev node0
ip link set node0 up
ip route add default via 10.77.0.2 dev node0
echo 1 > /proc/sys/net/ipv4/ip_forward
umount -l -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
# Of a run that was cut off: kubelet would set limits on what it finds, which this machine cannot.
for left in /sys/fs/cgroup/kubepods*; do
	[ ! -d "$left" ] || find "$left" -depth -type d -exec rmdir {} ';'
done
mount --bind "$STATE" "$STATE"
mount --make-rshared "$STATE"
mount -t tmpfs tmpfs /run
mkdir -p /run/containerd /run/netns
mount --make-rshared /run
mount -t tmpfs tmpfs /var/log
printf '127.0.0.1 localhost\n` + nodeIP + ` ` + NodeName + `\n' > /run/hosts
mount --bind /run/hosts /etc/hosts
: > /run/resolv.conf
mount --bind /run/resolv.conf /etc/resolv.conf
`

func startNode(t *testing.T) *Cluster {
	t.Helper()
	bin, err := Binaries()
	if err != nil {
		t.Fatal(err)
	}
	state := t.TempDir()
	cmd := exec.Command("sh", "-c", prepare)
	cmd.Env = append(os.Environ(), "STATE="+state)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("prepare the node's namespaces: %v\n%s", err, out)
	}
	t.Cleanup(func() { // what containers have mounted is in the way of the folder's removal
		exec.Command("sh", "-c", "grep -o '"+state+"[^ ]*' /proc/self/mountinfo | sort -r | xargs -r -n1 umount -l").Run()
	})
	c := startControlPlane(t, bin, net.ParseIP(nodeIP))
	c.startScheduler()
	c.startContainerd(state)
	c.startKubelet(state)
	c.Describe(func(d *containerpb.Cluster) {})
	c.Eventually("the node is ready", func() error {
		n, err := c.Admin.CoreV1().Nodes().Get(c.ctx(), NodeName, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, cond := range n.Status.Conditions {
			if cond.Type == corev1.NodeReady && cond.Status == corev1.ConditionTrue {
				return nil
			}
		}
		return errors.New("not ready")
	})
	return c
}

// ContainerdSocket of the node.
const ContainerdSocket = "/run/containerd/containerd.sock"

func (c *Cluster) startContainerd(state string) {
	c.t.Helper()
	self, err := os.Executable()
	if err != nil {
		c.t.Fatal(err)
	}
	wrapper := filepath.Join(state, "runc-wrapper")
	if err := os.Symlink(self, wrapper); err != nil {
		c.t.Fatal(err)
	}
	files := map[string]string{
		"containerd.toml": fmt.Sprintf(`version = 2
root = "%[1]s/containerd"
state = "/run/containerd"
[grpc]
  address = %[2]q
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %[3]q
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "%[1]s/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      BinaryName = %[4]q
`, state, ContainerdSocket, Image, wrapper),
		"cni/10-ptp.conflist": fmt.Sprintf(`{"cniVersion":"0.4.0","name":"pods","plugins":[{"type":"ptp","ipMasq":false,
"ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":%q}]],"routes":[{"dst":"0.0.0.0/0"}]}}]}`, filepath.Join(state, "ipam"), podNet),
	}
	for name, body := range files {
		file := filepath.Join(state, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			c.t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(body), 0o600); err != nil {
			c.t.Fatal(err)
		}
	}
	c.run("containerd", nil, "--config", filepath.Join(state, "containerd.toml"))
	image := filepath.Join(state, "image.tar")
	if err := containers.WriteImage(image); err != nil {
		c.t.Fatal(err)
	}
	c.Eventually("the image is imported", func() error {
		out, err := exec.Command("ctr", "--address", ContainerdSocket, "--namespace", "k8s.io", "images", "import", image).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}

func (c *Cluster) startKubelet(state string) {
	c.t.Helper()
	if err := c.pki.issue("kubelet", "system:node:"+NodeName, []string{"system:nodes"}, net.ParseIP(nodeIP)); err != nil {
		c.t.Fatal(err)
	}
	config := c.path("kubelet.yaml")
	body := fmt.Sprintf(`apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix://%s
failCgroupV1: false
cgroupDriver: cgroupfs
failSwapOn: false
resolvConf: ""
tlsCertFile: %s
tlsPrivateKeyFile: %s
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: %s}}
authorization: {mode: Webhook}
podLogsDir: %s/podlogs
evictionHard: {memory.available: 50Mi, nodefs.available: 1%%, imagefs.available: 1%%}
localStorageCapacityIsolation: false
nodeStatusUpdateFrequency: 4s
`, ContainerdSocket, c.path("kubelet.crt"), c.path("kubelet.key"), c.path("ca.crt"), state)
	if err := os.WriteFile(config, []byte(body), 0o600); err != nil {
		c.t.Fatal(err)
	}
	c.run("kubelet", nil, "--config", config, "--kubeconfig", c.kubeconfig("system:node:"+NodeName), "--hostname-override", NodeName,
		"--node-ip", nodeIP, "--root-dir", filepath.Join(state, "kubelet"))
}

var kubeletPath = regexp.MustCompile(`^/kubepods/(?:(besteffort|burstable)/)?pod([^/]+)/(.+)$`)

// runcWrapper stands before runc: the machine's cgroup2 has no controllers left, so
// limits cannot be written, and cgroup paths take the form that GKE's nodes have.
func runcWrapper(args []string) int {
	for i, a := range args {
		if a == "update" {
			return 0
		}
		if (a == "--bundle" || a == "-b") && i+1 < len(args) {
			if err := rewriteBundle(filepath.Join(args[i+1], "config.json")); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
		}
	}
	runc, err := exec.LookPath("runc")
	if err == nil {
		err = syscall.Exec(runc, append([]string{"runc"}, args...), os.Environ())
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

func rewriteBundle(file string) error {
	body, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var spec map[string]any
	if err := json.Unmarshal(body, &spec); err != nil {
		return err
	}
	linux, ok := spec["linux"].(map[string]any)
	if !ok {
		return fmt.Errorf("%q has no linux section", file)
	}
	if resources, ok := linux["resources"].(map[string]any); ok {
		for _, limit := range []string{"cpu", "memory", "pids", "blockIO", "unified", "hugepageLimits"} {
			delete(resources, limit)
		}
	}
	if path, ok := linux["cgroupsPath"].(string); ok {
		if m := kubeletPath.FindStringSubmatch(path); m != nil {
			slice, uid := "kubepods", strings.ReplaceAll(m[2], "-", "_")
			parent := "/kubepods.slice"
			if m[1] != "" {
				slice += "-" + m[1]
				parent += "/" + slice + ".slice"
			}
			linux["cgroupsPath"] = fmt.Sprintf("%s/%s-pod%s.slice/cri-containerd-%s.scope", parent, slice, uid, m[3])
		}
	}
	if body, err = json.Marshal(spec); err != nil {
		return err
	}
	return os.WriteFile(file, body, 0o600)
}
