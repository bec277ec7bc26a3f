package allowlist

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const image = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

var sum = strings.Repeat("a", 64)

func load(t *testing.T, body string) (List, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "x.yaml")
	if err := os.WriteFile(file, []byte(body), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(file)
}

func TestFind(t *testing.T) {
	l, err := load(t, `exceptions:
  - {image: "registry/app@`+image+`", sha256: "`+sum+`", owner: ci@example.com, reason: builds in place, until: 2030-01-31}
  - {image: "`+image+`", path: "/srv/build-*", owner: ci@example.com, reason: builds in place, until: 2030-01-31}`)
	if err != nil {
		t.Fatal(err)
	}
	last := time.Date(2030, 1, 31, 23, 59, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		digest, sum, path string
		at                time.Time
		want              bool
	}{
		"by hash":               {image, sum, "/any", last, true},
		"by path":               {image, "", "/srv/build-1", last, true},
		"after its last day":    {image, sum, "/any", last.Add(time.Minute), false},
		"another image":         {"sha256:" + sum, sum, "/any", last, false},
		"image unknown":         {"", sum, "/srv/build-1", last, false},
		"another program":       {image, strings.Repeat("b", 64), "/any", last, false},
		"below the path":        {image, "", "/srv/build-1/x", last, false},
		"a path with dots":      {image, "", "/srv/build-../x", last, false},
		"a path that is a tail": {image, "", "/tmp/srv/build-1", last, false},
	} {
		if got := l.Find(c.digest, c.sum, c.path, c.at); (got != nil) != c.want {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestWhatIsRefused(t *testing.T) {
	good := map[string]string{"image": image, "sha256": sum, "owner": "o", "reason": "r", "until": "2030-01-31"}
	for name, c := range map[string]struct{ key, value, want string }{
		"a tag":           {"image", "app:1", "digest"},
		"a short hash":    {"sha256", "abc", "64"},
		"no owner":        {"owner", "", "owner"},
		"no reason":       {"reason", "", "reason"},
		"no end":          {"until", "", "day"},
		"a relative path": {"path", "work/x", "absolute"},
		"a bad pattern":   {"path", "/srv/[", "syntax"},
		"unknown key":     {"sha512", "x", "sha512"},
	} {
		var b strings.Builder
		b.WriteString("exceptions:\n  - {")
		for k, v := range good {
			if k != c.key {
				b.WriteString(k + `: "` + v + `", `)
			}
		}
		b.WriteString(c.key + `: "` + c.value + `"}`)
		if _, err := load(t, b.String()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
