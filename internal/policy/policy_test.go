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
		"rules: [{name: a, do: [evidence, freeze]}]":                   "freeze first",
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
	if (Guards{DryRun: true}).Refuses(ok) == "" {
		t.Error("a dry run acts")
	}
}
