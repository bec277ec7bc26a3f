package respond_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/internal/respond"
)

// inPod is a finding about a container of a pod.
func (w *world) inPod(container, uid string, at time.Time) finding.Finding {
	f := w.found(container, at)
	f.CanonicalName = fmt.Sprintf("projects/1/sources/1/findings/%s-%s", container, uid)
	f.Pod = finding.Pod{Namespace: "shop", Name: "db-0", UID: uid}
	return f
}

// TestCaseFollowsRestartedContainer: the kubelet restarts the container, and the new one runs the
// same: it is frozen too, in the same case, and nobody is paged twice.
func TestCaseFollowsRestartedContainer(t *testing.T) {
	w := newWorld(t, memory(t))
	now := time.Now()
	deliver := func(f finding.Finding) string {
		t.Helper()
		o, err := w.process().Finding(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		return o.Case
	}
	first := deliver(w.inPod("c1", "u1", now))
	if second := deliver(w.inPod("c2", "u1", now.Add(time.Minute))); second != first {
		t.Fatalf("case %s, want %s", second, first)
	}
	c := w.read(first)
	freeze := c.Claim(cases.Freeze)
	if !c.Frozen() || freeze.ContainerID != "c2" || c.Moves != 1 || c.FreezeLostReason != "" {
		t.Errorf("frozen %v, %+v, moves %d, lost %q", c.Frozen(), freeze, c.Moves, c.FreezeLostReason)
	}
	if got := strings.Join(w.node.carried, " "); !strings.HasPrefix(got, "freeze evidence freeze") {
		t.Errorf("carried out %q", got)
	}
	deliver(w.inPod("c1", "u1", now.Add(-time.Minute))) // late news of the first
	if c := w.read(first); c.ContainerID() != "c2" || c.Moves != 1 {
		t.Errorf("late news moved the case to %q", c.ContainerID())
	}
	for i := range 20 { // one that is restarted for ever
		deliver(w.inPod(fmt.Sprint("again", i), "u1", now.Add(time.Duration(i+2)*time.Minute)))
	}
	if c := w.read(first); c.Moves != 5 {
		t.Errorf("%d moves, want the bound", c.Moves)
	}
	if messages, err := w.slack.Messages(); err != nil || len(messages) != 1 {
		t.Errorf("%d pages, %v", len(messages), err)
	}

	// A pod that has the name after it is another, and has a case of its own; what is
	// notified of the first one still joins the first one's.
	successor := deliver(w.inPod("s1", "u2", now.Add(time.Hour)))
	if successor == first {
		t.Fatal("the successor joined its predecessor's case")
	}
	if c := w.read(successor); !c.Frozen() || c.Claim(cases.Freeze).ContainerID != "s1" {
		t.Errorf("the successor: %q", c.Status())
	}
	if late := deliver(w.inPod("c9", "u1", now.Add(2*time.Hour))); late != first {
		t.Errorf("news of the first pod joined %s, want %s", late, first)
	}
}

// TestCaseDoesNotFollowOtherContainers: what takes a case to another container is one of the same name, of
// the same pod, on the same node, later, and only when the one before is no more.
func TestCaseDoesNotFollowOtherContainers(t *testing.T) {
	w := newWorld(t, memory(t))
	now := time.Now()
	there, known := true, true
	process := func() *respond.Responder {
		r := w.process()
		r.HasContainer = func(context.Context, cases.Case, string) (bool, error) { return known, nil }
		r.Now = func() time.Time { return now.Add(10 * time.Second) }
		r.CheckHolds = func(context.Context, cases.Case) cases.Lost {
			if there {
				return cases.Lost{}
			}
			return cases.Lost{Why: "restarted"}
		}
		return r
	}
	first := w.inPod("c1", "u1", now.Add(-time.Minute))
	first.Container.Name = "app"
	o, err := process().Finding(t.Context(), first)
	if err != nil || !w.read(o.Case).Frozen() {
		t.Fatalf("%+v, %v", o, err)
	}
	for name, change := range map[string]func(*finding.Finding){
		"another container of the pod": func(f *finding.Finding) { f.Container.Name = "sidecar" },
		"no pod UID":                   func(f *finding.Finding) { f.Pod.UID = "" },
		"another node":                 func(f *finding.Finding) { f.Node = "n9" },
		"earlier":                      func(f *finding.Finding) { f.EventTime = now.Add(-2 * time.Minute) },
		"the frozen one is there":      func(*finding.Finding) {},
	} {
		f := w.inPod("c2", "u1", now)
		f.Container.Name = "app"
		f.CanonicalName += name
		change(&f)
		if _, err := process().Finding(t.Context(), f); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if c := w.read(o.Case); c.Moves != 0 || !c.Frozen() || c.ContainerID() != "c1" {
			t.Errorf("%s: %d moves, frozen %v, %q", name, c.Moves, c.Frozen(), c.ContainerID())
		}
	}
	there, known = false, false // on another node's word alone
	if err := process().Advance(t.Context(), o.Case); err != nil {
		t.Fatal(err)
	}
	if c := w.read(o.Case); c.Moves != 0 || c.ContainerID() != "c1" {
		t.Errorf("a container that the API server does not know: %d moves, %q", c.Moves, c.ContainerID())
	}
	known = true // the API server has seen it now
	if err := process().Advance(t.Context(), o.Case); err != nil {
		t.Fatal(err)
	}
	if c := w.read(o.Case); c.Moves != 1 || !c.Frozen() || c.Claim(cases.Freeze).ContainerID != "c2" {
		t.Errorf("%d moves, frozen %v, %+v, lost %q", c.Moves, c.Frozen(), c.Claim(cases.Freeze), c.FreezeLostReason)
	}
}

// TestLateFindingOfEarlierEpisode: SCC says of a finding that it is over, and means what ran
// before; the case about what ran since stays.
func TestLateFindingOfEarlierEpisode(t *testing.T) {
	w := newWorld(t, memory(t))
	w.yaml = "rules: [{name: all, do: [page]}]"
	now := time.Now()
	f := w.inPod("c1", "u1", now)
	o, err := w.process().Finding(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	over := f
	over.State, over.EventTime = "INACTIVE", now.Add(-time.Hour)
	if got, err := w.process().Finding(t.Context(), over); err != nil || got.Acknowledged == "" || w.read(o.Case).Closed != nil {
		t.Errorf("%+v, %v: the case is %q", got, err, w.read(o.Case).Status())
	}
	over.EventTime = now
	if got, err := w.process().Finding(t.Context(), over); err != nil || w.read(o.Case).Closed == nil {
		t.Errorf("%+v, %v: the case is %q", got, err, w.read(o.Case).Status())
	}
}

// TestApprovalOfEarlierDecisionDoesNotCount: who approved before the decision became a worse one has
// not approved that.
func TestApprovalOfEarlierDecisionDoesNotCount(t *testing.T) {
	w := newWorld(t, memory(t))
	w.yaml = `
rules:
  - {name: malware, when: 'verdict.level == "malicious"', do: [page, freeze, evidence], ask: true}
  - {name: else, do: [page, evidence], ask: true}
`
	source := &learning{}
	r := w.process()
	r.Verdicts = source
	o, err := r.Finding(t.Context(), w.inPod("c1", "u1", time.Now()))
	if err != nil {
		t.Fatal(err)
	}
	if c := w.click(o.Case, cases.ActionApprove, "a"); c.Done(cases.Evidence) == nil || c.Asking() {
		t.Fatalf("approved: %q %+v", c.Status(), c.Claims)
	}
	pressed := time.Now()
	source.knows = true
	r = w.process()
	r.Verdicts = source
	later := w.inPod("c1", "u1", time.Now())
	later.CanonicalName += "-later"
	if _, err := r.Finding(t.Context(), later); err != nil {
		t.Fatal(err)
	}
	if c := w.read(o.Case); !c.Asking() || c.Claim(cases.Freeze) != nil {
		t.Errorf("after the graver verdict: asking %v, claims %+v", c.Asking(), c.Claims)
	}
	// Pressed before, recorded after.
	body, err := json.Marshal(cases.Click{ID: "b", What: cases.ActionApprove, By: "ann", At: pressed})
	if err == nil {
		err = w.process().Log.Click(t.Context(), o.Case, "b", body)
	}
	if err == nil {
		err = w.process().Advance(t.Context(), o.Case)
	}
	if c := w.read(o.Case); err != nil || c.Claim(cases.Freeze) != nil || !strings.Contains(c.Clicks[1].Refused, "look again") {
		t.Errorf("%v, clicks %+v", err, c.Clicks)
	}
	// Pressed after, on a page that showed what was decided before.
	shown := func(id string, decision int) cases.Case {
		t.Helper()
		body, err := json.Marshal(cases.Click{ID: id, What: cases.ActionApprove, By: "ann", At: time.Now(), Decision: &decision})
		if err == nil {
			err = w.process().Log.Click(t.Context(), o.Case, id, body)
		}
		if err == nil {
			err = w.process().Advance(t.Context(), o.Case)
		}
		if err != nil {
			t.Fatal(err)
		}
		return w.read(o.Case)
	}
	if c := shown("old-page", 0); c.Claim(cases.Freeze) != nil || !strings.Contains(c.Clicks[2].Refused, "look again") {
		t.Errorf("approved on an old page: %+v", c.Clicks)
	}
	if c := shown("new-page", w.read(o.Case).DecisionN()); !c.Frozen() {
		t.Errorf("approved anew: %q %+v", c.Status(), c.Clicks)
	}
}

// TestSuccessorOfPodWithoutUIDIsKnownByTime: a finding without a pod's UID is about a successor when what we
// have removed had gone by then; what came before joins the case.
func TestSuccessorOfPodWithoutUIDIsKnownByTime(t *testing.T) {
	w := newWorld(t, memory(t))
	w.yaml = "rules: [{name: all, do: [page]}]"
	now := time.Now().Add(-time.Hour)
	o, err := w.process().Finding(t.Context(), w.inPod("c1", "u1", now))
	if err != nil {
		t.Fatal(err)
	}
	n := w.record(o.Case, cases.KindClaimed, cases.Claimed{Action: cases.Evict, PodUID: "u1"})
	w.record(o.Case, cases.KindActed, cases.Outcome{Claim: n, Action: cases.Evict, Done: true, At: now})
	for _, at := range []time.Duration{10 * time.Second, time.Minute} {
		joins := at < cases.MaxGrace
		f := w.inPod("", "", now.Add(at))
		f.CanonicalName += at.String()
		got, err := w.process().Finding(t.Context(), f)
		if err != nil || (got.Case == o.Case) != joins {
			t.Errorf("%s after: case %q, %v; joins %q: want %v", at, got.Case, err, o.Case, joins)
		}
	}
}

// TestPodThatIsNotRemovedIsReported: a pod is removed and its node never ends it: that is checked, and reported.
func TestPodThatIsNotRemovedIsReported(t *testing.T) {
	w := newWorld(t, memory(t))
	w.yaml = "rules: [{name: all, do: [page]}]"
	now := time.Now()
	f := w.inPod("c1", "u1", now)
	w.raiseInSCC(f)
	o, err := w.process().Finding(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	n := w.record(o.Case, cases.KindClaimed, cases.Claimed{Action: cases.Evict, PodUID: "u1"})
	w.record(o.Case, cases.KindActed, cases.Outcome{Claim: n, Action: cases.Evict, Done: true, At: now})
	looked := 0
	advance := func(after time.Duration) cases.Case {
		t.Helper()
		r := w.process()
		r.Now = func() time.Time { return now.Add(after) }
		r.CheckHolds = func(context.Context, cases.Case) cases.Lost {
			looked++
			return cases.Lost{Action: cases.Evict, Why: "its kubelet has not ended it"}
		}
		if err := r.Advance(t.Context(), o.Case); err != nil {
			t.Fatal(err)
		}
		return w.read(o.Case)
	}
	if c := advance(20 * time.Second); looked != 0 || c.Status() != "pod removed" {
		t.Errorf("within its grace: looked %d times, %q", looked, c.Status())
	}
	if c := advance(time.Minute); looked != 1 || c.Status() != "pod does not go" {
		t.Errorf("after it: looked %d times, %q", looked, c.Status())
	}
	if c := advance(2 * time.Minute); looked != 1 || c.RemovalStuck == "" {
		t.Errorf("told already: looked %d times, %q", looked, c.RemovalStuck)
	}
	messages, err := w.slack.Messages()
	if err != nil || len(messages) != 1 || !strings.Contains(string(messages[0].Blocks), "STILL THERE") {
		t.Errorf("the page does not say so: %v %s", err, messages[0].Blocks)
	}
}
