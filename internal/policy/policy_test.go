package policy

import (
	"slices"
	"strings"
	"testing"

	"github.com/contraband-dev/contraband/internal/cases"
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
	demo := finding.Finding{Node: "n", Container: finding.Container{ID: "c", Labels: map[string]string{"demo": "true"}}}
	if d := p.Decide(demo, cases.Verdict{Level: cases.Malicious}); d.Rule != "demo" || !d.Includes(cases.Freeze) {
		t.Errorf("decision %+v", d)
	}
	d := p.Decide(finding.Finding{}, cases.Verdict{Level: cases.Malicious})
	if !slices.Equal(d.Do, []string{cases.Page}) || d.Why == "" {
		t.Errorf("a rule that cannot be evaluated must page and nothing else: %+v", d)
	}
}

// TestGuardsWhenDeciding: what the guards will refuse whatever the cluster looks like is
// not promised, and nobody is asked to approve it.
func TestGuardsWhenDeciding(t *testing.T) {
	p, err := Parse([]byte(`
rules:
  - {name: all, do: [page, evidence, isolate], otherwise: [evict], ask: true}
guards: {namespaces: [payments]}
`))
	if err != nil {
		t.Fatal(err)
	}
	f := finding.Finding{Node: "n", Container: finding.Container{ID: "c"}, Pod: finding.Pod{Namespace: "shop", Name: "p"}}
	if d := p.Decide(f, cases.Verdict{}); !d.Includes(cases.Isolate) || d.Why != "" {
		t.Errorf("an open namespace: %+v", d)
	}
	f.Pod.Namespace = "payments"
	d := p.Decide(f, cases.Verdict{})
	if !slices.Equal(d.Do, []string{cases.Page, cases.Evidence}) || len(d.Fallback) != 0 || !strings.Contains(d.Why, "protected") {
		t.Errorf("a protected one: %+v", d)
	}
}

func TestDefaultTouchesNothing(t *testing.T) {
	p, err := Load("")
	if err != nil {
		t.Fatal(err)
	}
	for _, level := range []cases.Level{cases.Malicious, cases.Unknown, cases.NotLookedUp} {
		d := p.Decide(finding.Finding{}, cases.Verdict{Level: level})
		if !d.Includes(cases.Page) || d.Includes(cases.Freeze) || d.Includes(cases.Evidence) {
			t.Errorf("%s: %+v", level, d)
		}
	}
}

func TestMistakesAreTold(t *testing.T) {
	for file, want := range map[string]string{
		"rules: [{name: a, do: [page], wen: x}]":                                 "wen",
		"rules: [{name: a, do: [explode]}]":                                      "explode",
		"rules: [{name: a, do: [page], when: verdict.levle == \"x\"}]":           "levle",
		"rules: [{name: a, do: [page], when: verdict.level}]":                    "not a bool",
		"rules: [{name: a, do: [page, evict]}]":                                  "add evidence",
		"rules: [{name: a, do: [page], otherwise: [page]}]":                      "no containment",
		"rules: [{name: a, do: [page], for: 9000h}]":                             "not between",
		"rules: [{name: a, do: [page], for: soon}]":                              "soon",
		"rules: [{name: a, do: [isolate], at_end: otherwise}]":                   "otherwise is empty",
		"rules: [{name: a, do: [isolate], at_end: never}]":                       "neither",
		"guards: {min_healthy_replicas: most}":                                   "neither a number",
		"guards: {min_healthy_replicas: 150%}":                                   "neither a number",
		"guards: {namespaces: ['[']}":                                            "no pattern",
		"guards: {released_pod: middle}":                                         "neither first nor last",
		"rules: [{do: [page]}]":                                                  "required",
		"rules: [{name: a, do: [page], otherwise: [cordon], at_end: otherwise}]": "nothing in do ends",
		"guards: {max_containments_per_hour: -1}":                                "1 or more",
		"guards: {max_per_workload_per_hour: 0}":                                 "dry_run",
	} {
		if _, err := Parse([]byte(file)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one that says %q", file, err, want)
		}
	}
}
