package respond_test

import (
	"strings"
	"testing"
	"time"

	"github.com/contraband-dev/contraband/internal/cases"
	fakeslack "github.com/contraband-dev/contraband/internal/fake/slack"
	"github.com/contraband-dev/contraband/internal/notify/pager"
	"github.com/contraband-dev/contraband/internal/respond"
)

const (
	oncall         = "C0ONCALL0000"
	escalatePolicy = pageOnly + "\nescalate_after: {unanswered: 15m, to: \"slack:" + oncall + "\"}\n"
)

func (w *world) inChannel(id string) []fakeslack.Message {
	w.t.Helper()
	messages, err := w.slack.MessagesIn(id)
	if err != nil {
		w.t.Fatal(err)
	}
	return messages
}

// timed is a process whose pager has the responder's clock.
func (w *world) timed() *respond.Responder {
	r := w.process()
	r.Notifier.(*pager.Pager).Now = func() time.Time { return r.Now() }
	return r
}

// TestUnansweredPageNotifiesAnotherChannelOnce, at its time and not before, and that channel
// then follows the incident to its end.
func TestUnansweredPageNotifiesAnotherChannelOnce(t *testing.T) {
	w := newWorld(t, memory(t))
	w.yaml = escalatePolicy
	w.slack.AddChannel(oncall, "oncall")
	r := w.timed()
	now := time.Now()
	id := take(t, r, ran(0, 0, unknownSum(0), now))
	sweepAt(t, r, now.Add(14*time.Minute))
	if got := w.inChannel(oncall); len(got) != 0 {
		t.Fatalf("notified after 14 minutes: %+v", got)
	}
	for _, after := range []time.Duration{16 * time.Minute, 17 * time.Minute, 40 * time.Minute} {
		sweepAt(t, r, now.Add(after))
	}
	first := func() fakeslack.Message {
		got := w.inChannel(oncall)
		if len(got) == 0 || !strings.Contains(string(got[0].Blocks), "/tmp/x0") {
			t.Fatalf("the other channel was not notified: %+v", got)
		}
		return got[0]
	}
	first()
	said := 0
	for _, m := range w.inChannel(oncall) {
		if strings.Contains(m.Text, "Nobody has answered for 16m") {
			said++
		}
	}
	if said != 1 {
		t.Errorf("%d lines say that nobody has answered, want 1", said)
	}
	if security := w.inChannel(fakeslack.Channel); len(security) != 1 {
		t.Errorf("the security channel has %d messages", len(security))
	}
	if c := w.click(id, cases.ActionClose, "k"); c.Closed == nil {
		t.Fatal("not closed")
	}
	sweepAt(t, r, now.Add(time.Hour))
	if m := first(); !strings.Contains(string(m.Blocks), "closed") {
		t.Errorf("the other channel does not show the end: %s", m.Blocks)
	}
}

// TestAnsweredPageNotifiesNoOtherChannel: a click answers, whatever it asks for.
func TestAnsweredPageNotifiesNoOtherChannel(t *testing.T) {
	w := newWorld(t, memory(t))
	w.yaml = strings.Replace(escalatePolicy, "do: [page]", "do: [page, freeze], require_approval: true", 1)
	w.slack.AddChannel(oncall, "oncall")
	r := w.timed()
	now := time.Now()
	id := take(t, r, ran(0, 0, unknownSum(0), now))
	w.click(id, cases.ActionDeny, "k")
	sweepAt(t, r, now.Add(20*time.Minute))
	if got := w.inChannel(oncall); len(got) != 0 {
		t.Errorf("answered, and another channel was notified: %+v", got)
	}
}

