package guards

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/finding"
)

// TestLoad: the guards are those of the whole file, and a mistake in them, or a key that
// does not exist, leaves none.
func TestLoad(t *testing.T) {
	g, err := Load("")
	if err != nil || g.MaxContainmentsPerHour != 5 || !slices.Contains(g.Namespaces, "kube-system") {
		t.Errorf("built in: %+v, %v", g, err)
	}
	for body, want := range map[string]string{
		"rules:\n  - {name: a, when: 'verdict.level == \"malicious\"', do: [freeze]}\nguards: {max_containments_per_hour: 7}": "",
		"rules: []":                              "",
		"guards: {max_containments_per_hour: x}": "cannot unmarshal",
		"guards: {max_containments_per_hour: 0}": "dry_run: true",
		"guards: {max_per_hour: 7}":              "not found",
		"guard: {max_containments_per_hour: 7}":  "not found",
		"guards: {min_healthy_replicas: most}":   "neither a number",
	} {
		path := filepath.Join(t.TempDir(), "policy.yaml")
		if err := os.WriteFile(path, []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
		g, err := Load(path)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one that says %q", body, err, want)
		}
		if strings.Contains(body, "_hour: 7}") && err == nil && g.MaxContainmentsPerHour != 7 {
			t.Errorf("%s: %+v", body, g)
		}
	}
	if _, err := Load(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("there is no such file")
	}
}

func TestGuards(t *testing.T) {
	ok := finding.Finding{Node: "n", Container: finding.Container{ID: "c"}, Pod: finding.Pod{Namespace: "shop"}}
	g := Guards{Namespaces: []string{"kube-system"}}
	if why := g.Refuses(ok); why != "" {
		t.Errorf("refused: %s", why)
	}
	for name, f := range map[string]finding.Finding{
		"protected namespace": {Node: "n", Container: finding.Container{ID: "c"}, Pod: finding.Pod{Namespace: "kube-system"}},
		"no container":        {Node: "n"},
		"no node":             {Container: finding.Container{ID: "c"}},
	} {
		if g.Refuses(f) == "" {
			t.Errorf("%s: not refused", name)
		}
	}
}

// TestReplicas is the arithmetic: a percentage is of those wanted, rounded up, and
// what is compared is what would be left.
func TestReplicas(t *testing.T) {
	for _, c := range []struct {
		least         string
		wanted, ready int
		refused       bool
	}{
		{"33%", 3, 3, false}, {"33%", 3, 2, false}, {"33%", 3, 1, true}, {"50%", 3, 3, false}, {"50%", 3, 2, true}, {"50%", 1, 1, true},
		{"0", 1, 1, false}, {"0%", 1, 1, false}, {"2", 3, 3, false}, {"2", 3, 2, true}, {"100%", 5, 5, true}, {"50%", 10, 6, false}, {"50%", 10, 5, true},
	} {
		g := Guards{MinHealthyReplicas: c.least}
		why, _ := g.RefusesPod(cases.Isolate, Pod{Namespace: "shop", Owner: "ReplicaSet", Name: "web", Ready: true, Wanted: c.wanted, ReadyNow: c.ready, Countable: true})
		if (why != "") != c.refused {
			t.Errorf("%s of %d, %d ready: refused %q, want refused %v", c.least, c.wanted, c.ready, why, c.refused)
		}
	}
}

// TestPodGuards: each guard on its own, for each action.
func TestPodGuards(t *testing.T) {
	g := Guards{Namespaces: []string{"kube-system", "gke-*"}, MinHealthyReplicas: "50%"}
	good := Pod{Namespace: "shop", Owner: "ReplicaSet", Name: "web", Ready: true, Wanted: 3, ReadyNow: 3, Countable: true}
	all := []string{cases.Freeze, cases.Evidence, cases.Isolate, cases.Cordon, cases.Evict, cases.Delete}
	for name, c := range map[string]struct {
		change  func(*Pod)
		refused []string
	}{
		"a healthy Deployment":   {func(*Pod) {}, nil},
		"protected namespace":    {func(p *Pod) { p.Namespace = "kube-system" }, []string{cases.Freeze, cases.Isolate, cases.Cordon, cases.Evict, cases.Delete}},
		"protected by pattern":   {func(p *Pod) { p.Namespace = "gke-managed-cim" }, []string{cases.Freeze, cases.Isolate, cases.Cordon, cases.Evict, cases.Delete}},
		"static":                 {func(p *Pod) { p.Static = true }, []string{cases.Freeze, cases.Isolate, cases.Cordon, cases.Evict, cases.Delete}},
		"control plane":          {func(p *Pod) { p.Critical = true }, []string{cases.Freeze, cases.Isolate, cases.Cordon, cases.Evict, cases.Delete}},
		"DaemonSet":              {func(p *Pod) { p.Owner = "DaemonSet" }, []string{cases.Freeze, cases.Isolate, cases.Evict, cases.Delete}},
		"StatefulSet":            {func(p *Pod) { p.Owner = "StatefulSet" }, []string{cases.Isolate, cases.Evict, cases.Delete}},
		"bare pod":               {func(p *Pod) { p.Owner = "" }, []string{cases.Isolate, cases.Evict, cases.Delete}},
		"an unknown controller":  {func(p *Pod) { p.Owner = "GameServer"; p.Countable = false }, []string{cases.Isolate, cases.Evict, cases.Delete}}, // as a bare pod
		"replicas not known":     {func(p *Pod) { p.Countable = false }, []string{cases.Freeze, cases.Isolate, cases.Evict, cases.Delete}},
		"too few left":           {func(p *Pod) { p.ReadyNow = 2 }, []string{cases.Freeze, cases.Isolate, cases.Evict, cases.Delete}},
		"too few, but not ready": {func(p *Pod) { p.ReadyNow, p.Ready = 1, false }, nil},
		"disruption budget":      {func(p *Pod) { p.Exhausted = []string{"web"} }, []string{cases.Freeze, cases.Isolate, cases.Delete}},
		"a Job":                  {func(p *Pod) { p.Owner, p.Countable = "Job", false }, nil},
	} {
		p := good
		c.change(&p)
		for _, action := range all {
			why, passing := g.RefusesPod(action, p)
			if (why != "") != slices.Contains(c.refused, action) {
				t.Errorf("%s, %s: refused %q", name, action, why)
			}
			if mayPass := why != "" && (len(p.Exhausted) > 0 || p.Ready && p.ReadyNow == 2 || name == "replicas not known"); passing != mayPass {
				t.Errorf("%s, %s: refused %q, passing %v", name, action, why, passing)
			}
		}
	}
	g.AllowKinds = []string{"StatefulSet"}
	sts := good
	sts.Owner = "StatefulSet"
	if why, _ := g.RefusesPod(cases.Evict, sts); why != "" {
		t.Errorf("opted in: %s", why)
	}
	g.AllowKinds = []string{"GameServer"}
	game := good
	game.Owner, game.Countable = "GameServer", false
	if why, _ := g.RefusesPod(cases.Evict, game); why != "" {
		t.Errorf("another controller's kind, opted in: %s", why)
	}
}
