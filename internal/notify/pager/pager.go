// Package pager decides which channels are notified of an incident and keeps what they show
// up to date. It records what each channel answered; it never decides what happens to
// the case.
package pager

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/cases/casetext"
	"github.com/contraband-dev/contraband/internal/incidents"
	"github.com/contraband-dev/contraband/internal/notify"
	"github.com/contraband-dev/contraband/internal/retry"
)

// Pager notifies people of incidents.
type Pager struct {
	// Open returns the channel of a target. A target that cannot be opened is
	// misconfigured. Required.
	Open func(notify.Target) (notify.Channel, error)
	// Security is notified of each case that no route matches, and when the channels of
	// the routes fail. Required.
	Security notify.Target
	// Routes returns the targets of the routes that match a case. nil: none.
	Routes func(cases.Case) []notify.Target
	// Owner returns who is notified where a target's mention is "owner", or "", and the
	// channels that the workload's owner adds to the others. nil: nobody.
	Owner func(cases.Case) (mention string, also []notify.Target)
	// Fallback are tried in order when no other channel took the page.
	Fallback []notify.Target
	// Link returns the address of a case's page. nil: there is none.
	Link func(caseID string) string
	// Timeout of one channel; 0: 20 s.
	Timeout time.Duration
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// Post notifies each target once. With again set an earlier try may have reached some. It
// returns what each channel answered; an error means that nobody was notified: a transient
// one when that may pass, else a misconfigured one.
func (p *Pager) Post(ctx context.Context, i incidents.Incident, again bool) (cases.Paged, error) {
	m := casetext.IncidentMessage(i, p.Link)
	deliveries := p.Planned(i)
	p.each(ctx, deliveries, func(ctx context.Context, ch notify.Channel, d *cases.Delivery) error {
		return post(ctx, ch, d, m, again)
	})
	err := failure(deliveries)
	// A transient failure is repeated in seconds: only when that fails too is another
	// channel is notified, so that a short disturbance pages nobody twice.
	if err != nil && (again || retry.ClassOf(err) != retry.Transient) {
		deliveries, err = p.fallThrough(ctx, m, deliveries, again)
	}
	paged := summarize(deliveries, m.Digest())
	if slices.ContainsFunc(deliveries, incomplete) {
		paged.Digest = "" // an edit is due
	}
	return paged, err
}

// PostDigest notifies the security channel of several incidents in one message, and the
// fallbacks when it fails.
func (p *Pager) PostDigest(ctx context.Context, key string, all []incidents.Incident, again bool) (cases.Paged, error) {
	m := casetext.DigestMessage(key, all, p.Link)
	deliveries, err := p.fallThrough(ctx, m, nil, again)
	return summarize(deliveries, m.Digest()), err
}

// incomplete reports whether a message is out that may show an earlier state, or whose
// thread lacks the details.
func incomplete(d cases.Delivery) bool {
	return d.Delivered() && (d.Digest == "" || !slices.Contains(d.Threaded, notify.DetailsKey))
}

func post(ctx context.Context, ch notify.Channel, d *cases.Delivery, m notify.Message, again bool) error {
	if d.Delivered() {
		return nil
	}
	m.Mention = d.Mention
	posted, err := ch.Post(ctx, m, again)
	if err != nil {
		return err
	}
	d.Room, d.ID, d.Link, d.Digest = posted.Room, posted.ID, posted.Link, m.Digest()
	if posted.Found {
		d.Digest = "" // an edit is due
	}
	// The page is out. Details that cannot be added now are added by the next edit.
	details := notify.Update{Key: notify.DetailsKey, Text: "Details"}
	if ch.Thread(ctx, posted, m, details) == nil {
		d.Threaded = []string{notify.DetailsKey}
	}
	return nil
}

// Planned returns the deliveries of an incident: those on record, then the targets of the
// routes, or the security channel where no route matches.
func (p *Pager) Planned(i incidents.Incident) []cases.Delivery {
	var out []cases.Delivery
	if i.Paged != nil {
		out = slices.Clone(i.Paged.Deliveries)
	}
	var targets []notify.Target
	if p.Routes != nil {
		targets = p.Routes(i.Lead())
	}
	if len(targets) == 0 {
		targets = []notify.Target{p.Security}
	}
	mention := ""
	if p.Owner != nil {
		var also []notify.Target
		mention, also = p.Owner(i.Lead())
		targets = append(slices.Clip(targets), also...)
	}
	for _, t := range targets {
		if t.Mention == MentionOwner {
			t.Mention = mention
		}
		out = add(out, t)
	}
	return out
}

// MentionOwner as a target's mention stands for the owner of the workload.
const MentionOwner = "owner"

// add appends the delivery to a target, unless there is one.
func add(deliveries []cases.Delivery, t notify.Target) []cases.Delivery {
	if slices.ContainsFunc(deliveries, func(d cases.Delivery) bool { return d.Target == t.String() }) {
		return deliveries
	}
	return append(deliveries, cases.Delivery{Target: t.String(), Mention: t.Mention, Why: t.Why})
}

// fallThrough notifies the security channel, then the fallbacks, until one takes the page.
func (p *Pager) fallThrough(ctx context.Context, m notify.Message, deliveries []cases.Delivery, again bool) ([]cases.Delivery, error) {
	for _, t := range append([]notify.Target{p.Security}, p.Fallback...) {
		before := len(deliveries)
		t.Why = "the other channels failed"
		if deliveries = add(deliveries, t); len(deliveries) == before {
			continue // it has failed already
		}
		p.each(ctx, deliveries[before:], func(ctx context.Context, ch notify.Channel, d *cases.Delivery) error {
			return post(ctx, ch, d, m, again)
		})
		if deliveries[before].Delivered() {
			return deliveries, nil
		}
	}
	return deliveries, failure(deliveries)
}

// Edit brings every message up to date, and tries the channels again whose time has
// come. It returns an error only when no channel could be brought up to date for a
// transient reason: everything else is on record, with the time of the next try.
func (p *Pager) Edit(ctx context.Context, i incidents.Incident) (cases.Paged, error) {
	m := casetext.IncidentMessage(i, p.Link)
	deliveries := p.Planned(withDeliveries(i))
	tried, shown := make([]bool, len(deliveries)), make([]bool, len(deliveries))
	p.each(ctx, deliveries, func(ctx context.Context, ch notify.Channel, d *cases.Delivery) error {
		if !d.RetryAt.IsZero() && p.now().Before(d.RetryAt) && !m.Resolved {
			return errNotYet
		}
		i := indexOf(deliveries, d)
		tried[i] = true
		m := m
		m.Mention = d.Mention
		err := bring(ctx, ch, d, m)
		shown[i] = d.Delivered() && d.Digest == m.Digest() // a thread that lags is brought up to date later
		return err
	})
	var failed error
	for i, d := range deliveries {
		if tried[i] && (d.Error == "" || shown[i]) {
			failed = nil
			break
		}
		if tried[i] && d.Class == retry.Transient.String() {
			failed = errors.New(d.Error)
		}
	}
	return summarize(deliveries, m.Digest()), failed
}

// indexOf returns the place of d, a pointer into deliveries. It reads none of them: the
// others are being written.
func indexOf(deliveries []cases.Delivery, d *cases.Delivery) int {
	for i := range deliveries {
		if &deliveries[i] == d {
			return i
		}
	}
	return -1
}

// errNotYet means that the next try of a channel lies ahead.
var errNotYet = errors.New("not tried yet")

// bring posts, edits or resolves one message and adds the updates that its thread lacks.
func bring(ctx context.Context, ch notify.Channel, d *cases.Delivery, m notify.Message) error {
	if !d.Delivered() {
		if err := post(ctx, ch, d, m, true); err != nil {
			return err
		}
	} else if d.Digest != m.Digest() {
		if err := update(ctx, ch, d, m); err != nil {
			return err
		}
	}
	for _, u := range m.Updates {
		if slices.Contains(d.Threaded, u.Key) {
			continue
		}
		if err := ch.Thread(ctx, ref(*d), m, u); err != nil {
			return err
		}
		d.Threaded = append(slices.Clip(d.Threaded), u.Key)
	}
	return nil
}

func update(ctx context.Context, ch notify.Channel, d *cases.Delivery, m notify.Message) error {
	if m.Resolved {
		if err := ch.Resolve(ctx, ref(*d), m); err != nil {
			return err
		}
		d.Digest = m.Digest()
		return nil
	}
	now, err := ch.Update(ctx, ref(*d), m)
	if err != nil {
		return err
	}
	if now.ID != d.ID {
		d.Threaded = nil // posted anew: the thread is empty
	}
	d.Room, d.ID, d.Digest = now.Room, now.ID, m.Digest()
	if now.Link != "" {
		d.Link = now.Link
	}
	return nil
}

func ref(d cases.Delivery) notify.Ref { return notify.Ref{Room: d.Room, ID: d.ID, Link: d.Link} }

// withDeliveries gives an incident that an earlier version paged the delivery that it stands for.
func withDeliveries(i incidents.Incident) incidents.Incident {
	if i.Paged == nil || len(i.Paged.Deliveries) > 0 || i.Paged.Timestamp == "" {
		return i
	}
	paged := *i.Paged
	paged.Deliveries = []cases.Delivery{{Target: string(notify.Slack) + ":" + paged.Channel, Room: paged.Channel,
		ID: paged.Timestamp, Link: paged.Link, Threaded: []string{notify.DetailsKey}}}
	i.Paged = &paged
	return i
}

// Remind notifies every channel that has the message once more: that an approval is
// pending, or that the severity was raised. Where none has it, the page is sent.
func (p *Pager) Remind(ctx context.Context, i incidents.Incident, why incidents.Reason) (string, error) {
	m := casetext.IncidentMessage(i, p.Link)
	u := casetext.IncidentReminder(i, why, p.now())
	deliveries := p.Planned(withDeliveries(i))
	p.each(ctx, deliveries, func(ctx context.Context, ch notify.Channel, d *cases.Delivery) error {
		m := m
		m.Mention = d.Mention
		if !d.Delivered() {
			return post(ctx, ch, d, m, true)
		}
		return ch.Thread(ctx, ref(*d), m, u)
	})
	for _, d := range deliveries {
		if d.Error == "" {
			return d.ID, nil
		}
	}
	if err := failure(deliveries); err != nil {
		return "", err
	}
	return "", errors.New("remind: " + deliveries[0].Error) // delivered before, and unreachable now
}

// Escalate notifies one channel more of an incident that nobody has answered, or, where
// that channel has the message already, adds a line to its thread. A zero target is the
// security channel. A message that cannot be posted is on record with the time of the next
// try; a line that cannot be added for a transient reason is an error.
func (p *Pager) Escalate(ctx context.Context, i incidents.Incident, to notify.Target) (cases.Paged, error) {
	if to == (notify.Target{}) {
		to = p.Security
	}
	to.Why = "nobody has answered"
	i = withDeliveries(i)
	m, u := casetext.IncidentMessage(i, p.Link), casetext.Unanswered(i, p.now())
	deliveries := add(slices.Clone(i.Paged.Deliveries), to)
	at := slices.IndexFunc(deliveries, func(d cases.Delivery) bool { return d.Target == to.String() })
	was := deliveries[at]
	p.each(ctx, deliveries[at:at+1], func(ctx context.Context, ch notify.Channel, d *cases.Delivery) error {
		m := m
		m.Mention = d.Mention
		if err := post(ctx, ch, d, m, true); err != nil {
			return err
		}
		return ch.Thread(ctx, ref(*d), m, u)
	})
	if d := deliveries[at]; was.Delivered() && d.Class == retry.Transient.String() {
		return *i.Paged, errors.New(d.Error)
	}
	paged := *i.Paged
	paged.Deliveries = deliveries
	return paged, nil
}

// Digest identifies what the channels would show now. It differs from the one on record
// when something changed, and when a channel is to be tried again.
func (p *Pager) Digest(i incidents.Incident) string {
	digest := casetext.IncidentMessage(i, p.Link).Digest()
	if i.Paged == nil {
		return digest
	}
	for _, d := range i.Paged.Deliveries {
		if !d.RetryAt.IsZero() && !p.now().Before(d.RetryAt) {
			return digest + "+retry"
		}
	}
	return digest
}

// each calls do for every delivery at once, each with a deadline of its own, and records
// how it went.
func (p *Pager) each(ctx context.Context, deliveries []cases.Delivery, do func(context.Context, notify.Channel, *cases.Delivery) error) {
	timeout := p.Timeout
	if timeout == 0 {
		timeout = 20 * time.Second
	}
	var wg sync.WaitGroup
	for i := range deliveries {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, timeout)
			defer cancel()
			d := &deliveries[i]
			ch, err := p.Open(parseTarget(*d))
			if err != nil {
				err = retry.Misconfigured(err)
			} else {
				err = do(ctx, ch, d)
			}
			if !errors.Is(err, errNotYet) {
				p.record(d, err)
			}
		})
	}
	wg.Wait()
}

