package respond_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/cases/caselog"
	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/internal/respond"
	"github.com/contraband-dev/contraband/internal/scc"
	"github.com/contraband-dev/contraband/internal/verdict"
)

// TestCaseOfDeadHolderIsTakenOver: an invocation ends without giving the case back, and
// the next delivery is acknowledged because the case is held. Someone must come.
func TestCaseOfDeadHolderIsTakenOver(t *testing.T) {
	w := newWorld(t, memory(t))
	f := w.found("c1", time.Now())
	w.raiseInSCC(f)
	now := time.Now()
	r := w.process()
	r.Now = func() time.Time { return now }
	r.Log.Now = r.Now
	r.Log.Alive = nil             // it is not known whether the holder's process has ended
	w.life.endOn = "order freeze" // the case is held then
	if _, err := r.Finding(t.Context(), f); err == nil {
		t.Fatal("it did not vanish")
	}
	w.life.revive()
	o, err := r.Finding(t.Context(), f)
	if err != nil || o.Case == "" {
		t.Fatalf("the next delivery: %+v, %v", o, err)
	}
	now = now.Add(cases.Lease + time.Minute)
	due, _, err := r.Log.Due(t.Context())
	if err != nil || !slices.ContainsFunc(due, func(w caselog.Wake) bool { return w.Case == o.Case }) {
		t.Fatalf("nobody will look at the case: %v, %v", due, err)
	}
	for _, wake := range due {
		if err := r.Advance(t.Context(), wake.Case); err != nil {
			t.Fatal(err)
		}
	}
	w.check(o.Case)
}

// TestFindingWhileCaseClosesOpensTheNext opens its next episode.
func TestFindingWhileCaseClosesOpensTheNext(t *testing.T) {
	w := newWorld(t, memory(t))
	w.yaml = "rules: [{name: all, do: [page]}]"
	r := w.process()
	first := w.found("c1", time.Now().Add(-time.Minute))
	w.raiseInSCC(first)
	o, err := r.Finding(t.Context(), first)
	if err != nil {
		t.Fatal(err)
	}
	// Another invocation has named the finding and put it on record; then the case closes.
	late := w.found("c1", time.Now())
	if _, _, err := r.Log.AssignCase(t.Context(), late.Key(), caselog.Assignment{Case: o.Case, Slot: caselog.Slot(time.Now())}); err != nil {
		t.Fatal(err)
	}
	press(t, w, o.Case, cases.ActionClose)
	if err := r.Advance(t.Context(), o.Case); err != nil {
		t.Fatal(err)
	}
	again, err := r.Finding(t.Context(), late)
	if err != nil || again.Case != o.Case+"-2" {
		t.Fatalf("what was named and never seen: %+v, %v; want the next episode", again, err)
	}
	if c := w.read(again.Case); c.Paged == nil {
		t.Error("the next episode is not paged")
	}
	f, err := r.Log.Read(t.Context(), o.Case, "late")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Append(t.Context(), cases.KindJoined, nil); err == nil {
		t.Error("a closed case takes an event")
	}
}

func (w *world) open(r *respond.Responder, container string) (finding.Finding, string) {
	w.t.Helper()
	f := w.found(container, time.Now())
	w.raiseInSCC(f)
	o, err := r.Finding(w.t.Context(), f)
	if err != nil {
		w.t.Fatal(err)
	}
	return f, o.Case
}

func advance(t *testing.T, r *respond.Responder, caseID string) {
	t.Helper()
	if err := r.Advance(t.Context(), caseID); err != nil {
		t.Fatal(err)
	}
}

func TestReleaseOfRemovedContainerClosesTheCase(t *testing.T) {
	w := newWorld(t, memory(t))
	r := w.process()
	_, id := w.open(r, "c1")
	w.node.gone = true
	press(t, w, id, cases.ActionRelease)
	advance(t, r, id)
	if c := w.read(id); c.Frozen() || c.Closed == nil {
		t.Errorf("the case of a container that is gone is %q", c.Status())
	}
}

