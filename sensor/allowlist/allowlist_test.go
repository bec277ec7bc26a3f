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

var last = time.Date(2030, 1, 31, 23, 59, 0, 0, time.UTC)

// TestExceptionMatches has one entry of each form, and programs that differ in one respect.
func TestExceptionMatches(t *testing.T) {
	const end = `, owner: ci@example.com, reason: builds in place, until: 2030-01-31}`
	for entry, programs := range map[string]map[string]struct {
		p    Program
		want string // in the reason why it does not match; "": it matches
	}{
		`{sha256: "` + sum + `"`: {
			"these bytes anywhere": {Program{SHA256: sum}, ""},
			"other bytes":          {Program{SHA256: strings.Repeat("b", 64)}, "SHA-256 is"},
			"not hashed":           {Program{Path: "/x"}, "SHA-256 is not known"},
		},
		`{image: "` + image + `", path: "/srv/build-*"`: {
			"by path":               {Program{Digest: image, Path: "/srv/build-1"}, ""},
			"by reference":          {Program{Image: "app@" + image, Path: "/srv/build-1"}, ""},
			"another image":         {Program{Digest: "sha256:" + sum, Path: "/srv/build-1"}, "image digest is"},
			"the ID of an image":    {Program{Image: image, Path: "/srv/build-1"}, "image digest is not known"},
			"image unknown":         {Program{Path: "/srv/build-1"}, "image digest is not known"},
			"below the path":        {Program{Digest: image, Path: "/srv/build-1/x"}, "path is"},
			"a path with dots":      {Program{Digest: image, Path: "/srv/build-../x"}, "path is"},
			"a path that is a tail": {Program{Digest: image, Path: "/tmp/srv/build-1"}, "path is"},
			"path unknown":          {Program{Digest: image}, "path is not known"},
		},
		`{image: "ghcr.io/acme/app:1.*", path: "/srv/**"`: {
			"tag and any depth":  {Program{Image: "ghcr.io/acme/app:1.2@" + image, Path: "/srv/a/b/c"}, ""},
			"another tag":        {Program{Image: "ghcr.io/acme/app:2", Path: "/srv/a"}, "image tag is"},
			"without a tag":      {Program{Image: "ghcr.io/acme/app", Path: "/srv/a"}, "image tag is not known"},
			"another repository": {Program{Image: "ghcr.io/acme/app2:1.2", Path: "/srv/a"}, "image repository is"},
			"out of it":          {Program{Image: "ghcr.io/acme/app:1.2", Path: "/srv2/a"}, "path is"},
		},
		`{namespace: shop, path: "/etc/hooks/*.sh"`: {
			"key of a ConfigMap":        {Program{Namespace: "shop", Path: "/etc/hooks/..2026_11_25_10_00_00.123/pre.sh"}, ""},
			"through its link":          {Program{Namespace: "shop", Path: "/etc/hooks/..data/pre.sh"}, ""},
			"mounted by subPath":        {Program{Namespace: "shop", Path: "/etc/hooks/pre.sh"}, ""},
			"another hidden directory":  {Program{Namespace: "shop", Path: "/etc/hooks/..x/pre.sh"}, "path is"},
			"another namespace":         {Program{Namespace: "other", Path: "/etc/hooks/pre.sh"}, "namespace is"},
			"a machine without any":     {Program{Path: "/etc/hooks/pre.sh"}, "namespace is not known"},
			"key in a lower directory":  {Program{Namespace: "shop", Path: "/etc/hooks/x/..data/pre.sh"}, "path is"},
			"directory of another name": {Program{Namespace: "shop", Path: "/etc/other/..data/pre.sh"}, "path is"},
		},
		`{workload: "web-*", labels: {team: pay}, parent: "/usr/bin/pip*", path: "/**"`: {
			"all of it":       {Program{Workload: "web-1", Labels: map[string]string{"team": "pay", "x": "y"}, Parent: "/usr/bin/pip3", Path: "/v/x"}, ""},
			"another label":   {Program{Workload: "web-1", Labels: map[string]string{"team": "x"}, Parent: "/usr/bin/pip3", Path: "/v/x"}, "label team is"},
			"no label":        {Program{Workload: "web-1", Parent: "/usr/bin/pip3", Path: "/v/x"}, "label team is not known"},
			"another parent":  {Program{Workload: "web-1", Labels: map[string]string{"team": "pay"}, Parent: "/bin/sh", Path: "/v/x"}, "parent is"},
			"other workload":  {Program{Workload: "db", Labels: map[string]string{"team": "pay"}, Parent: "/usr/bin/pip3", Path: "/v/x"}, "workload is"},
			"parent has gone": {Program{Workload: "web-1", Labels: map[string]string{"team": "pay"}, Path: "/v/x"}, "parent is not known"},
		},
	} {
		l, err := load(t, "exceptions:\n  - "+entry+end)
		if err != nil {
			t.Fatalf("%s: %v", entry, err)
		}
		for name, c := range programs {
			why := l[0].Mismatch(c.p, last)
			if (why == "") != (c.want == "") || !strings.Contains(why, c.want) || (l.Find(c.p, last) != nil) != (c.want == "") {
				t.Errorf("%s, %s: %q, want %q", entry, name, why, c.want)
			}
		}
	}
}

func TestExpiredExceptionIsReportedAndDoesNotCount(t *testing.T) {
	l, err := load(t, `exceptions: [{sha256: "`+sum+`", owner: o, reason: r, until: 2030-01-31}]`)
	if err != nil {
		t.Fatal(err)
	}
	p, after := Program{SHA256: sum}, last.Add(time.Minute)
	if l.Find(p, last) == nil || len(l.Expired(last)) != 0 || l.FindExpired(p, last) != nil {
		t.Error("it has expired on its last day")
	}
	if l.Find(p, after) != nil || len(l.Expired(after)) != 1 || l.FindExpired(p, after) == nil {
		t.Error("it counts after its last day")
	}
	if why := l[0].Mismatch(p, after); !strings.Contains(why, "2030-01-31") {
		t.Errorf("%q does not name the last day", why)
	}
}

func TestExceptionsOfAPolicyFile(t *testing.T) {
	l, err := load(t, "rules: [{name: all, do: [page]}]\nexceptions: [{sha256: "+sum+", owner: o, reason: r, until: 2030-01-31}]")
	if err != nil || len(l) != 1 {
		t.Errorf("%d exceptions: %v", len(l), err)
	}
}

func TestInvalidExceptionsAreRefused(t *testing.T) {
	good := map[string]string{"image": image, "sha256": sum, "owner": "o", "reason": "r", "until": "2030-01-31"}
	for name, c := range map[string]struct{ key, value, want string }{
		"a short digest":  {"image", "app@sha256:abc", "digest"},
		"a short hash":    {"sha256", "abc", "64"},
		"no owner":        {"owner", "", "owner"},
		"no reason":       {"reason", "", "reason"},
		"no end":          {"until", "", "last day"},
		"a relative path": {"path", "work/x", "absolute"},
		"a bad pattern":   {"path", "/srv/[", "glob"},
		"no bytes":        {"sha256", "", "sha256 or path"},
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