func parseTarget(d cases.Delivery) notify.Target {
	kind, name, _ := strings.Cut(d.Target, ":")
	return notify.Target{Kind: notify.Kind(kind), Name: name, Mention: d.Mention, Why: d.Why}
}

// Pauses between the tries of a channel that failed.
var (
	transientPauses     = []time.Duration{30 * time.Second, 2 * time.Minute, 10 * time.Minute, time.Hour}
	misconfiguredPauses = []time.Duration{time.Minute, 10 * time.Minute, time.Hour, 6 * time.Hour, 24 * time.Hour}
)

// record notes how a try went and when the next one is.
func (p *Pager) record(d *cases.Delivery, err error) {
	if err == nil {
		d.Error, d.Class, d.Tries, d.RetryAt = "", "", 0, time.Time{}
		return
	}
	class := retry.ClassOf(err)
	pauses := transientPauses
	if class != retry.Transient {
		pauses = misconfiguredPauses
	}
	d.Error, d.Class = notify.Limit(notify.Plain(err.Error()), 300), class.String()
	d.RetryAt = p.now().Add(pauses[min(d.Tries, len(pauses)-1)]).UTC()
	d.Tries++
}

func (p *Pager) now() time.Time {
	if p.Now != nil {
		return p.Now()
	}
	return time.Now()
}

// failure returns nil when a channel has the message; else a transient error if one of
// the channels failed for a reason that may pass, or a misconfigured one.
func failure(deliveries []cases.Delivery) error {
	var reasons []string
	transient := false
	for _, d := range deliveries {
		if d.Delivered() {
			return nil
		}
		reasons = append(reasons, fmt.Sprintf("%s: %s (%s)", d.Target, d.Error, d.Class))
		transient = transient || d.Class == retry.Transient.String()
	}
	err := fmt.Errorf("no channel took the page: %s", strings.Join(reasons, "; "))
	if transient {
		return err
	}
	return retry.Misconfigured(err)
}

// summarize returns the record of the deliveries; the first delivered one stands for all.
func summarize(deliveries []cases.Delivery, digest string) cases.Paged {
	p := cases.Paged{Digest: digest, Deliveries: deliveries}
	for _, d := range deliveries {
		if d.Delivered() {
			p.Channel, p.Timestamp, p.Link = d.Room, d.ID, d.Link
			return p
		}
	}
	return p
}
