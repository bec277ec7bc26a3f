package sensor

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/contraband-dev/contraband/internal/sensorapi"
)

// criRuntime describes containers over the CRI, which kubelet speaks to
// containerd and CRI-O. Nothing is asked of the API server: the sensor has no
// right there.
type criRuntime struct {
	address string
	mu      sync.Mutex
	conn    *grpc.ClientConn
}

const criName = "cri"

func (c *criRuntime) name() string { return criName }

func (c *criRuntime) connect() (cri.RuntimeServiceClient, error) {
	if _, err := os.Stat(c.address); err != nil {
		return nil, errNotKnown // not installed, or not running: then it runs no container either
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == nil {
		conn, err := grpc.NewClient("unix://"+c.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return nil, fmt.Errorf("connect to %q: %w", c.address, err)
		}
		c.conn = conn
	}
	return cri.NewRuntimeServiceClient(c.conn), nil
}

func (c *criRuntime) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == nil {
		return nil
	}
	return c.conn.Close()
}

// describe asks for a container, and for the pod's labels, which are the workload's.
func (c *criRuntime) describe(ctx context.Context, _, id string) (home, error) {
	client, err := c.connect()
	if err != nil || !hex64.MatchString(id) {
		return home{}, errNotKnown
	}
	answer, err := client.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: id})
	switch status.Code(err) {
	case codes.OK:
	case codes.NotFound, codes.Unimplemented: // a containerd without its CRI plugin
		return home{}, errNotKnown
	default:
		return home{}, fmt.Errorf("status of container %q: %w", id, err)
	}
	box := answer.GetStatus()
	labels := box.GetLabels()
	h := home{
		Container: sensorapi.Container{Name: box.GetMetadata().GetName(), Image: box.GetImage().GetImage(), ImageDigest: digestOf(box.GetImageRef()),
			Labels: labels, Created: time.Unix(0, box.GetCreatedAt()).UTC()},
		Pod: sensorapi.Pod{Namespace: labels["io.kubernetes.pod.namespace"], Name: labels["io.kubernetes.pod.name"], UID: labels["io.kubernetes.pod.uid"]},
	}
	if ref := box.GetImageRef(); strings.HasPrefix(ref, "sha256:") { // an image that was pulled from no repository
		h.ImageID = ref
	}
	// The pod's labels are worth a question, their absence is no reason to lose the rest.
	if list, err := client.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{Filter: &cri.PodSandboxFilter{LabelSelector: map[string]string{"io.kubernetes.pod.uid": h.Pod.UID}}}); err == nil && h.Pod.UID != "" {
		for _, pod := range list.GetItems() {
			h.Pod.Labels = workload(pod.GetLabels())
		}
	}
	return h, nil
}

// digestOf returns the digest in an image reference, or "". The ID of a local image is none:
// anybody can build an image and tag it as they like.
func digestOf(ref string) string {
	_, digest, _ := strings.Cut(ref, "@")
	return digest
}

// workload are a pod's labels without those that the kubelet adds.
func workload(labels map[string]string) map[string]string {
	out := map[string]string{}
	for k, v := range labels {
		if !strings.HasPrefix(k, "io.kubernetes.") {
			out[k] = v
		}
	}
	return out
}
