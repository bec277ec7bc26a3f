package expected_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/contraband-dev/contraband/internal/blobstore"
	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/expected"
	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/internal/policy"
)

var now = time.Date(2026, 11, 25, 9, 0, 0, 0, time.UTC)

func program(path, sum string) finding.Finding {
	return finding.Finding{Category: finding.AddedBinary, Project: "p", Cluster: "c", EventTime: now,
		Pod: finding.Pod{Namespace: "shop", Name: "web-7d9f6c4b5-x2x9k"}, Container: finding.Container{Name: "web", Image: "reg/web:1", Digest: "sha256:" + strings.Repeat("d", 64)},
		Process: finding.Process{Path: path, SHA256: sum}}
}

func caseOf(f finding.Finding) cases.Case {
	return cases.Case{ID: "c1", Decided: cases.Decided{Finding: f}, Programs: []cases.Program{cases.ProgramOf(f, cases.Verdict{})}}
}

func TestScopeOfWhatIsExpected(t *testing.T) {
	sum, other := strings.Repeat("a", 64), strings.Repeat("b", 64)
	f := program("/opt/x", sum)
	change := func(do func(*finding.Finding)) finding.Finding { g := f; do(&g); return g }
	for name, c := range map[string]struct {
		scope   string
		f       finding.Finding
		verdict cases.Level
		after   time.Duration
		want    bool
	}{
		"the same bytes":                  {"", f, cases.Unknown, 0, true},
		"the same bytes, another path":    {"", change(func(f *finding.Finding) { f.Process.Path = "/y" }), cases.Unknown, 0, true},
		"the same bytes, another replica": {"", change(func(f *finding.Finding) { f.Pod.Name = "web-7d9f6c4b5-c4c4c" }), cases.Unknown, 0, true},
		"other bytes":                     {"", change(func(f *finding.Finding) { f.Process.SHA256 = other }), cases.Unknown, 0, false},
		"another workload":                {"", change(func(f *finding.Finding) { f.Pod.Name = "api-7d9f6c4b5-c4c4c" }), cases.Unknown, 0, false},
		"another cluster":                 {"", change(func(f *finding.Finding) { f.Cluster = "d" }), cases.Unknown, 0, false},
		"after its end":                   {"", f, cases.Unknown, expected.DefaultFor + time.Hour, false},
		"the path, other bytes":           {cases.ScopePath, change(func(f *finding.Finding) { f.Process.SHA256 = other }), cases.Unknown, 0, true},
		"the path, another version":       {cases.ScopePath, change(func(f *finding.Finding) { f.Container.Image = "reg/web:2" }), cases.Unknown, 0, true},
		"the path, known malware":         {cases.ScopePath, f, cases.Malicious, 0, false},
		"another path":                    {cases.ScopePath, change(func(f *finding.Finding) { f.Process.Path = "/y" }), cases.Unknown, 0, false},
		"the path, another image":         {cases.ScopePath, change(func(f *finding.Finding) { f.Container.Image = "reg/other:1" }), cases.Unknown, 0, false},
	} {
		all := expected.Of(caseOf(f), cases.Click{ID: "k", By: "ann", Scope: c.scope}, now)
		if len(all) != 1 {
			t.Fatalf("%s: %d exceptions", name, len(all))
		}
		if got := all[0].Matches(c.f, cases.Verdict{Level: c.verdict}, now.Add(c.after)); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestExceptionLastsAYearAtMost(t *testing.T) {
	k := cases.Click{ID: "k", By: "ann", Until: now.AddDate(5, 0, 0), Reason: strings.Repeat("x", 10_000)}
	e := expected.Of(caseOf(program("/x", "")), k, now)[0]
	if e.Until.After(now.Add(expected.LongestFor)) || len(e.Reason) > 500 {
		t.Errorf("until %s, a reason of %d bytes", e.Until, len(e.Reason))
	}
}

func TestExceptionsAreStoredAndRevoked(t *testing.T) {
	store, err := blobstore.Open(t.Context(), "mem://")
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	f := program("/opt/x", strings.Repeat("a", 64))
	all := expected.Of(caseOf(f), cases.Click{ID: "k", By: "ann", Reason: "build tool"}, now)
	for range 2 {
		if err := expected.Record(t.Context(), store, "k", all); err != nil {
			t.Fatal(err)
		}
	}
	got, err := expected.Read(t.Context(), store, f.IncidentKey())
	if err != nil || len(got) != 1 || got[0] != all[0] {
		t.Fatalf("%+v, %v", got, err)
	}
	draft, err := got[0].Draft()
	if err != nil || !strings.Contains(draft, "sha256: "+strings.Repeat("a", 64)) || !strings.Contains(draft, "until: \"2027-02-23\"") {
		t.Errorf("the draft: %s, %v", draft, err)
	}
	if err := expected.Revoke(t.Context(), store, got[0], "bob"); err != nil {
		t.Fatal(err)
	}
	if got, err = expected.Read(t.Context(), store, ""); err != nil || len(got) != 1 || got[0].Revoked != "bob" || got[0].Matches(f, cases.Verdict{}, now) {
		t.Errorf("revoked: %+v, %v", got, err)
	}
}

func TestDraftIsADiffOfThePolicyFile(t *testing.T) {
	e := expected.Of(caseOf(program("/opt/x", strings.Repeat("a", 64))), cases.Click{ID: "k", By: "ann", Reason: "build tool"}, now)[0]
	draft, err := e.Draft()
	if err != nil {
		t.Fatal(err)
	}
	for name, file := range map[string]string{
		"without exceptions":     "rules:\n  - {name: all, do: [page]}\n",
		"with an empty list":     "rules:\n  - {name: all, do: [page]}\nexceptions: []\nguards: {dry_run: true}\n",
		"with exceptions":        "exceptions:\n  - {sha256: " + strings.Repeat("b", 64) + ", owner: o, reason: r, until: 2030-01-31}\nrules:\n  - {name: all, do: [page]}\n",
		"without a last newline": "rules: [{name: all, do: [page]}]",
		"empty":                  "",
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "policy.yaml"), []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), "patch", "-p1")
		cmd.Dir, cmd.Stdin = dir, strings.NewReader(expected.Diff("policy.yaml", file, draft))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", name, err, out)
			continue
		}
		p, err := policy.Load(filepath.Join(dir, "policy.yaml"))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		f := program("/opt/x", strings.Repeat("a", 64))
		if p.Expected(f, cases.Verdict{}, now) == nil {
			t.Errorf("%s: the entry does not match what it was declared for: %+v", name, p.Explain(f, cases.Verdict{}, now))
		}
	}
}
