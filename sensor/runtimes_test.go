package sensor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/contraband-dev/contraband/bpf"
	"github.com/contraband-dev/contraband/internal/sensorapi"
)

const id64 = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func TestDockerDescribes(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "docker.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/containers/" + id64 + "/json":
			fmt.Fprint(w, `{"Name":"/web","Image":"sha256:abc","Created":"2026-01-01T00:00:00Z","Config":{"Image":"app:1","Labels":{"team":"x"}}}`)
		default:
			http.NotFound(w, r)
		}
	}))
	srv.Listener.Close()
	srv.Listener = l
	srv.Start()
	defer srv.Close()
	d := newDockerAPI(socket)
	defer d.close()
	h, err := d.describe(t.Context(), "/docker/"+id64, id64)
	if err != nil || h.Name != "web" || h.Image != "app:1" || h.ImageDigest != "" || h.ImageID != "sha256:abc" || h.Labels["team"] != "x" {
		t.Errorf("%+v, %v", h, err)
	}
	for _, id := range []string{strings.Repeat("f", 64), "../../info", "short"} {
		if _, err := d.describe(t.Context(), "/", id); !errors.Is(err, errNotKnown) {
			t.Errorf("%s: %v", id, err)
		}
	}
	if _, err := newDockerAPI(socket+"x").describe(t.Context(), "/", id64); !errors.Is(err, errNotKnown) {
		t.Errorf("no socket: %v", err)
	}
}

func TestPodmanDescribes(t *testing.T) {
	file := filepath.Join(t.TempDir(), "containers.json")
	body := `[{"id":"` + id64 + `","names":["web"],"image":"abc","created":"2026-01-01T00:00:00Z","metadata":"{\"image-name\":\"docker.io/app:1\"}"}]`
	if err := os.WriteFile(file, []byte(body), 0o600); err != nil {
		t.Fatal(err)
	}
	h, err := podmanStorage{file}.describe(t.Context(), "", id64)
	if err != nil || h.Name != "web" || h.Image != "docker.io/app:1" || h.ImageDigest != "" || h.ImageID != "sha256:abc" {
		t.Errorf("%+v, %v", h, err)
	}
	if _, err := (podmanStorage{file + "x"}).describe(t.Context(), "", id64); !errors.Is(err, errNotKnown) {
		t.Errorf("no storage: %v", err)
	}
}

// silent knows no container; broken cannot be asked.
type silent struct{}

func (silent) name() string                                           { return "silent" }
func (silent) close() error                                           { return nil }
func (silent) describe(context.Context, string, string) (home, error) { return home{}, errNotKnown }

type broken struct{ silent }

func (broken) describe(context.Context, string, string) (home, error) {
	return home{}, errors.New("it hangs")
}

// TestWhatNoRuntimeKnows: a container is recognised by its cgroup's form, with what
// is missing said; what is none is left alone.
func TestWhatNoRuntimeKnows(t *testing.T) {
	for cgroup, want := range map[string]struct{ id, pod, missing string }{
		"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod11111111_2222_3333_4444_555555555555.slice/cri-containerd-" + id64 + ".scope": {id64, "11111111-2222-3333-4444-555555555555", "no container runtime"},
		"/kubepods/burstable/pod11111111-2222-3333-4444-555555555555/" + id64:                                                                           {id64, "11111111-2222-3333-4444-555555555555", "no container runtime"},
		"/system.slice/docker-" + id64 + ".scope":                                                                                                       {id64, "", "no container runtime"},
		"/machine.slice/libpod-" + id64 + ".scope":                                                                                                      {id64, "", "no container runtime"},
		"/default/web": {"web", "", "no container runtime"},
	} {
		h, err := (&attributor{runtimes: []containerRuntime{silent{}}}).ask(t.Context(), cgroup, bpf.Event{Flags: bpf.RootOverlay})
		if err != nil || h.ID != want.id || h.Pod.UID != want.pod || !strings.Contains(h.Missing, want.missing) {
			t.Errorf("%s: %+v, %v", cgroup, h, err)
		}
	}
	for _, cgroup := range []string{"/system.slice/some.service", "/user.slice"} {
		if _, err := (&attributor{runtimes: []containerRuntime{silent{}}}).ask(t.Context(), cgroup, bpf.Event{}); !errors.Is(err, errNotContainer) {
			t.Errorf("%s: %v, want that it is no container", cgroup, err)
		}
	}
	h, err := (&attributor{runtimes: []containerRuntime{broken{}}}).ask(t.Context(), "/docker/"+id64, bpf.Event{})
	if err != nil || !strings.Contains(h.Missing, "it hangs") {
		t.Errorf("a runtime that fails: %+v, %v; want its reason told", h, err)
	}
}

