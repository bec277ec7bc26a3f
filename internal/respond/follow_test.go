package respond_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/contraband-dev/contraband/internal/docket"
	"github.com/contraband-dev/contraband/internal/finding"
)

// inPod is a finding about a container of a pod.
func (w *world) inPod(container, uid string, at time.Time) finding.Finding {
	f := w.found(container, at)
	f.CanonicalName = fmt.Sprintf("projects/1/sources/1/findings/%s-%s", container, uid)
	f.Pod = finding.Pod{Namespace: "shop", Name: "db-0", UID: uid}
	return f
}

// TestNewContainerOfThePod: the kubelet restarts the container, and the new one runs the
// same: it is frozen too, in the same case, and nobody is paged twice.
func TestNewContainerOfThePod(t *testing.T) {
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
	freeze := c.Claim(docket.Freeze)
	if !c.Frozen() || freeze.ContainerID != "c2" || c.Moves != 1 || c.Lost != "" {
		t.Errorf("frozen %v, %+v, moves %d, lost %q", c.Frozen(), freeze, c.Moves, c.Lost)
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
	// told of the first one still joins the first one's.
	successor := deliver(w.inPod("s1", "u2", now.Add(time.Hour)))
	if successor == first {
		t.Fatal("the successor joined its predecessor's case")
	}
	if c := w.read(successor); !c.Frozen() || c.Claim(docket.Freeze).ContainerID != "s1" {
		t.Errorf("the successor: %q", c.Status())
	}
	if late := deliver(w.inPod("c9", "u1", now.Add(2*time.Hour))); late != first {
		t.Errorf("news of the first pod joined %s, want %s", late, first)
	}
}

// TestApprovalOfSomethingElse: who approved before the decision was a graver one has
// not approved that.
func TestApprovalOfSomethingElse(t *testing.T) {
	w := newWorld(t, memory(t))
	w.yaml = `
rules:
  - {name: malware, when: 'verdict.level == "malicious"', do: [page, freeze, evidence], ask: true}
  - {name: else, do: [page, evidence], ask: true}
`
	source := &learning{}
	r := w.process()
	r.Judge = source
	o, err := r.Finding(t.Context(), w.inPod("c1", "u1", time.Now()))
	if err != nil {
		t.Fatal(err)
	}
	if c := w.click(o.Case, docket.PressApprove, "a"); c.Done(docket.Evidence) == nil || c.Asking() {
		t.Fatalf("approved: %q %+v", c.Status(), c.Claims)
	}
	pressed := time.Now()
	source.knows = true
	r = w.process()
	r.Judge = source
	later := w.inPod("c1", "u1", time.Now())
	later.CanonicalName += "-later"
	if _, err := r.Finding(t.Context(), later); err != nil {
		t.Fatal(err)
	}
	if c := w.read(o.Case); !c.Asking() || c.Claim(docket.Freeze) != nil {
		t.Errorf("after the graver verdict: asking %v, claims %+v", c.Asking(), c.Claims)
	}
	// Pressed before, recorded after.
	body, err := json.Marshal(docket.Click{ID: "b", What: docket.PressApprove, By: "ann", At: pressed})
	if err == nil {
		err = w.process().Log.Click(t.Context(), o.Case, "b", body)
	}
	if err == nil {
		err = w.process().Advance(t.Context(), o.Case)
	}
	if c := w.read(o.Case); err != nil || c.Claim(docket.Freeze) != nil || !strings.Contains(c.Clicks[1].Refused, "look again") {
		t.Errorf("%v, clicks %+v", err, c.Clicks)
	}
	if c := w.click(o.Case, docket.PressApprove, "c"); !c.Frozen() {
		t.Errorf("approved anew: %q %+v", c.Status(), c.Clicks)
	}
}