func TestFailedReleaseCanBeClickedAgain(t *testing.T) {
	w := newWorld(t, memory(t))
	r := w.process()
	_, id := w.open(r, "c1")
	w.node.refuse = "stuck in the kernel"
	press(t, w, id, cases.ActionRelease)
	advance(t, r, id)
	if c := w.read(id); !c.Frozen() || c.Closed != nil {
		t.Fatalf("after a thaw that failed the case is %q", c.Status())
	}
	w.node.refuse = ""
	press(t, w, id, cases.ActionRelease)
	advance(t, r, id)
	if c := w.read(id); c.Frozen() || c.Status() != "closed: released" {
		t.Errorf("after the second press the case is %q", c.Status())
	}
}

// TestCaseIsNotClosedDuringFreeze would leave a closed case with a frozen container.
func TestCaseIsNotClosedDuringFreeze(t *testing.T) {
	w := newWorld(t, memory(t))
	r := w.process()
	act := r.Contain
	r.Contain = func(context.Context, string, int) (cases.Outcome, error) {
		return cases.Outcome{}, fmt.Errorf("the sensor restarts")
	}
	f := w.found("c1", time.Now())
	w.raiseInSCC(f)
	if _, err := r.Finding(t.Context(), f); err == nil {
		t.Fatal("the freeze was to fail for now")
	}
	id, err := r.Log.CaseOf(t.Context(), f.Key())
	if err != nil {
		t.Fatal(err)
	}
	press(t, w, id, cases.ActionClose)
	r.Contain = act
	advance(t, r, id)
	if c := w.read(id); c.Closed != nil || !c.Frozen() || c.Clicks[0].Refused == "" {
		t.Errorf("the case is %q, frozen %v, the click %+v", c.Status(), c.Frozen(), c.Clicks)
	}
}

// TestOnlyBenignAndRemediatedEndTheFinding: released and settled do not.
func TestOnlyBenignAndRemediatedEndTheFinding(t *testing.T) {
	for what, want := range map[string]string{cases.ActionExpected: "INACTIVE", cases.ActionRemediated: "INACTIVE", cases.ActionClose: "ACTIVE"} {
		t.Run(what, func(t *testing.T) {
			w := newWorld(t, memory(t))
			w.yaml = "rules: [{name: all, do: [escalate, page]}]"
			r := w.process()
			f, id := w.open(r, "c1")
			press(t, w, id, what)
			advance(t, r, id)
			all, err := w.scc.Findings()
			if err != nil || len(all) != 2 {
				t.Fatalf("%d findings, %v", len(all), err)
			}
			for _, g := range all {
				if g.State.String() != want {
					t.Errorf("%s is %s, want %s", g.Category, g.State, want)
				}
			}
			if c := w.read(id); c.Closed == nil || c.Closed.Resolution != cases.Resolution(what) {
				t.Errorf("the case is %q", c.Status())
			}
			// SCC's notification of our own change opens and closes nothing.
			f.State = "INACTIVE"
			if o, err := r.Finding(t.Context(), f); err != nil || o.Acknowledged == "" {
				t.Errorf("the notification of it: %+v, %v", o, err)
			}
		})
	}
}

// TestExpiredFreezeIsRecorded: it is reported, and the rule's fallback is begun.
func TestExpiredFreezeIsRecorded(t *testing.T) {
	w := newWorld(t, memory(t))
	w.yaml = `rules: [{name: all, do: [page, freeze, evidence], otherwise: [cordon], at_end: otherwise}]`
	now := time.Now()
	r := w.process()
	_, id := w.open(r, "c1")
	r.Now = func() time.Time { return now.Add(25 * time.Hour) }
	r.Log.Now = r.Now
	due, _, err := r.Log.Due(t.Context())
	if err != nil || len(due) == 0 {
		t.Fatalf("nobody looks when the freeze ends: %v, %v", due, err)
	}
	advance(t, r, id)
	messages, err := w.slack.Messages()
	if err != nil || w.read(id).Status() != "freeze expired" || !strings.Contains(string(messages[0].Blocks), "is RUNNING again") {
		t.Errorf("the case is %q, the page %s (%v)", w.read(id).Status(), messages[0].Blocks, err)
	}
	if w.read(id).Claim(cases.Cordon) == nil {
		t.Error("the rule's otherwise is not begun")
	}
}

