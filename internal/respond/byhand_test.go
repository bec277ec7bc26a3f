package respond_test

import (
	"strings"
	"testing"
	"time"

	"github.com/contraband-dev/contraband/internal/cases"
)

// notifyPolicy contains nothing by itself.
const notifyPolicy = "rules: [{name: all, do: [escalate, page]}]\n"

// notified is a case about which people were only notified.
func notified(t *testing.T, yaml string) (*world, string) {
	t.Helper()
	w := newWorld(t, memory(t))
	w.yaml = yaml
	f := w.found("c1", time.Now())
	w.raiseInSCC(f)
	out, err := w.process().Finding(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	return w, out.Case
}

func refusal(c cases.Case, id string) string {
	for _, k := range c.Clicks {
		if k.ID == id {
			return k.Refused
		}
	}
	return "no such click"
}

func TestPersonContainsWhatThePolicyDoesNot(t *testing.T) {
	w, id := notified(t, notifyPolicy)
	if c := w.read(id); len(c.Claims) != 0 || c.RefusesContain() != "" {
		t.Fatalf("before the click: %+v, %q", c.Claims, c.RefusesContain())
	}
	w.click(id, cases.ActionContain, "a")
	c := w.check(id) // frozen once, evidence saved, one page, one escalation
	if got := refusal(c, "a"); got != "" {
		t.Errorf("refused: %s", got)
	}
	if c = w.click(id, cases.ActionContain, "b"); !strings.Contains(refusal(c, "b"), "contained already") {
		t.Errorf("the second click: %q", refusal(c, "b"))
	}
	before := c.Done(cases.Freeze).Until
	if c = w.click(id, cases.ActionExtend, "c"); !c.Done(cases.Freeze).Until.After(before) {
		t.Errorf("not extended: %+v", c.Clicks)
	}
	if c = w.click(id, cases.ActionRelease, "d"); c.Closed == nil || c.Closed.Resolution != "released" {
		t.Errorf("released: %q %+v", c.Status(), c.Clicks)
	}
	if got := strings.Join(w.node.carried, " "); got != "freeze evidence freeze thaw" {
		t.Errorf("the node did %q", got)
	}
}

func TestDenialCanBeTakenBack(t *testing.T) {
	w, id := asked(t)
	c := w.click(id, cases.ActionContain, "early")
	if !strings.Contains(refusal(c, "early"), "approval is pending") {
		t.Errorf("while an approval is pending: %q", refusal(c, "early"))
	}
	w.click(id, cases.ActionDeny, "a")
	if c = w.click(id, cases.ActionContain, "b"); !c.Frozen() || c.Done(cases.Evidence) == nil {
		t.Errorf("after the denial: %q, %+v", c.Status(), c.Clicks)
	}
}

// TestGuardsBoundContainmentByHand: nothing is ordered that the guards refuse, and the
// person reads why.
func TestGuardsBoundContainmentByHand(t *testing.T) {
	for name, c := range map[string]struct{ guards, why string }{
		"dry run":             {"guards: {dry_run: true}", "dry_run"},
		"protected namespace": {"guards: {namespaces: [shop]}", "protected"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, memory(t))
			w.yaml = notifyPolicy + c.guards
			f := w.inPod("c1", "u1", time.Now())
			w.raiseInSCC(f)
			out, err := w.process().Finding(t.Context(), f)
			if err != nil {
				t.Fatal(err)
			}
			k := w.click(out.Case, cases.ActionContain, "a")
			if got := refusal(k, "a"); !strings.Contains(got, c.why) || len(w.node.carried) != 0 || len(k.Claims) != 0 {
				t.Errorf("%q; orders %v, claims %+v", got, w.node.carried, k.Claims)
			}
		})
	}
}

// TestDeathAtEveryWriteOfContainmentByHand: whatever write of the click's handling the
// process dies at, the container is frozen once and its evidence saved once.
func TestDeathAtEveryWriteOfContainmentByHand(t *testing.T) {
	for _, before := range []bool{true, false} {
		for k := 1; ; k++ {
			w, id := notified(t, notifyPolicy)
			press(t, w, id, cases.ActionContain)
			w.life.mu.Lock()
			w.life.n, w.life.log, w.life.endAt, w.life.before = 0, nil, k, before
			w.life.mu.Unlock()
			err := w.process().Advance(t.Context(), id)
			survived, log := err == nil && !w.life.ended, w.life.log
			w.life.revive()
			if err := w.process().Advance(t.Context(), id); err != nil {
				t.Errorf("died at %q; then: %v", log[len(log)-1], err)
			}
			w.check(id)
			if survived || t.Failed() {
				t.Logf("before=%v: %d writes", before, k-1)
				break
			}
		}
	}
}

// TestPersonContainsWhatIsPutOff: what the hour's budget has put off a person can contain at
// once; and a click whose freeze has ended by itself asks for nothing any more.
func TestPersonContainsWhatIsPutOff(t *testing.T) {
	c := cases.Case{}
	c.Decided.Finding.Node, c.Decided.Finding.Container.ID = "n", "c"
	c.Decided.Decision.Do = []string{cases.Freeze}
	if got := c.RefusesContain(); !strings.Contains(got, "in progress") {
		t.Errorf("before the policy's own try: %q", got)
	}
	put := cases.Outcome{Error: "refused", OverBudget: true, RetryAt: time.Now().Add(time.Hour)}
	c.Claims = []cases.Claim{{N: 1, Claimed: cases.Claimed{Action: cases.Freeze, ContainerID: "c"}, Outcome: &put}}
	if got := c.RefusesContain(); got != "" || c.OverBudget() == nil {
		t.Errorf("put off: %q", got)
	}
	c.Clicks = []cases.Click{{ID: "a", What: cases.ActionContain}}
	if got := c.RefusesContain(); !strings.Contains(got, "in progress") {
		t.Errorf("asked for: %q", got)
	}
	c.Claims = append(c.Claims, cases.Claim{N: 2, Claimed: cases.Claimed{Action: cases.Freeze, ContainerID: "c", Click: "a"}, Outcome: &cases.Outcome{Done: true}})
	c.Decided.Decision.Do = nil
	if c.ContainClick() != "a" || !c.Frozen() {
		t.Errorf("frozen %v by click %q", c.Frozen(), c.ContainClick())
	}
	c.Expired = true
	if c.ContainClick() != "" || len(c.Wanted(time.Now())) != 0 || c.RefusesContain() != "" {
		t.Errorf("after its end: click %q, wanted %v, %q", c.ContainClick(), c.Wanted(time.Now()), c.RefusesContain())
	}
}

// TestCloseDoesNotOvertakeContainNow: of two clicks that are taken in together the case does
// what was asked for first, and says so to the other.
func TestCloseDoesNotOvertakeContainNow(t *testing.T) {
	w, id := notified(t, notifyPolicy)
	press(t, w, id, cases.ActionContain)
	time.Sleep(2 * time.Millisecond)
	press(t, w, id, cases.ActionClose)
	if err := w.process().Advance(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	c := w.check(id)
	if c.Closed != nil || !strings.Contains(refusal(c, c.Clicks[1].ID), "just contained") {
		t.Errorf("%q, %+v", c.Status(), c.Clicks)
	}
}
