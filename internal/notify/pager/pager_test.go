package pager_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/incidents"
	"github.com/contraband-dev/contraband/internal/notify"
	"github.com/contraband-dev/contraband/internal/notify/pager"
	"github.com/contraband-dev/contraband/internal/retry"
	"github.com/contraband-dev/contraband/internal/testenv/samplecases"
)

// recorder is a channel that records its calls and fails on demand.
type recorder struct {
	mu    sync.Mutex
	calls []string
	fail  map[string]error // by call: post, update, resolve, thread
	hang  bool
	moved bool // an update posts anew
}

func (r *recorder) call(ctx context.Context, what, detail string) error {
	if r.hang {
		<-ctx.Done()
		return ctx.Err()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, strings.TrimSpace(what+" "+detail))
	return r.fail[what]
}

func (r *recorder) Post(ctx context.Context, m notify.Message, _ bool) (notify.Ref, error) {
	return notify.Ref{Room: "room", ID: "1"}, r.call(ctx, "post", m.Mention)
}

func (r *recorder) Update(ctx context.Context, ref notify.Ref, _ notify.Message) (notify.Ref, error) {
	if r.moved {
		ref.ID = "2"
	}
	return ref, r.call(ctx, "update", "")
}

func (r *recorder) Resolve(ctx context.Context, _ notify.Ref, _ notify.Message) error {
	return r.call(ctx, "resolve", "")
}

func (r *recorder) Thread(ctx context.Context, _ notify.Ref, _ notify.Message, u notify.Update) error {
	return r.call(ctx, "thread", u.Key)
}

// world is a pager with one recorder for each target.
type world struct {
	*pager.Pager
	channels map[string]*recorder
	now      time.Time
}

func newWorld(routes []string, fallback ...string) *world {
	w := &world{channels: map[string]*recorder{}, now: samplecases.At}
	target := func(name string) notify.Target {
		w.channels["slack:"+name] = &recorder{fail: map[string]error{}}
		return notify.Target{Kind: notify.Slack, Name: name}
	}
	w.Pager = &pager.Pager{
		Open: func(t notify.Target) (notify.Channel, error) {
			if ch := w.channels[t.String()]; ch != nil {
				return ch, nil
			}
			return nil, errors.New("not configured")
		},
		Security: target("security"), Timeout: 200 * time.Millisecond, Now: func() time.Time { return w.now },
	}
	var routed []notify.Target
	for _, r := range routes {
		routed = append(routed, target(r))
	}
	w.Routes = func(cases.Case) []notify.Target { return routed }
	for _, f := range fallback {
		w.Fallback = append(w.Fallback, target(f))
	}
	return w
}

func sample(name string) incidents.Incident {
	i := slices.IndexFunc(samplecases.States(), func(s samplecases.State) bool { return s.Name == name })
	c := samplecases.States()[i].Case
	c.Paged = nil
	return incidents.Of(c)
}

func (w *world) calls(name string) string { return strings.Join(w.channels["slack:"+name].calls, ", ") }

var (
	errArchived = retry.Misconfigured(errors.New("is_archived"))
	errBroken   = errors.New("HTTP 500")
)

func TestCaseWithoutARouteGoesToTheSecurityChannel(t *testing.T) {
	w := newWorld(nil)
	p, err := w.Post(t.Context(), sample("planned"), false)
	if err != nil || w.calls("security") != "post, thread details" || p.Timestamp != "1" || p.Channel != "room" {
		t.Errorf("calls %q, %+v, %v", w.calls("security"), p, err)
	}
}

func TestAllRoutesAreToldAtOnceAndAHungOneDelaysNone(t *testing.T) {
	w := newWorld([]string{"hung", "payments"})
	w.channels["slack:hung"].hang = true
	p, err := w.Post(t.Context(), sample("planned"), false)
	if err != nil || w.calls("payments") != "post, thread details" || w.calls("security") != "" {
		t.Errorf("payments %q, security %q, %v", w.calls("payments"), w.calls("security"), err)
	}
	if d := p.Deliveries[0]; d.Class != "transient" || d.RetryAt.IsZero() {
		t.Errorf("the hung channel is on record as %+v", d)
	}
}

