package respond_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/contraband-dev/contraband/internal/finding"
)

const digestLow = pageOnly + `
digest: {when: 'verdict.level != "malicious" && finding.severity == "LOW"', every: 1h}
`

func low(n int, sum string) finding.Finding {
	f := ran(n, n, sum, time.Now())
	f.Pod.Namespace, f.Severity = fmt.Sprint("team-", n), "LOW"
	return f
}

// digestSent is a time after the digest of now, and at least a minute before the one after it.
func digestSent(n int) time.Time {
	return time.Now().Add(20 * time.Second).Truncate(time.Hour).Add(time.Duration(n)*time.Hour + 2*time.Second)
}

func TestPolicyKeepsIncidentsForTheDigest(t *testing.T) {
	w := newWorld(t, memory(t))
	w.yaml = digestLow
	r := w.process()
	for n := range 4 {
		deliver(t, r, 1, low(n, unknownSum(n)))
	}
	if messages, err := w.slack.Messages(); err != nil || len(messages) != 0 {
		t.Fatalf("%d messages before the digest, want none: %v", len(messages), err)
	}
	high := low(5, unknownSum(5))
	high.Severity = "HIGH"
	deliver(t, r, 1, high)           // is paged
	deliver(t, r, 1, low(6, hash())) // so is malware, of whatever severity
	deliver(t, r, 1, low(2, hash())) // also where its workload waits for the digest
	if messages, err := w.slack.Messages(); err != nil || len(messages) != 3 {
		t.Fatalf("%d messages with one of severity HIGH and malware in two workloads, want three: %v", len(messages), err)
	}
	sweepAt(t, r, digestSent(1))
	messages, err := w.slack.Messages()
	if err != nil || len(messages) != 4 {
		t.Fatalf("%d messages with the digest, want four: %v", len(messages), err)
	}
	text := string(messages[3].Blocks)
	if !strings.Contains(text, "Incidents that can wait, by the policy: 3") || !strings.Contains(text, "team-3/web") || strings.Contains(text, "team-2/web") {
		t.Errorf("the digest: %s", text)
	}
	sweepAt(t, r, digestSent(2))
	if messages, err = w.slack.Messages(); err != nil || len(messages) != 4 {
		t.Errorf("%d messages when nothing is new, want four: %v", len(messages), err)
	}
}

// A workload that keeps running other programs is a line of each digest, not silent for as
// long as its incident lasts.
func TestFurtherProgramsAreInTheNextDigest(t *testing.T) {
	w := newWorld(t, memory(t))
	w.yaml = strings.Replace(digestLow, "1h", "10m", 1)
	r := w.process()
	sent := time.Now().Truncate(10 * time.Minute).Add(20 * time.Minute)
	setClock(r, sent.Add(-3*time.Minute))
	deliver(t, r, 1, low(1, unknownSum(1)))
	sweepAt(t, r, sent.Add(2*time.Second))
	setClock(r, sent.Add(4*time.Minute))
	for n := range 3 {
		again := low(1, unknownSum(1+n%2)) // the known program, another one, the known one
		again.CanonicalName += fmt.Sprint("-", n)
		deliver(t, r, 1, again)
	}
	if messages, err := w.slack.Messages(); err != nil || len(messages) != 1 {
		t.Fatalf("%d messages before the second digest, want one: %v", len(messages), err)
	}
	if ids, err := r.Log.Incidents(t.Context()); err != nil || len(ids) != 1 {
		t.Fatalf("%d incidents, want one: %v", len(ids), err)
	}
	for n, want := range []int{2, 2} {
		sweepAt(t, r, sent.Add(time.Duration(n+1)*10*time.Minute+2*time.Second))
		if messages, err := w.slack.Messages(); err != nil || len(messages) != want {
			t.Errorf("digest %d: %d messages, want %d: %v", n+2, len(messages), want, err)
		}
	}
}

