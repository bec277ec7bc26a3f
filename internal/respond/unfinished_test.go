package respond_test

import (
	"strings"
	"testing"
	"time"

	"github.com/contraband-dev/contraband/internal/cases"
)

// begun is a case in whose log somebody has claimed an action and died.
func (w *world) begun(action string) (caseID string, n int) {
	w.t.Helper()
	f := w.found("c1", time.Now())
	w.raiseInSCC(f)
	r := w.process()
	o, err := r.Finding(w.t.Context(), f)
	if err != nil {
		w.t.Fatal(err)
	}
	return o.Case, w.record(o.Case, cases.KindClaimed, cases.Claimed{Action: action, ContainerID: "c1", Node: f.Node, SHA256: hash()})
}

// record appends an event as a holder that then gives the case back.
func (w *world) record(caseID, kind string, body any) int {
	w.t.Helper()
	file, err := w.process().Log.Read(w.t.Context(), caseID, "somebody")
	if err != nil {
		w.t.Fatal(err)
	}
	e, err := file.Append(w.t.Context(), kind, body)
	if err == nil {
		err = file.Release(w.t.Context())
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return e.N
}

// TestUnfinishedClaimIsGivenUp: what was begun, and of which nobody knows whether it took
// effect, says so before its case ends.
func TestUnfinishedClaimIsGivenUp(t *testing.T) {
	w := newWorld(t, memory(t))
	w.yaml = "rules: [{name: all, do: [page]}]"
	id, _ := w.begun(cases.Evict)
	c := w.click(id, cases.ActionRemediated, "a")
	if c.Closed == nil {
		t.Fatalf("it is not closed: %q %+v", c.Status(), c.Clicks)
	}
	if a := c.Claim(cases.Evict).Outcome; a == nil || a.Done || !strings.Contains(a.Error, "may have taken effect") {
		t.Errorf("the eviction ends as %+v", a)
	}
}

// TestReleasedAfterTheClaim: a hold that was claimed, and whose undoing was done before
// it was carried out, is not carried out any more.
func TestReleasedAfterTheClaim(t *testing.T) {
	w := newWorld(t, memory(t))
	id, n := w.begun(cases.Freeze) // a second time, after the first was done
	frozen := strings.Count(strings.Join(w.node.carried, " "), "freeze")
	thaw := w.record(id, cases.KindClaimed, cases.Claimed{Action: cases.Thaw, ContainerID: "c1", SHA256: hash()})
	w.record(id, cases.KindActed, cases.Outcome{Claim: thaw, Action: cases.Thaw, Done: true, At: time.Now()})
	a, err := w.process().Contain(t.Context(), id, n)
	if err != nil || a.Done || !strings.Contains(a.Error, "released meanwhile") {
		t.Errorf("%+v, %v", a, err)
	}
	if got := strings.Count(strings.Join(w.node.carried, " "), "freeze"); frozen == 0 || got != frozen {
		t.Errorf("%d freezes before, %d after", frozen, got)
	}
}
