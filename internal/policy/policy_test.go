package policy

import (
	"slices"
	"strings"
	"testing"

	"github.com/contraband-dev/contraband/internal/docket"
	"github.com/contraband-dev/contraband/internal/finding"
)

func TestDecide(t *testing.T) {
	p, err := Parse([]byte(`
rules:
  - name: demo
    when: verdict.level == "malicious" && "demo" in container.labels && container.labels["demo"] == "true"
    do: [escalate, page, freeze, evidence]
  - name: fails on most
    when: container.labels["absent"] == "x"
    do: [freeze]
`))
	if err != nil {
		t.Fatal(err)
	}
	demo := finding.Finding{Container: finding.Container{Labels: map[string]string{"demo": "true"}}}
	if d := p.Decide(demo, docket.Verdict{Level: docket.Malicious}); d.Rule != "demo" || !d.Includes(docket.Freeze) {
		t.Errorf("decision %+v", d)
	}
	d := p.Decide(finding.Finding{}, docket.Verdict{Level: docket.Malicious})
	if !slices.Equal(d.Do, []string{docket.Page}) || d.Why == "" {
		t.Errorf("a rule that cannot be evaluated must page and nothing else: %+v", d)
	}
}

func TestDefaultTouchesNothing(t *testing.T) {
	p, err := Load("")
	if err != nil {
		t.Fatal(err)
	}
	for _, level := range []docket.Level{docket.Malicious, docket.Unknown, docket.NotLookedUp} {
		d := p.Decide(finding.Finding{}, docket.Verdict{Level: level})
		if !d.Includes(docket.Page) || d.Includes(docket.Freeze) || d.Includes(docket.Evidence) {
			t.Errorf("%s: %+v", level, d)
		}
	}
}

func TestMistakesAreTold(t *testing.T) {
	for file, want := range map[string]string{
		"rules: [{name: a, do: [page], wen: x}]":                       "wen",
		"rules: [{name: a, do: [explode]}]":                            "explode",
		"rules: [{name: a, do: [page], when: verdict.levle == \"x\"}]": "levle",
		"rules: [{name: a, do: [page], when: verdict.level}]":          "not a bool",
		"rules: [{name: a, do: [page, evict]}]":                        "add evidence",
		"rules: [{name: a, do: [page], otherwise: [page]}]":            "no containment",
		"rules: [{name: a, do: [page], for: 9000h}]":                   "not between",
		"rules: [{name: a, do: [page], for: soon}]":                    "soon",
		"rules: [{name: a, do: [isolate], at_end: otherwise}]":         "otherwise is empty",
		"rules: [{name: a, do: [isolate], at_end: never}]":             "neither",
		"guards: {min_healthy_replicas: most}":                         "neither a number",
		"guards: {min_healthy_replicas: 150%}":                         "neither a number",
		"guards: {namespaces: ['[']}":                                  "no pattern",
		"guards: {released_pod: middle}":                               "neither first nor last",
		"rules: [{do: [page]}]":                                        "required",
		"guards: {max_containments_per_hour: -1}":                      "negative",
	} {
		if _, err := Parse([]byte(file)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one that says %q", file, err, want)
		}
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
		why := g.RefusesPod(docket.Isolate, Pod{Namespace: "shop", Owner: "ReplicaSet", Name: "web", Ready: true, Wanted: c.wanted, ReadyNow: c.ready, Countable: true})
		if (why != "") != c.refused {
			t.Errorf("%s of %d, %d ready: refused %q, want refused %v", c.least, c.wanted, c.ready, why, c.refused)
		}
	}
}

// TestPodGuards: each guard on its own, for each action.
func TestPodGuards(t *testing.T) {
	g := Guards{Namespaces: []string{"kube-system", "gke-*"}, MinHealthyReplicas: "50%"}
	good := Pod{Namespace: "shop", Owner: "ReplicaSet", Name: "web", Ready: true, Wanted: 3, ReadyNow: 3, Countable: true}
	all := []string{docket.Freeze, docket.Evidence, docket.Isolate, docket.Cordon, docket.Evict, docket.Delete}
	for name, c := range map[string]struct {
		change  func(*Pod)
		refused []string
	}{
		"a healthy Deployment":   {func(*Pod) {}, nil},
		"protected namespace":    {func(p *Pod) { p.Namespace = "kube-system" }, []string{docket.Freeze, docket.Isolate, docket.Cordon, docket.Evict, docket.Delete}},
		"protected by pattern":   {func(p *Pod) { p.Namespace = "gke-managed-cim" }, []string{docket.Freeze, docket.Isolate, docket.Cordon, docket.Evict, docket.Delete}},
		"static":                 {func(p *Pod) { p.Static = true }, []string{docket.Freeze, docket.Isolate, docket.Cordon, docket.Evict, docket.Delete}},
		"control plane":          {func(p *Pod) { p.Critical = true }, []string{docket.Freeze, docket.Isolate, docket.Cordon, docket.Evict, docket.Delete}},
		"DaemonSet":              {func(p *Pod) { p.Owner = "DaemonSet" }, []string{docket.Freeze, docket.Isolate, docket.Evict, docket.Delete}},
		"StatefulSet":            {func(p *Pod) { p.Owner = "StatefulSet" }, []string{docket.Isolate, docket.Evict, docket.Delete}},
		"bare pod":               {func(p *Pod) { p.Owner = "" }, []string{docket.Isolate, docket.Evict, docket.Delete}},
		"an unknown controller":  {func(p *Pod) { p.Owner = "GameServer"; p.Countable = false }, []string{docket.Freeze, docket.Isolate, docket.Evict, docket.Delete}},
		"too few left":           {func(p *Pod) { p.ReadyNow = 2 }, []string{docket.Freeze, docket.Isolate, docket.Evict, docket.Delete}},
		"too few, but not ready": {func(p *Pod) { p.ReadyNow, p.Ready = 1, false }, nil},
		"disruption budget":      {func(p *Pod) { p.Exhausted = []string{"web"} }, []string{docket.Freeze, docket.Isolate, docket.Delete}},
		"a Job":                  {func(p *Pod) { p.Owner, p.Countable = "Job", false }, nil},
	} {
		p := good
		c.change(&p)
		for _, action := range all {
			if why := g.RefusesPod(action, p); (why != "") != slices.Contains(c.refused, action) {
				t.Errorf("%s, %s: refused %q", name, action, why)
			}
		}
	}
	g.AllowKinds = []string{"StatefulSet"}
	sts := good
	sts.Owner = "StatefulSet"
	if why := g.RefusesPod(docket.Evict, sts); why != "" {
		t.Errorf("opted in: %s", why)
	}
}
