package policy

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/internal/policy/guards"
	"github.com/contraband-dev/contraband/sensor/allowlist"
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

// TestDecisionOmitsWhatTheGuardsRefuse: what the guards will refuse whatever the cluster looks like is
// not promised, and nobody is asked to approve it.
func TestDecisionOmitsWhatTheGuardsRefuse(t *testing.T) {
	p, err := Parse([]byte(`
rules:
  - {name: all, do: [page, evidence, isolate], fallback: [evict], require_approval: true}
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

func TestDefaultPolicyContainsNothing(t *testing.T) {
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

func TestEachMistakeIsReported(t *testing.T) {
	for file, want := range map[string]string{
		"rules: [{name: a, do: [page], wen: x}]":                                    "wen",
		"rules: [{name: a, do: [explode]}]":                                         "explode",
		"rules: [{name: a, do: [page], when: verdict.levle == \"x\"}]":              "levle",
		"rules: [{name: a, do: [page], when: verdict.level}]":                       "not a bool",
		"rules: [{name: a, do: [page, evict]}]":                                     "add evidence",
		"rules: [{name: a, do: [page], fallback: [page]}]":                          "not a containment",
		"rules: [{name: a, do: [page], hold_for: 9000h}]":                           "not between",
		"rules: [{name: a, do: [page], hold_for: soon}]":                            "soon",
		"rules: [{name: a, do: [isolate], on_expiry: fallback}]":                    "fallback is empty",
		"rules: [{name: a, do: [isolate], on_expiry: never}]":                       "neither",
		"guards: {min_healthy_replicas: most}":                                      "neither a number",
		"guards: {min_healthy_replicas: 150%}":                                      "neither a number",
		"guards: {namespaces: ['[']}":                                               "not a valid pattern",
		"guards: {released_pod: middle}":                                            "neither first nor last",
		"rules: [{do: [page]}]":                                                     "required",
		"rules: [{name: a, do: [page], fallback: [cordon], on_expiry: fallback}]":   "nothing in do expires",
		"guards: {max_containments_per_hour: -1}":                                   "1 or more",
		"rules: [{name: a, do: [page, freeze], ask: true, require_approval: true}]": "give one",
		"exceptions: [{sha256: abc}]":                                               "exception 1",
		"exceptions: [{path: /x, owner: o, reason: r, until: 2030-01-31}]":          "alone",
		"guards: {max_per_workload_per_hour: 0}":                                    "dry_run",
		"escalate_after: {unanswered: 5s, to: security}":                            "not between",
		"digest: {every: 1h}":                                                       "digest: when: missing",
		"digest: {when: 'true', every: 5m}":                                         "every: 5m0s is not between",
		"digest: {when: 'true', every: 9h}":                                         "no whole part of a day",
		"digest: {when: 'finding.sev == 1'}":                                        "digest: ",
		"escalate_after: {to: security}":                                            "not between",
		"escalate_after: {unanswered: 5m, to: oncall}":                              "neither security nor",
		"escalate_after: {unanswered: 5m, to: 'pager:x'}":                           "neither security nor",
		"escalate_after: {unanswered: 5m, to: 'slack:on call'}":                     "neither security nor",
		"escalate_after: {unanswered: 5m, to: security, when: verdict.lvl == 'x'}":  "escalate_after: when",
	} {
		if _, err := Parse([]byte(file)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one that says %q", file, err, want)
		}
	}
}

func TestEarlierKeysOfARuleAreAcceptedWithAWarning(t *testing.T) {
	earlier, err := Parse([]byte(`rules: [{name: a, do: [page, evidence, isolate], otherwise: [evict], ask: true, for: 12h, at_end: otherwise}]`))
	if err != nil {
		t.Fatal(err)
	}
	now, err := Parse([]byte(`rules: [{name: a, do: [page, evidence, isolate], fallback: [evict], require_approval: true, hold_for: 12h, on_expiry: fallback}]`))
	if err != nil {
		t.Fatal(err)
	}
	f := finding.Finding{Node: "n", Container: finding.Container{ID: "c"}, Pod: finding.Pod{Namespace: "shop", Name: "p"}}
	if was, is := earlier.Decide(f, cases.Verdict{}), now.Decide(f, cases.Verdict{}); !reflect.DeepEqual(was, is) || !is.RequireApproval || !is.FallbackOnExpiry {
		t.Errorf("%+v, want %+v", was, is)
	}
	if text := strings.Join(earlier.Warnings, "\n"); len(earlier.Warnings) != 4 || !strings.Contains(text, "ask is called require_approval") {
		t.Errorf("warnings %q", text)
	}
	if len(now.Warnings) != 0 {
		t.Errorf("warnings %q", now.Warnings)
	}
}

func TestExceptionsAreExplained(t *testing.T) {
	p, err := Parse([]byte(`
exceptions:
  - {path: "/srv/**", image: ghcr.io/acme/app, workload: web, parent: /usr/bin/pip, owner: o, reason: by path, until: 2030-01-31}
  - {sha256: "` + strings.Repeat("a", 64) + `", owner: o, reason: by bytes, until: 2020-01-31}
`))
	if err != nil {
		t.Fatal(err)
	}
	if len(p.Warnings) != 1 || !strings.Contains(p.Warnings[0], "2020-01-31") {
		t.Errorf("the expired exception is not reported: %q", p.Warnings)
	}
	f := finding.Finding{Category: finding.AddedBinary, Node: "n",
		Pod:       finding.Pod{Namespace: "shop", Name: "web-7d9f6c4b5-bcdfg", Labels: map[string]string{"pod-template-hash": "7d9f6c4b5"}},
		Container: finding.Container{ID: "c", Image: "ghcr.io/acme/app:1.2"},
		Process:   finding.Process{Path: "/srv/a/b", SHA256: strings.Repeat("a", 64)},
		Sensor:    &finding.Sensor{Ancestors: []string{"pip (7) /usr/bin/pip"}},
	}
	now := time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)
	if e := p.Expected(f, cases.Verdict{Level: cases.Unknown}, now); e == nil || e.Reason != "by path" {
		t.Errorf("exception %+v", e)
	}
	if e := p.Expected(f, cases.Verdict{Level: cases.Malicious}, now); e != nil {
		t.Errorf("bytes known to be bad match an exception by path: %+v", e)
	}
	if e := p.Expired(f, now); e == nil || e.Reason != "by bytes" {
		t.Errorf("expired exception %+v", e)
	}
	f.Container.Image = "ghcr.io/acme/other:1.2"
	all := p.Explain(f, cases.Verdict{}, now)
	if len(all) != 2 || !strings.Contains(all[0].Mismatch, "image repository") || !strings.Contains(all[1].Mismatch, "expired") {
		t.Errorf("%+v", all)
	}
}

// TestOneFileIsReadByAll: the policy, the guards of what contains, and the sensor's
// exceptions come from the same file, and none refuses a key of another.
func TestOneFileIsReadByAll(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.yaml")
	const file = `
rules: [{name: all, do: [page]}]
routes: [{slack: "#oncall"}]
escalate_after: {unanswered: 15m, to: "pagerduty:security", when: 'connection.destination_port == 4444'}
exceptions: [{sha256: "5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef", owner: o, reason: r, until: 2999-01-01}]
digest: {when: 'finding.severity == "LOW"', every: 1h}
guards: {dry_run: true}
`
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if g, err := guards.Load(path); err != nil || !g.DryRun {
		t.Errorf("guards %+v, %v", g, err)
	}
	if l, err := allowlist.Load(path); err != nil || len(l) != 1 {
		t.Errorf("exceptions %+v, %v", l, err)
	}
	// Every key of the file that there is must be in the text above.
	for i := range reflect.TypeFor[File]().NumField() {
		if key := reflect.TypeFor[File]().Field(i).Tag.Get("yaml"); !strings.Contains(file, "\n"+key+":") {
			t.Errorf("%s is not tried", key)
		}
	}
	shell := finding.Finding{Connections: []finding.Connection{{DestinationPort: 4444}}}
	if after, to := p.Unanswered(shell, cases.Verdict{}); after != 15*time.Minute || to.String() != "pagerduty:security" {
		t.Errorf("unanswered after %s: %s", after, to)
	}
	if after, _ := p.Unanswered(finding.Finding{}, cases.Verdict{}); after != 0 {
		t.Errorf("the condition does not hold, and another channel is notified after %s", after)
	}
}

// TestRulesSeeConnectionsServiceAndReporter.
func TestRulesSeeConnectionsServiceAndReporter(t *testing.T) {
	f := finding.Finding{ReportedBy: finding.ReporterGoogle, Detector: "Cloud Run Threat Detection",
		Service:     finding.Service{Kind: finding.CloudRunJob, Name: "nightly"},
		Process:     finding.Process{Args: []string{"sh", "-i"}, Runner: &finding.Runner{Path: "/bin/sh"}},
		Connections: []finding.Connection{{Protocol: "TCP", DestinationIP: "203.0.113.7", DestinationPort: 4444}, {DestinationPort: 53}}}
	for when, want := range map[string]bool{
		`connection.destination_ip == "203.0.113.7" && connection.destination_port == 4444`: true,
		`connections.exists(c, c.destination_port == 53)`:                                   true,
		`connections.exists(c, c.destination_port == 80)`:                                   false,
		`service.kind == "Cloud Run job" && service.name == "nightly"`:                      true,
		`finding.reported_by == "google" && finding.detector.startsWith("Cloud Run")`:       true,
		`"-i" in process.args && process.runner == "/bin/sh"`:                               true,
	} {
		p, err := Parse([]byte("rules: [{name: hit, do: [page], when: " + strconv.Quote(when) + "}, {name: miss, do: [page]}]"))
		if err != nil {
			t.Errorf("%s: %v", when, err)
			continue
		}
		if d := p.Decide(f, cases.Verdict{}); (d.Rule == "hit") != want || d.Why != "" && !strings.Contains(d.Why, "no pod") {
			t.Errorf("%s: %+v, want %t", when, d, want)
		}
	}
	p, err := Parse([]byte(`rules: [{name: hit, do: [page], when: connection.destination_port == 0 && service.kind == "" && connections.size() == 0}]`))
	if err != nil {
		t.Fatal(err)
	}
	if d := p.Decide(finding.Finding{}, cases.Verdict{}); d.Rule != "hit" {
		t.Errorf("without connections: %+v", d)
	}
}
