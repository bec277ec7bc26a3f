package sensor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzPodmanStorage: whatever Podman's list of containers says, describing one returns a
// container or an error.
func FuzzPodmanStorage(f *testing.F) {
	id := strings.Repeat("a", 64)
	f.Add([]byte(`[{"id":"` + id + `","names":["web"],"image":"b","metadata":"{\"image-name\":\"docker.io/x@sha256:1\"}"}]`))
	f.Add([]byte(`[{"id":"` + id + `","names":[],"created":"yesterday"}]`))
	f.Add([]byte(`{}`))
	file := filepath.Join(f.TempDir(), "containers.json")
	f.Fuzz(func(t *testing.T, body []byte) {
		if err := os.WriteFile(file, body, 0o600); err != nil {
			t.Fatal(err)
		}
		h, err := podmanStorage{file}.describe(t.Context(), "", id)
		if err != nil && h.Name != "" {
			t.Errorf("%q beside %v", h.Name, err)
		}
	})
}
