package redact

import (
	"slices"
	"testing"
)

func TestArgs(t *testing.T) {
	for _, c := range []struct{ in, want []string }{
		{[]string{"/x", "--password", "hunter2", "-v"}, []string{"/x", "--password", Hidden, "-v"}},
		{[]string{"--api-key=abc", "DB_PASSWORD=x"}, []string{"--api-key=" + Hidden, "DB_PASSWORD=" + Hidden}},
		{[]string{"https://me:pw@pool.example.net"}, []string{"https://me:" + Hidden + "@pool.example.net"}},
		{[]string{"--token", "--next", "kept"}, []string{"--token", "--next", "kept"}},
		{[]string{"Bearer abcdefghijkl", "ghp_0123456789abcdef"}, []string{Hidden, Hidden}},
		{[]string{"--token", "-abc"}, []string{"--token", Hidden}},
		{[]string{"sh", "-c", "export DB_PASSWORD=hunter2; ./run"}, []string{"sh", "-c", "export DB_PASSWORD=" + Hidden + "; ./run"}},
		{[]string{"sh", "-c", `x --password 'hunter 2' && curl -u admin:hunter2 x`}, []string{"sh", "-c", "x --password " + Hidden + " && curl -u admin:" + Hidden + " x"}},
		{[]string{"curl", "-u", "admin:hunter2", "-H", "X-Api-Key: abc"}, []string{"curl", "-u", "admin:" + Hidden, "-H", "X-Api-Key:" + Hidden}},
		{[]string{"sh", "-c", "ls -l /tmp; echo done"}, []string{"sh", "-c", "ls -l /tmp; echo done"}},
		{[]string{"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0"}, []string{Hidden}},
		{[]string{"-o", "pool.example.net:443"}, []string{"-o", "pool.example.net:443"}},
	} {
		if got := Args(c.in); !slices.Equal(got, c.want) {
			t.Errorf("Args(%q) = %q, want %q", c.in, got, c.want)
		}
	}
}

func TestValue(t *testing.T) {
	if got := Value("STRIPE_SECRET", "x"); got != Hidden {
		t.Errorf("a secret by name is shown: %q", got)
	}
	if got := Value("HOME", "/root"); got != "/root" {
		t.Errorf("Value(HOME) = %q", got)
	}
}
