// Package samplecases builds one case for each state that people see, folded
// from events as in production, at fixed times. Golden tests of every
// rendering use the same ones. Nothing deployed imports it.
package samplecases

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/cases/caselog"
	"github.com/contraband-dev/contraband/internal/finding"
)

// State is a case in one state.
type State struct {
	Name   string // for file names
	Case   cases.Case
	Events []caselog.Event
}

// At is the time of the first event of every sample.
var At = time.Date(2026, 11, 25, 9, 30, 0, 0, time.UTC)

// States returns the samples, in the order of a case's life.
func States() []State {
	frozen := []event{decided(cases.Malicious, freezeRule), paged(), claimed(cases.Freeze), done(cases.Freeze, 2), claimed(cases.Evidence), done(cases.Evidence, 4)}
	isolated := join(frozen, claimed(cases.Isolate), done(cases.Isolate, 6))
	asking := []event{decided(cases.Unknown, askRule), paged()}
	return []State{
		build("paged", decided(cases.Unknown, pageRule), paged()),
		build("containing-by-hand", decided(cases.Unknown, pageRule), paged(), click(cases.ActionContain, "ann", "")),
		build("planned", decided(cases.Malicious, freezeRule)),
		build("frozen", frozen...),
		build("isolated", isolated...),
		build("waiting", asking...),
		build("denied", join(asking, click(cases.ActionDeny, "ann", ""))...),
		build("refused-click", join(asking, click(cases.ActionRelease, "eve", "nothing is frozen, isolated or cordoned"))...),
		build("escalation-failed", decided(cases.Malicious, freezeRule), paged(),
			event{cases.KindEscalated, cases.Escalated{Error: "permission denied"}}),
		build("freeze-failed", decided(cases.Malicious, freezeRule), paged(), claimed(cases.Freeze),
			event{cases.KindActed, cases.Outcome{Claim: 2, Action: cases.Freeze, Error: "no sensor took the order within 15s", At: At, RetryAt: At.Add(time.Minute)}}),
		build("freeze-lost", join(frozen, event{cases.KindLost, cases.Lost{Why: "the kubelet restarted the container"}})...),
		build("isolation-lost", join(isolated, event{cases.KindLost, cases.Lost{Action: cases.Isolate, Why: "the quarantine label was removed"}})...),
		build("removal-stuck", join(isolated, claimed(cases.Evict), done(cases.Evict, 8),
			event{cases.KindLost, cases.Lost{Action: cases.Evict, Why: "a finalizer keeps the pod"}})...),
		build("expired", join(frozen, event{cases.KindExpired, struct{}{}})...),
		build("worse", join(asking, event{cases.KindDecided, decision(cases.Malicious, freezeRule, "worse")})...),
		build("many", join(frozen, event{cases.KindJoined, cases.Joined{Keys: keys(14), Last: At.Add(90 * time.Second)}})...),
		build("released", join(frozen, click(cases.ActionRelease, "ann", ""), claimed(cases.Thaw), done(cases.Thaw, 7))...),
		build("closed", join(frozen, click(cases.ActionRelease, "ann", ""), claimed(cases.Thaw), done(cases.Thaw, 7),
			event{cases.KindClosed, cases.Closed{Resolution: "released", By: "ann"}})...),
	}
}

type event struct {
	kind string
	body any
}

func join(events []event, more ...event) []event {
	return append(append([]event(nil), events...), more...)
}

func build(name string, events ...event) State {
	id := "0123456789abcdef"
	log := make([]caselog.Event, 0, len(events))
	for n, e := range events {
		body, err := json.Marshal(e.body)
		if err != nil {
			panic(fmt.Sprintf("sample case %q: %v", name, err)) // a sample that cannot be built is a mistake in this file
		}
		log = append(log, caselog.Event{N: n, Kind: e.kind, At: At.Add(time.Duration(n) * time.Second), Body: body})
	}
	c, err := cases.Fold(id, log)
	if err != nil {
		panic(err)
	}
	return State{Name: name, Case: c, Events: log}
}

var (
	pageRule   = cases.Decision{Rule: "everything else", Do: []string{cases.Page}}
	freezeRule = cases.Decision{Rule: "known malware", HoldFor: 4 * time.Hour,
		Do: []string{cases.Escalate, cases.Page, cases.Freeze, cases.Evidence, cases.Isolate}}
	askRule = cases.Decision{Rule: "unknown binary in payments", RequireApproval: true,
		Do: []string{cases.Page, cases.Evidence, cases.Isolate}}
)

