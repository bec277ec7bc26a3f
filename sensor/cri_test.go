package sensor_test

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/contraband-dev/contraband/internal/testenv/containers"
	"github.com/contraband-dev/contraband/internal/testenv/containers/containertest"
	"github.com/contraband-dev/contraband/sensor"
)

// TestPodOverCRI runs a real pod through containerd's CRI, as a kubelet does, and
// sees it named: namespace, name, UID, container, image and the pod's labels.
func TestPodOverCRI(t *testing.T) {
	bed := containertest.StartCRI(t)
	conn, err := grpc.NewClient("unix://"+bed.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := cri.NewRuntimeServiceClient(conn)
	labels := func(more ...string) map[string]string {
		out := map[string]string{"io.kubernetes.pod.namespace": "shop", "io.kubernetes.pod.name": "web-1", "io.kubernetes.pod.uid": "6f1c2d3e-0000-4000-8000-000000000001"}
		for i := 0; i < len(more); i += 2 {
			out[more[i]] = more[i+1]
		}
		return out
	}
	host := &cri.LinuxSandboxSecurityContext{NamespaceOptions: &cri.NamespaceOption{Network: cri.NamespaceMode_NODE, Pid: cri.NamespaceMode_CONTAINER}}
	pod := &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: "web-1", Namespace: "shop", Uid: "6f1c2d3e-0000-4000-8000-000000000001"}, LogDirectory: t.TempDir(),
		Labels: labels("app", "web"), Linux: &cri.LinuxPodSandboxConfig{CgroupParent: "/kubepods/burstable/pod6f1c2d3e-0000-4000-8000-000000000001", SecurityContext: host},
	}
	sandbox, err := client.RunPodSandbox(t.Context(), &cri.RunPodSandboxRequest{Config: pod})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if _, err := client.StopPodSandbox(t.Context(), &cri.StopPodSandboxRequest{PodSandboxId: sandbox.PodSandboxId}); err != nil {
			t.Error(err)
		}
		if _, err := client.RemovePodSandbox(t.Context(), &cri.RemovePodSandboxRequest{PodSandboxId: sandbox.PodSandboxId}); err != nil {
			t.Error(err)
		}
	}()
	box, err := client.CreateContainer(t.Context(), &cri.CreateContainerRequest{PodSandboxId: sandbox.PodSandboxId, SandboxConfig: pod, Config: &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: "web"}, Image: &cri.ImageSpec{Image: containers.Image}, Labels: labels("io.kubernetes.container.name", "web"),
		Command: []string{"/bin/sleep", "3600"}, LogPath: "web.log", Linux: &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{NamespaceOptions: host.NamespaceOptions}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.StartContainer(t.Context(), &cri.StartContainerRequest{ContainerId: box.ContainerId}); err != nil {
		t.Fatal(err)
	}
	p := newPublished()
	startSensorWith(t, p, sensor.Config{Node: "test-node", StateDir: t.TempDir(), CRI: []string{bed.Socket}, Containerd: []string{bed.Socket}, Docker: []string{}})
	out, err := client.ExecSync(t.Context(), &cri.ExecSyncRequest{ContainerId: box.ContainerId, Cmd: []string{"/bin/sh", "-c", "cp /bin/busybox /tmp/true; printf x >> /tmp/true; /tmp/true; sleep 0.1"}, Timeout: 10})
	if err != nil || out.ExitCode != 0 {
		t.Fatalf("%v: %s", err, out.GetStderr())
	}
	d := p.waitFor(t, "/tmp/true")
	if d.Pod.Namespace != "shop" || d.Pod.Name != "web-1" || d.Pod.UID != "6f1c2d3e-0000-4000-8000-000000000001" || d.Pod.Labels["app"] != "web" {
		t.Errorf("pod %+v", d.Pod)
	}
	if d.Container.ID != box.ContainerId || d.Container.Name != "web" || d.Container.Image != containers.Image || d.Container.ImageDigest != "" || !strings.HasPrefix(d.Container.ImageID, "sha256:") || // imported, not pulled
		d.Container.Runtime != "cri" {
		t.Errorf("container %+v", d.Container)
	}
	if time.Since(d.Container.Created) > time.Minute {
		t.Errorf("created %v", d.Container.Created)
	}
}