func TestMisconfiguredChannelFallsThroughAtOnceAndTheCaseSaysWhy(t *testing.T) {
	w := newWorld([]string{"payments"}, "phone")
	w.channels["slack:payments"].fail["post"] = errArchived
	p, err := w.Post(t.Context(), sample("planned"), false)
	if err != nil || w.calls("security") != "post, thread details" || w.calls("phone") != "" {
		t.Errorf("security %q, phone %q, %v", w.calls("security"), w.calls("phone"), err)
	}
	if d := p.Deliveries[0]; d.Class != "misconfigured" || !strings.Contains(d.Error, "is_archived") || d.Delivered() {
		t.Errorf("the archived channel is on record as %+v", d)
	}
	w.channels["slack:security"].fail["post"] = errArchived
	if _, err := w.Post(t.Context(), sample("planned"), false); err != nil || w.calls("phone") != "post, thread details" {
		t.Errorf("phone %q, %v", w.calls("phone"), err)
	}
}

func TestTransientFailureIsRepeatedBeforeAnotherChannelIsTold(t *testing.T) {
	w := newWorld([]string{"payments"})
	w.channels["slack:payments"].fail["post"] = errBroken
	if _, err := w.Post(t.Context(), sample("planned"), false); err == nil || retry.ClassOf(err) != retry.Transient || w.calls("security") != "" {
		t.Errorf("the first try: %v, security %q", err, w.calls("security"))
	}
	if _, err := w.Post(t.Context(), sample("planned"), true); err != nil || w.calls("security") == "" {
		t.Errorf("the second: %v, security %q", err, w.calls("security"))
	}
}

func TestNobodyReachableIsAnErrorThatNamesEachChannel(t *testing.T) {
	w := newWorld([]string{"payments"}, "phone")
	for _, ch := range w.channels {
		ch.fail["post"] = errArchived
	}
	_, err := w.Post(t.Context(), sample("planned"), false)
	if retry.ClassOf(err) != retry.MisconfiguredClass {
		t.Fatalf("%v, want misconfigured", err)
	}
	for _, name := range []string{"payments", "security", "phone"} {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("the error does not name %q: %v", name, err)
		}
	}
}

func TestFailedChannelIsTriedAgainWhenItsTimeHasCome(t *testing.T) {
	w := newWorld([]string{"payments", "other"})
	w.channels["slack:payments"].fail["post"] = errArchived
	c := sample("planned")
	p, err := w.Post(t.Context(), c, false)
	if err != nil {
		t.Fatal(err)
	}
	c.Paged = &p
	if w.Digest(c) != p.Digest {
		t.Error("an edit is due before the time of the next try")
	}
	delete(w.channels["slack:payments"].fail, "post")
	w.now = p.NextRetry().Add(time.Second)
	if w.Digest(c) == p.Digest {
		t.Fatal("no edit is due although the time of the next try has come")
	}
	p, err = w.Edit(t.Context(), c)
	if err != nil || !p.Deliveries[0].Delivered() || !p.NextRetry().IsZero() {
		t.Errorf("%+v, %v", p.Deliveries[0], err)
	}
	if c.Paged = &p; w.Digest(c) != p.Digest {
		t.Error("after the edit another is due")
	}
	if got := w.calls("other"); got != "post, thread details" {
		t.Errorf("the other channel was asked for %q", got)
	}
}

func TestPausesGrow(t *testing.T) {
	w := newWorld([]string{"payments", "other"})
	w.channels["slack:payments"].fail["post"] = errArchived
	c := sample("planned")
	p, err := w.Post(t.Context(), c, false)
	var pauses []time.Duration
	for range 6 {
		if err != nil {
			t.Fatal(err)
		}
		pauses = append(pauses, p.NextRetry().Sub(w.now))
		w.now = p.NextRetry()
		c.Paged = &p
		p, err = w.Edit(t.Context(), c)
	}
	if !slices.IsSorted(pauses) || pauses[0] != time.Minute || pauses[5] != 24*time.Hour {
		t.Errorf("the pauses are %v", pauses)
	}
}