func TestOverlayOptions(t *testing.T) {
	const at = "/var/lib/docker/overlay2/9/merged"
	for options, want := range map[string]overlay{
		"rw,lowerdir=/a:/b,upperdir=/u,workdir=/w": {[]string{"/a", "/b"}, "/u"},
		"rw,lowerdir+=/a,lowerdir+=/b,upperdir=/u": {[]string{"/a", "/b"}, "/u"},
		"rw,lowerdir=1/fs:/b,upperdir=/s/3/fs":     {[]string{"/s/1/fs", "/b"}, "/s/3/fs"},
		"rw,lowerdir=l/A:l/B,upperdir=9/diff":      {[]string{"/var/lib/docker/overlay2/l/A", "/var/lib/docker/overlay2/l/B"}, "/var/lib/docker/overlay2/9/diff"},
		"rw,seclabel":                              {},
	} {
		if got := parseOverlayOptions(options, at); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: %+v, want %+v", options, got, want)
		}
	}
}

// TestOriginOfFiles is the verdict on files that lie in directories, without a kernel.
func TestOriginOfFiles(t *testing.T) {
	top, base := t.TempDir(), t.TempDir()
	put := func(dir, name, body string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(body), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	put(base, "bin/tool", "image tool")
	put(base, "bin/other", "shadowed")
	put(top, "bin/other", "upper image layer")
	if err := os.Symlink("/etc/passwd", filepath.Join(base, "bin/link")); err != nil {
		t.Fatal(err)
	}
	layers := overlay{lower: []string{top, base}}
	sum := func(s string) string { h, _ := sumOf(strings.NewReader(s)); return h }
	overlayRoot := bpf.OnOverlay | bpf.OnRoot | bpf.HasUpper
	for name, c := range map[string]struct {
		path, body string
		flags      uint32
		links      uint32
		want       origin
	}{
		"chmod":                    {"/bin/tool", "image tool", overlayRoot | bpf.HasLower, 1, origin{image: true}},
		"hard link after remount":  {"/bin/tool", "image tool", overlayRoot, 1, origin{image: true}},
		"mv":                       {"/bin/moved", "image tool", overlayRoot | bpf.HasLower, 1, origin{image: true}},
		"changed":                  {"/bin/tool", "evil  tool", overlayRoot | bpf.HasLower, 1, origin{route: sensorapi.Modified}},
		"added":                    {"/tmp/x", "evil", overlayRoot, 1, origin{route: sensorapi.Added}},
		"a copy":                   {"/tmp/y", "image tool", overlayRoot, 1, origin{route: sensorapi.Added, sameAs: "/bin/tool"}},
		"unlinked":                 {"/tmp/x", "evil", overlayRoot, 0, origin{route: sensorapi.Deleted}},
		"memfd":                    {"/memfd:x", "evil", 0, 0, origin{route: sensorapi.Memory}},
		"tmpfs":                    {"/x", "evil", 0, 1, origin{route: sensorapi.Volume}},
		"an overlay of its own":    {"/x", "evil", bpf.OnOverlay, 1, origin{route: sensorapi.Nested}},
		"what a layer above hides": {"/bin/other", "shadowed", overlayRoot | bpf.HasLower, 1, origin{image: true}},
	} {
		got := judge(bpf.Event{Path: c.path, Flags: c.flags, Links: c.links, Size: uint64(len(c.body))}, layers, sum(c.body), false)
		if c.want.image {
			got = origin{image: got.image}
		}
		if got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
	restored := bpf.Event{Path: "/bin/tool", Flags: overlayRoot | bpf.HasLower, Links: 1, Size: 10}
	if got := judge(restored, layers, sum("image tool"), true); got.image {
		t.Error("a file that was changed after it ran is taken for the image's: what ran may have been anything")
	}
	if _, err := layers.openLower("/bin/link"); err == nil {
		t.Error("a link out of the layers is followed")
	}
}