// A digest that Slack did not take, or of which it lost the reply, is sent once.
func TestDigestIsSentOnceWhateverFails(t *testing.T) {
	for _, applied := range []bool{false, true} {
		w := newWorld(t, memory(t))
		w.yaml = digestLow
		r := w.process()
		deliver(t, r, 1, low(1, unknownSum(1)))
		failing := true
		w.slack.Fault = func(method string, after bool) int {
			if failing && method == "chat.postMessage" && after == applied {
				failing = false
				return http.StatusBadGateway
			}
			return 0
		}
		at := digestSent(1)
		setClock(r, at)
		due, _, err := r.Log.Due(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		failed := false
		for _, wake := range due { // the wake stays, as after any that fails
			failed = r.Advance(t.Context(), wake.Case) != nil || failed
		}
		if !failed {
			t.Fatal("no step failed")
		}
		sweepAt(t, r, at.Add(10*time.Minute))
		if messages, err := w.slack.Messages(); err != nil || len(messages) != 1 || failing {
			t.Errorf("failed after applying: %v: %d messages, want one: %v", applied, len(messages), err)
		}
	}
}

// What may not wait is paged although its incident waits for the digest already.
func TestWhatMayNotWaitLeavesTheDigest(t *testing.T) {
	severe := func(f finding.Finding) finding.Finding { f.Severity = "HIGH"; return f }
	other := func(f finding.Finding) finding.Finding {
		f.Pod.Name, f.Pod.UID, f.Container.ID = "web-7d9f6c4b5-zzzzz", "uid-z", "c-z"
		return f
	}
	for name, f := range map[string]finding.Finding{
		"another container, of severity HIGH":    other(severe(low(1, unknownSum(2)))),
		"the same container, of severity HIGH":   severe(low(1, unknownSum(2))),
		"another container that waits for a yes": other(low(1, unknownSum(7))),
		"the same container, that waits for one": low(1, unknownSum(7)),
	} {
		w := newWorld(t, memory(t))
		w.yaml = `
rules:
  - {name: ask, when: 'process.path == "/tmp/ask"', do: [page, freeze], require_approval: true}
  - {name: all, do: [page]}
digest: {when: 'finding.severity == "LOW"'}
`
		r := w.process()
		deliver(t, r, 1, low(1, unknownSum(1)))
		if messages, err := w.slack.Messages(); err != nil || len(messages) != 0 {
			t.Fatalf("%s: %d messages before it: %v", name, len(messages), err)
		}
		f.CanonicalName += "-2"
		if f.Process.SHA256 == unknownSum(7) {
			f.Process.Path = "/tmp/ask"
		}
		deliver(t, r, 1, f)
		if messages, err := w.slack.Messages(); err != nil || len(messages) != 1 {
			t.Errorf("%s: %d messages, want one: %v", name, len(messages), err)
		}
		sweepAt(t, r, digestSent(1)) // the incident is not in the digest as well
		if messages, err := w.slack.Messages(); err != nil || len(messages) > 2 || len(messages) == 2 && strings.Contains(string(messages[1].Blocks), "can wait") {
			t.Errorf("%s: it is in the digest too: %d messages, %v", name, len(messages), err)
		}
	}
}

func TestLinesOfTheDigestUseUpNoPage(t *testing.T) {
	w := newWorld(t, memory(t))
	w.yaml = digestLow
	r := w.process()
	r.PagesPerWindow = 2
	for n := range 5 {
		deliver(t, r, 1, low(n, unknownSum(n)))
	}
	high := low(6, unknownSum(6))
	high.Severity = "HIGH"
	deliver(t, r, 1, high)
	if messages, err := w.slack.Messages(); err != nil || len(messages) != 1 {
		t.Errorf("%d messages, want that of severity HIGH: %v", len(messages), err)
	}
}

// A workload whose case was closed after the digest, and that runs the same again, is in
// the digest that follows.
func TestClosedAfterTheDigestAndRunAgainIsToldAgain(t *testing.T) {
	w := newWorld(t, memory(t))
	w.yaml = strings.Replace(digestLow, "1h", "10m", 1)
	r := w.process()
	sent := time.Now().Truncate(10 * time.Minute).Add(20 * time.Minute)
	setClock(r, sent.Add(-3*time.Minute))
	var id string
	for first := range deliver(t, r, 1, low(1, unknownSum(1))) {
		id = first
	}
	sweepAt(t, r, sent.Add(2*time.Second))
	setClock(r, sent.Add(3*time.Minute))
	press(t, w, id, "remediated")
	if err := r.Advance(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	setClock(r, sent.Add(5*time.Minute))
	again := low(1, unknownSum(1))
	again.CanonicalName, again.Container.ID = again.CanonicalName+"-2", "c-again"
	deliver(t, r, 1, again)
	sweepAt(t, r, sent.Add(10*time.Minute+2*time.Second))
	if messages, err := w.slack.Messages(); err != nil || len(messages) != 2 {
		t.Errorf("%d digests, want two: %v", len(messages), err)
	}
}