func decided(level cases.Level, d cases.Decision) event {
	return event{cases.KindDecided, decision(level, d, "first")}
}

func decision(level cases.Level, d cases.Decision, key string) cases.Decided {
	verdict := cases.Verdict{Level: level, Source: "VirusTotal", At: At}
	if level == cases.Malicious {
		verdict.Label, verdict.Link = "41/71 engines, miner.xmrig", "https://www.virustotal.com/gui/file/"+hash
	}
	return cases.Decided{Key: key, Finding: Finding(), Verdict: verdict, Decision: d, Received: At.Add(300 * time.Millisecond),
		Facts: cases.Facts{
			Contacts: []string{"payments-oncall@example.com", "the security channel"},
			Queries:  []cases.Fact{{Title: "Logs of the container", Link: "https://console.cloud.google.com/logs/query", Text: `resource.type="k8s_container"`}},
			Commands: []cases.Fact{{Title: "Open a shell", Text: "kubectl exec -n payments web-7d9f6c4b5-x2x9k -- /bin/sh"}},
			Research: []cases.Fact{{Title: "MITRE ATT&CK T1105", Link: "https://attack.mitre.org/techniques/T1105/"}},
			Workload: &cases.Workload{Owners: []cases.Owner{{Kind: "ReplicaSet", Name: "web-7d9f6c4b5"}, {Kind: "Deployment", Name: "web"}}},
			Missing:  []string{"cluster labels: deadline exceeded"},
		}}
}

var hash = strings.Repeat("c0ffee42", 8)

// Finding returns the finding that every sample is about.
func Finding() finding.Finding {
	executed := At.Add(-800 * time.Millisecond)
	return finding.Finding{
		Name: "organizations/1/sources/2/findings/f1", CanonicalName: "projects/3/sources/2/findings/f1",
		Category: finding.AddedBinary, Severity: "HIGH", State: "ACTIVE", EventTime: executed,
		ExternalURI: "https://console.cloud.google.com/security/command-center/findings",
		Project:     "shop-prod", Location: "europe-west1", Cluster: "prod", Node: "gke-prod-pool-1-abcd",
		Pod:       finding.Pod{Namespace: "payments", Name: "web-7d9f6c4b5-x2x9k", UID: "0b7c2a52-9f0e-4a57-8d59-0c4a7ad1e001"},
		Container: finding.Container{ID: strings.Repeat("ab", 32), Name: "web", Image: "europe-docker.pkg.dev/shop/web:1.4"},
		Process:   finding.Process{Path: "/tmp/.x/kdevtmpfsi", Args: []string{"/tmp/.x/kdevtmpfsi", "-o", "pool.example:3333"}, PID: 4711, SHA256: hash},
		Sensor: &finding.Sensor{Route: "added", Ancestors: []string{"sh (4700) /bin/sh", "curl (4699) /usr/bin/curl"},
			Executed: executed, Seen: executed.Add(2 * time.Millisecond), Hashed: executed.Add(9 * time.Millisecond),
			Attributed: executed.Add(15 * time.Millisecond), Raised: executed.Add(20 * time.Millisecond)},
	}
}

func paged() event {
	return event{cases.KindPaged, cases.Paged{Channel: "C0CONTRABAND", Timestamp: "1795599000.000001", Link: "https://slack.example/p1"}}
}

func claimed(action string) event {
	return event{cases.KindClaimed, cases.Claimed{Action: action, ContainerID: strings.Repeat("ab", 32), Node: "gke-prod-pool-1-abcd"}}
}

// done is the outcome of the claim that is event number claim.
func done(action string, claim int) event {
	o := cases.Outcome{Claim: claim, Action: action, Done: true, At: At.Add(time.Duration(claim) * time.Second)}
	switch action {
	case cases.Freeze:
		o.Processes, o.Until = 3, At.Add(4*time.Hour)
	case cases.Evidence:
		o.SHA256, o.Bytes = hash, 2048
		o.Items = []cases.Item{{Name: "binary", SHA256: hash, Bytes: 2048, At: o.At, By: "the sensor"}}
	case cases.Isolate:
		o.Verified, o.Until = "a probe could not reach the pod", At.Add(4*time.Hour)
	}
	return event{cases.KindActed, o}
}

func click(what, by, refused string) event {
	n := 0
	return event{cases.KindClicked, cases.Click{ID: what + by, What: what, By: by, At: At.Add(time.Minute), Refused: refused, Decision: &n}}
}

func keys(n int) []string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprintf("finding-%d", i))
	}
	return out
}
