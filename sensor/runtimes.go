package sensor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path"
	"regexp"
	"strings"
	"sync"
	"time"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/contraband-dev/contraband/internal/sensorapi"
)

// containerd describes its containers over its own API, Kubernetes' pods
// among them: the CRI plugin keeps the pod's identity in labels.
type containerd struct {
	address string
	mu      sync.Mutex
	conn    *grpc.ClientConn
}

func (c *containerd) name() string { return "containerd" }

func (c *containerd) connect() (*grpc.ClientConn, error) {
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
	return c.conn, nil
}

func (c *containerd) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == nil {
		return nil
	}
	return c.conn.Close()
}

// describe tries the namespaces in which the cgroup's container can be: the
// cgroup's parent (ctr's and nerdctl's form), Kubernetes' and Docker's.
func (c *containerd) describe(ctx context.Context, cgroupPath, id string) (home, error) {
	conn, err := c.connect()
	if err != nil {
		return home{}, err
	}
	for _, ns := range []string{path.Base(path.Dir(cgroupPath)), "k8s.io", "moby", "default"} {
		if !sensorapi.IsContainerID(ns) {
			continue
		}
		in := metadata.AppendToOutgoingContext(ctx, "containerd-namespace", ns)
		answer, err := containersapi.NewContainersClient(conn).Get(in, &containersapi.GetContainerRequest{ID: id})
		if status.Code(err) == codes.NotFound {
			continue
		}
		if err != nil {
			return home{}, fmt.Errorf("get container %q: %w", id, err)
		}
		box := answer.GetContainer()
		h := home{Container: sensorapi.Container{Name: id, Image: box.GetImage(), Labels: box.GetLabels(), Created: box.GetCreatedAt().AsTime()}}
		if l := box.GetLabels(); l["io.kubernetes.pod.name"] != "" {
			h.Name = l["io.kubernetes.container.name"]
			h.Pod = sensorapi.Pod{Namespace: l["io.kubernetes.pod.namespace"], Name: l["io.kubernetes.pod.name"], UID: l["io.kubernetes.pod.uid"]}
		}
		// The digest is worth a question, its absence is no reason to lose the rest.
		if img, err := imagesapi.NewImagesClient(conn).Get(in, &imagesapi.GetImageRequest{Name: box.GetImage()}); err == nil {
			h.ImageDigest = img.GetImage().GetTarget().GetDigest()
		}
		return h, nil
	}
	return home{}, errNotKnown
}

// dockerAPI is the Docker Engine's API, which Podman speaks too.
type dockerAPI struct {
	address string
	client  *http.Client
}

func newDockerAPI(address string) *dockerAPI {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", address)
	}
	return &dockerAPI{address, &http.Client{Transport: &http.Transport{DialContext: dial}, Timeout: 5 * time.Second}}
}

func (d *dockerAPI) name() string {
	if strings.Contains(d.address, "podman") {
		return "podman"
	}
	return "docker"
}

func (d *dockerAPI) close() error { d.client.CloseIdleConnections(); return nil }

var hex64 = regexp.MustCompile(`^[0-9a-f]{64}$`)

func (d *dockerAPI) describe(ctx context.Context, _, id string) (home, error) {
	if _, err := os.Stat(d.address); err != nil || !hex64.MatchString(id) {
		return home{}, errNotKnown
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://runtime/containers/"+id+"/json", nil)
	if err != nil {
		return home{}, err
	}
	resp, err := d.client.Do(req)
	if errors.Is(err, os.ErrNotExist) || isRefused(err) {
		return home{}, errNotKnown
	}
	if err != nil {
		return home{}, err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNotFound {
		return home{}, errNotKnown
	}
	if resp.StatusCode != http.StatusOK {
		return home{}, fmt.Errorf("inspect container %q: %s", id, resp.Status)
	}
	var box struct {
		Name    string
		Image   string // the local image's ID, a digest of its configuration
		Created time.Time
		Config  struct {
			Image  string
			Labels map[string]string
		}
	}
	if err := json.NewDecoder(http.MaxBytesReader(nil, resp.Body, 4<<20)).Decode(&box); err != nil {
		return home{}, fmt.Errorf("inspect container %q: %w", id, err)
	}
	return home{Container: sensorapi.Container{
		Name: strings.TrimPrefix(box.Name, "/"), Image: box.Config.Image, ImageDigest: digestOf(box.Config.Image), ImageID: box.Image, Labels: box.Config.Labels, Created: box.Created,
	}}, nil
}

func isRefused(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// podmanStorage reads the list of containers that containers/storage keeps:
// Podman has no daemon that could be asked.
type podmanStorage struct{ file string }

func (podmanStorage) name() string { return "podman" }
func (podmanStorage) close() error { return nil }

func (p podmanStorage) describe(_ context.Context, _, id string) (home, error) {
	if !hex64.MatchString(id) {
		return home{}, errNotKnown
	}
	b, err := os.ReadFile(p.file)
	if err != nil {
		return home{}, errNotKnown
	}
	var boxes []struct {
		ID       string    `json:"id"`
		Names    []string  `json:"names"`
		Image    string    `json:"image"`
		Created  time.Time `json:"created"`
		Metadata string    `json:"metadata"` // JSON again
	}
	if err := json.Unmarshal(b, &boxes); err != nil {
		return home{}, fmt.Errorf("read %q: %w", p.file, err)
	}
	for _, box := range boxes {
		if box.ID != id {
			continue
		}
		h := home{Container: sensorapi.Container{ImageID: "sha256:" + box.Image, Created: box.Created}}
		if len(box.Names) > 0 {
			h.Name = box.Names[0]
		}
		var more struct {
			Image string `json:"image-name"`
		}
		if json.Unmarshal([]byte(box.Metadata), &more) == nil {
			h.Image, h.ImageDigest = more.Image, digestOf(more.Image)
		}
		return h, nil
	}
	return home{}, errNotKnown
}