// TestWorseVerdictDecidesAnew: not looked up at first, malicious when it runs again.
func TestWorseVerdictDecidesAnew(t *testing.T) {
	w := newWorld(t, memory(t))
	r := w.process()
	known := r.Verdicts
	r.Verdicts = verdict.Lookup{Sources: []verdict.Source{quotaSpent{}}}
	_, id := w.open(r, "c1")
	if c := w.read(id); c.Frozen() || c.Decided.Verdict.Level != cases.NotLookedUp {
		t.Fatalf("at first: %q, %s", c.Status(), c.Decided.Verdict.Level)
	}
	r.Verdicts = known
	o, err := r.Finding(t.Context(), w.found("c1", time.Now().Add(time.Second)))
	if err != nil || o.Case != id {
		t.Fatalf("%+v, %v", o, err)
	}
	c := w.check(id)
	if c.Decided.Verdict.Level != cases.Malicious || c.Joined != 1 || c.WorseReminder == nil {
		t.Errorf("verdict %s, %d joined", c.Decided.Verdict.Level, c.Joined)
	}
}

type quotaSpent struct{}

func (quotaSpent) Name() string { return "quota" }
func (quotaSpent) Lookup(context.Context, string) (cases.Verdict, error) {
	return cases.Verdict{}, fmt.Errorf("HTTP 429")
}

// TestEscalationWithoutSCCSourceStaysInTheCase: the message says that there is no SCC source, and nothing else changes.
func TestEscalationWithoutSCCSourceStaysInTheCase(t *testing.T) {
	w := newWorld(t, memory(t))
	r := w.process()
	r.SCC = nil
	o, err := r.Finding(t.Context(), w.found("c1", time.Now()))
	if err != nil {
		t.Fatal(err)
	}
	c := w.read(o.Case)
	messages, err := w.slack.Messages()
	if err != nil || len(messages) != 1 || !strings.Contains(string(messages[0].Blocks), "no SCC source is configured") {
		t.Errorf("the page does not say so: %d messages, %v", len(messages), err)
	}
	if !c.Frozen() || c.Escalated == nil || c.Escalated.Error == "" {
		t.Errorf("the case: %q, escalated %+v", c.Status(), c.Escalated)
	}
}

// TestBlindDetectorIsPaged, and nothing is done about a container.
func TestBlindDetectorIsPaged(t *testing.T) {
	w := newWorld(t, memory(t))
	o, err := w.process().Finding(t.Context(), finding.Finding{Name: "organizations/1/sources/9/findings/x", CanonicalName: "projects/1/sources/9/findings/x",
		Category: "KTD_SERVICE_ACCOUNT_MISSING_PERMISSIONS", Class: "SCC_ERROR", State: "ACTIVE", EventTime: time.Now(), ProjectNumber: "1"})
	if err != nil || o.Case == "" {
		t.Fatalf("%+v, %v", o, err)
	}
	if c := w.read(o.Case); c.Paged == nil || c.Paged.Error != "" || len(c.Claims) != 0 {
		t.Errorf("paged %+v, claims %v", c.Paged, c.Claims)
	}
}

// TestOwnFindingsDoNotReEnter: every write of ours is notified again, and again.
func TestOwnFindingsDoNotReEnter(t *testing.T) {
	w := newWorld(t, memory(t))
	r := w.process()
	f, id := w.open(r, "c1")
	w.check(id)
	before := len(w.life.log)
	all, err := w.scc.Findings()
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		for _, p := range all {
			body, err := scc.Notification("c", p, nil)
			if err != nil {
				t.Fatal(err)
			}
			decoded, err := finding.Decode(body)
			if err != nil {
				t.Fatal(err)
			}
			g := decoded[0]
			if g.Category == finding.AddedBinary { // as SCC holds it now, with the external system
				g.CanonicalName = f.CanonicalName
			}
			if _, err := r.Finding(t.Context(), g); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, op := range w.life.log[before:] {
		if strings.HasPrefix(op, "slack") || strings.HasPrefix(op, "scc") || strings.HasPrefix(op, "order") || strings.HasPrefix(op, "create events/") {
			t.Errorf("a notification of our own write caused %q", op)
		}
	}
	again := w.found("c1", time.Now().Add(2*time.Second)) // it runs again: that is news
	if o, err := r.Finding(t.Context(), again); err != nil || o.Case != id || w.read(id).Joined != 1 {
		t.Errorf("a new occurrence: %+v, %v, %d joined", o, err, w.read(id).Joined)
	}
}