func TestChangesAreEditedAndAddedToTheThreadOnce(t *testing.T) {
	w := newWorld(nil)
	c := sample("planned")
	p, err := w.Post(t.Context(), c, false)
	if err != nil {
		t.Fatal(err)
	}
	c = sample("frozen")
	c.Paged = &p
	for range 2 {
		if p, err = w.Edit(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		c.Paged = &p
	}
	if got := w.calls("security"); got != "post, thread details, update, thread claim-2" {
		t.Errorf("the channel was asked for %q", got)
	}
	c = sample("closed")
	c.Paged = &p
	if _, err = w.Edit(t.Context(), c); err != nil || !strings.Contains(w.calls("security"), "resolve, thread") {
		t.Errorf("the channel was asked for %q, %v", w.calls("security"), err)
	}
}

func TestMessagePostedAnewGetsAWholeThread(t *testing.T) {
	w := newWorld(nil)
	c := sample("planned")
	p, err := w.Post(t.Context(), c, false)
	if err != nil {
		t.Fatal(err)
	}
	w.channels["slack:security"].moved = true
	c = sample("frozen")
	c.Paged = &p
	p, err = w.Edit(t.Context(), c)
	if err != nil || p.Timestamp != "2" || w.calls("security") != "post, thread details, update, thread details, thread claim-2" {
		t.Errorf("message %s, calls %q, %v", p.Timestamp, w.calls("security"), err)
	}
}

func TestTransientEditFailureIsReturned(t *testing.T) {
	w := newWorld(nil)
	c := sample("planned")
	p, err := w.Post(t.Context(), c, false)
	if err != nil {
		t.Fatal(err)
	}
	w.channels["slack:security"].fail["update"] = errBroken
	c = sample("frozen")
	c.Paged = &p
	if _, err := w.Edit(t.Context(), c); err == nil || retry.ClassOf(err) != retry.Transient {
		t.Errorf("%v, want a transient error", err)
	}
}

func TestThreadThatLagsHoldsNothingUp(t *testing.T) {
	w := newWorld(nil)
	w.channels["slack:security"].fail["thread"] = errBroken
	c := sample("planned")
	p, err := w.Post(t.Context(), c, false)
	if err != nil || p.Digest == w.Digest(c) {
		t.Fatalf("%v; an edit must be due, which adds the details", err)
	}
	c.Paged = &p
	if p, err = w.Edit(t.Context(), c); err != nil || p.NextRetry().IsZero() {
		t.Fatalf("%+v, %v; want no error, and a time for the next try", p, err)
	}
	if c.Paged = &p; w.Digest(c) != p.Digest {
		t.Error("an edit is due before that time")
	}
	delete(w.channels["slack:security"].fail, "thread")
	w.now = p.NextRetry()
	if p, err = w.Edit(t.Context(), c); err != nil || !slices.Contains(p.Deliveries[0].Threaded, notify.DetailsKey) {
		t.Errorf("%+v, %v", p.Deliveries[0], err)
	}
}

func TestPageOfAnEarlierVersionIsEdited(t *testing.T) {
	w := newWorld(nil)
	w.channels["slack:C0OLD"] = &recorder{fail: map[string]error{}}
	w.Security = notify.Target{Kind: notify.Slack, Name: "C0OLD"}
	c := sample("frozen")
	c.Paged = &cases.Paged{Channel: "C0OLD", Timestamp: "9.9", Digest: "old"}
	p, err := w.Edit(t.Context(), c)
	if err != nil || p.Timestamp != "9.9" || w.calls("C0OLD") != "update, thread claim-2" {
		t.Errorf("%+v, calls %q, %v", p, w.calls("C0OLD"), err)
	}
}

func TestReminderNotifiesOrPagesWhereThereIsNoMessage(t *testing.T) {
	w := newWorld(nil)
	c := sample("waiting")
	if _, err := w.Remind(t.Context(), c, incidents.Pending); err != nil || !strings.HasPrefix(w.calls("security"), "post") {
		t.Errorf("without a page: calls %q, %v", w.calls("security"), err)
	}
	c.Paged = &cases.Paged{Deliveries: []cases.Delivery{{Target: "slack:security", ID: "1"}}}
	if _, err := w.Remind(t.Context(), c, incidents.Worse); err != nil || !strings.Contains(w.calls("security"), "thread worse: ") {
		t.Errorf("with one: calls %q, %v", w.calls("security"), err)
	}
}
