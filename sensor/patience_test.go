package sensor

import (
	"testing"

	"github.com/contraband-dev/contraband/bpf"
)

func TestMayHang(t *testing.T) {
	for name, c := range map[string]struct {
		flags uint32
		want  bool
	}{
		"a program of the container's overlay":     {bpf.Local | bpf.OnOverlay | bpf.OnRoot, false},
		"a library there":                          {bpf.Local | bpf.OnOverlay | bpf.OnRoot | bpf.Mapped, false},
		"a program of a local volume, or a memfd":  {bpf.Local, false},
		"a library of a volume, known by its path": {bpf.Local | bpf.Mapped, true},
		"a script that is known by name alone":     {bpf.Local | bpf.OnOverlay | bpf.OnRoot | bpf.Script | bpf.ByName, true},
		"an overlay of somebody's own":             {bpf.Local | bpf.OnOverlay, true},
		"a file system of the network":             {0, true},
	} {
		if got := mayHang(bpf.Event{Flags: c.flags}); got != c.want {
			t.Errorf("%s: %t, want %t", name, got, c.want)
		}
	}
}