// TestUnansweredPageSurvivesDeath: a process that dies around posting to the other channel
// loses it not, and posts it once.
func TestUnansweredPageSurvivesDeath(t *testing.T) {
	for _, applied := range []bool{false, true} {
		w := newWorld(t, memory(t))
		w.yaml = escalatePolicy
		w.slack.AddChannel(oncall, "oncall")
		r := w.timed()
		now := time.Now()
		take(t, r, ran(0, 0, unknownSum(0), now))
		failures := 1
		w.slack.Fault = func(method string, done bool) int {
			if method == "chat.postMessage" && done == applied && failures > 0 {
				failures--
				return 500
			}
			return 0
		}
		sweepAt(t, r, now.Add(16*time.Minute))
		if failures != 0 {
			t.Fatal("nothing was posted")
		}
		sweepAt(t, w.timed(), now.Add(30*time.Minute))
		pages := 0
		for _, m := range w.inChannel(oncall) {
			if m.Thread == "" {
				pages++
			}
		}
		if pages != 1 {
			t.Errorf("failed after applying: %t: %d pages in the other channel, want 1", applied, pages)
		}
	}
}

// TestUnansweredPageToTheSecurityChannel, which has the page already: a line in its thread.
func TestUnansweredPageToTheSecurityChannel(t *testing.T) {
	w := newWorld(t, memory(t))
	w.yaml = pageOnly + "\nescalate_after: {unanswered: 15m, to: security}\n"
	r := w.timed()
	now := time.Now()
	take(t, r, ran(0, 0, unknownSum(0), now))
	sweepAt(t, r, now.Add(16*time.Minute))
	got := w.inChannel(fakeslack.Channel)
	if len(got) != 2 || got[1].Thread == "" || !strings.Contains(got[1].Text, "Nobody has answered") {
		t.Errorf("the security channel has %+v", got)
	}
}

// TestEndInSecurityCommandCenterIsNoAnswer: one of two pods' findings becomes INACTIVE by
// itself; nobody has looked at the other.
func TestEndInSecurityCommandCenterIsNoAnswer(t *testing.T) {
	w := newWorld(t, memory(t))
	w.yaml = escalatePolicy
	w.slack.AddChannel(oncall, "oncall")
	r := w.timed()
	now := time.Now()
	over := ran(0, 0, unknownSum(0), now)
	id := take(t, r, over)
	take(t, r, ran(1, 0, unknownSum(0), now))
	over.State, over.EventTime = "INACTIVE", now.Add(time.Second)
	if _, err := r.Finding(t.Context(), over); err != nil {
		t.Fatal(err)
	}
	if c := w.read(id); c.Closed == nil {
		t.Fatalf("the first case is %q", c.Status())
	}
	sweepAt(t, r, now.Add(16*time.Minute))
	if got := w.inChannel(oncall); len(got) == 0 {
		t.Error("the other channel was not notified")
	}
}

// TestLineThatCannotBeAddedIsAddedLater: Slack fails once when the channel has the page.
func TestLineThatCannotBeAddedIsAddedLater(t *testing.T) {
	w := newWorld(t, memory(t))
	w.yaml = pageOnly + "\nescalate_after: {unanswered: 15m, to: security}\n"
	r := w.timed()
	now := time.Now()
	take(t, r, ran(0, 0, unknownSum(0), now))
	failures := 5 // as often as one call tries, and once more
	w.slack.Fault = func(method string, done bool) int {
		if method == "chat.postMessage" && !done && failures > 0 {
			failures--
			return 500
		}
		return 0
	}
	for _, after := range []time.Duration{16, 17, 18, 30, 60} {
		r.Now = func() time.Time { return now.Add(after * time.Minute) }
		r.Log.Now = r.Now
		due, _, err := r.Log.Due(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, wake := range due {
			if r.Advance(t.Context(), wake.Case) == nil {
				if err := r.Log.DeleteWake(t.Context(), wake); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	said := 0
	for _, m := range w.inChannel(fakeslack.Channel) {
		if strings.Contains(m.Text, "Nobody has answered") {
			said++
		}
	}
	if said != 1 || failures != 0 {
		t.Errorf("%d lines, %d failures left", said, failures)
	}
}
