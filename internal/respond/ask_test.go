package respond_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/contraband-dev/contraband/internal/blobstore"
	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/cases/caselog"
	"github.com/contraband-dev/contraband/internal/respond"
)

const askingPolicy = `
rules:
  - name: known malware, asked for
    when: verdict.level == "malicious"
    do: [escalate, page, freeze, evidence]
    ask: true
`

// asked is a case that waits for an answer.
func asked(t *testing.T) (*world, string) {
	t.Helper()
	store, err := blobstore.Open(t.Context(), "mem://")
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, store)
	w.yaml = askingPolicy
	f := w.found("c1", time.Now())
	w.raiseInSCC(f)
	out, err := w.process().Finding(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	return w, out.Case
}

func (w *world) click(caseID, what, id string) cases.Case {
	w.t.Helper()
	r := w.process()
	body, err := json.Marshal(cases.Click{ID: id, What: what, By: "ann", At: time.Now()})
	if err == nil {
		err = r.Log.Click(w.t.Context(), caseID, id, body)
	}
	if err == nil {
		err = r.Advance(w.t.Context(), caseID)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return w.read(caseID)
}

func TestApprovalContains(t *testing.T) {
	w, id := asked(t)
	c := w.read(id)
	if !c.Asking() || len(c.Claims) != 0 || c.Paged == nil || c.Escalated == nil || c.Status() != "waiting for approval" {
		t.Fatalf("before the answer: %q, claims %+v", c.Status(), c.Claims)
	}
	c = w.click(id, cases.ActionApprove, "a")
	if !c.Frozen() || c.Done(cases.Evidence) == nil {
		t.Errorf("approved: %q, %+v", c.Status(), c.Claims)
	}
	if c = w.click(id, cases.ActionDeny, "b"); !c.Frozen() || !strings.Contains(c.Clicks[1].Refused, "ann has already clicked approve") {
		t.Errorf("a second answer: %+v", c.Clicks)
	}
	before := c.Done(cases.Freeze).Until
	c = w.click(id, cases.ActionExtend, "c")
	if !c.Frozen() || !c.Done(cases.Freeze).Until.After(before) {
		t.Errorf("extended: until %s, was %s, clicks %+v", c.Done(cases.Freeze).Until, before, c.Clicks)
	}
	if c = w.click(id, cases.ActionRelease, "d"); c.Closed == nil || c.Closed.Resolution != "released" {
		t.Errorf("released: %q %+v", c.Status(), c.Clicks)
	}
}

func TestDenialContainsNothing(t *testing.T) {
	w, id := asked(t)
	c := w.click(id, cases.ActionDeny, "a")
	if len(c.Claims) != 0 || c.Asking() || len(w.node.carried) != 0 {
		t.Errorf("denied: %q, claims %+v, orders %v", c.Status(), c.Claims, w.node.carried)
	}
	if c = w.click(id, cases.ActionApprove, "b"); len(c.Claims) != 0 {
		t.Errorf("approved after a denial: %+v", c.Claims)
	}
	if c = w.click(id, cases.ActionExpected, "c"); c.Closed == nil {
		t.Errorf("it cannot be closed: %+v", c.Clicks)
	}
}

// TestPendingApprovalIsRemindedOnce: half an hour of silence is reported again, once, and nothing is done.
func TestPendingApprovalIsRemindedOnce(t *testing.T) {
	w, id := asked(t)
	later := func() *respond.Responder {
		r := w.process()
		r.Now = func() time.Time { return time.Now().Add(31 * time.Minute) }
		return r
	}
	for range 3 {
		if err := later().Advance(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	c := w.read(id)
	messages, err := w.slack.Messages()
	if err != nil || len(messages) != 2 || c.Reminded == nil || c.Reminded.Timestamp == "" {
		t.Errorf("%d messages, reminded %+v, want one page and one reminder", len(messages), c.Reminded)
	}
	if !strings.Contains(messages[1].Text, "<!channel> Approval pending for") {
		t.Errorf("the reminder: %q", messages[1].Text)
	}
	if len(c.Claims) != 0 || len(w.node.carried) != 0 {
		t.Errorf("silence acted: %+v", c.Claims)
	}
	r := w.process()
	due, _, err := (&caselog.Store{Objects: r.Log.Objects, Now: func() time.Time { return time.Now().Add(31 * time.Minute) }}).Due(t.Context())
	if err != nil || len(due) == 0 {
		t.Errorf("no wake brings the reminder: %v, %v", due, err)
	}
	// Contain itself does not act on what nobody has approved.
	f, err := r.Log.Read(t.Context(), id, "somebody")
	if err != nil {
		t.Fatal(err)
	}
	d := c.Decided.Finding
	e, err := f.Append(t.Context(), cases.KindClaimed, cases.Claimed{Action: cases.Freeze, ContainerID: d.Container.ID, Node: d.Node, SHA256: d.Process.SHA256})
	if err != nil {
		t.Fatal(err)
	}
	if a, err := r.Contain(t.Context(), id, e.N); err != nil || a.Done || !strings.Contains(a.Error, "nobody has approved") {
		t.Errorf("%+v, %v", a, err)
	}
}
