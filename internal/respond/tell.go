package respond

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/cases/caselog"
	"github.com/contraband-dev/contraband/internal/cases/casetext"
	"github.com/contraband-dev/contraband/internal/deadletter"
	"github.com/contraband-dev/contraband/internal/incidents"
	"github.com/contraband-dev/contraband/internal/incidents/incidentlog"
	"github.com/contraband-dev/contraband/internal/notify"
	"github.com/contraband-dev/contraband/internal/retry"
)

// Notifier notifies people of an incident.
type Notifier interface {
	Post(ctx context.Context, i incidents.Incident, again bool) (cases.Paged, error)
	Edit(ctx context.Context, i incidents.Incident) (cases.Paged, error)
	// Remind notifies people again: that an approval is pending, or that the verdict is
	// worse than the page said.
	Remind(ctx context.Context, i incidents.Incident, why incidents.Reason) (timestamp string, err error)
	// Escalate notifies one channel more, as nobody has answered; a zero target is the
	// security channel.
	Escalate(ctx context.Context, i incidents.Incident, to notify.Target) (cases.Paged, error)
	// Digest identifies what the messages would show.
	Digest(i incidents.Incident) string
	// PostDigest notifies people of several incidents in one message.
	PostDigest(ctx context.Context, key string, all []incidents.Incident, again bool) (cases.Paged, error)
}

// telling is one invocation's work on the messages to people: on an incident, whose lease
// is its own, or on a case of an earlier version, whose log records it.
type telling struct {
	*Responder
	log    *caselog.Log
	opened bool // by this invocation: no person can have been notified before
	// known is a case as this invocation knows it, which its log may not show yet; nil: none.
	known   *cases.Case
	limited bool // the page is over the limit
	// learnt is the finding that this invocation brings; nil: none.
	learnt *cases.Decided
	// clicked are the cases to which a click was handed on.
	clicked []string
}

// tell returns the work on an incident.
func (w *run) tell(ctx context.Context, incidentID string, known *cases.Case) (*telling, error) {
	log, err := w.Log.Read(ctx, incidentID, w.holder)
	if err != nil {
		return nil, err
	}
	return &telling{Responder: w.Responder, log: log, known: known, learnt: w.learnt}, nil
}

// notice is a step of notifying people.
type notice struct {
	name string
	do   func(ctx context.Context, t *telling, i incidents.Incident) error
}

// planNotices returns the steps that an incident is due. digest identifies what the
// messages would show. Pure.
func planNotices(i incidents.Incident, now time.Time, digest string) []notice {
	switch {
	case i.PageDue(now):
		return []notice{{"page", post}}
	case i.WorseDue():
		return []notice{{"notify that it is worse", remindWorse}}
	case i.OverBudgetDue():
		return []notice{{"notify that the budget is spent", remindOverBudget}}
	case !i.ReminderDue(now, remindAfter).IsZero():
		return []notice{{"remind of the approval", remindPending}}
	}
	return nil
}

// restingNotices returns the steps of an incident that notify no person.
// Several changes in a row are one edit: only a changed status is shown at once. Pure.
func restingNotices(i incidents.Incident, now time.Time, digest string) []notice {
	if i.Paged == nil || i.Paged.Error != "" {
		return nil
	}
	if i.ResolvedDue(digest) {
		return []notice{{"resolve", resolve}}
	}
	if at := editDue(i, digest); at.IsZero() || now.Before(at) {
		return nil
	}
	return []notice{{"edit the messages", edit}}
}

// editEvery is the least time between two edits that show no progress.
const editEvery = 10 * time.Second

// editDue returns when the messages are to be edited; zero: not for what has changed.
func editDue(i incidents.Incident, digest string) (at time.Time) {
	shown := i.ShownNow()
	retry := i.Paged.NextRetry()
	switch {
	case i.Paged.Digest == digest:
		return at
	case i.Paged.Digest == "", shown.Progress != i.Shown.Progress: // part of a message is missing, or out of date
		return i.PagedAt
	case shown.Extent != i.Shown.Extent:
		at = i.PagedAt.Add(editEvery)
	}
	if !retry.IsZero() && (at.IsZero() || retry.Before(at)) {
		at = retry
	}
	return at
}

// remindAfter is how long an approval is pending before people are reminded.
const remindAfter = 30 * time.Minute

func (t *telling) due(i incidents.Incident) []notice {
	digest := t.Notifier.Digest(i)
	if out := planNotices(i, t.Now(), digest); len(out) > 0 {
		return out
	}
	if i.Queued != nil && i.Paged == nil {
		return t.queuedNotices(i)
	}
	if at, _ := t.escalation(i); !at.IsZero() && !t.Now().Before(at) {
		return []notice{{"notify another channel", escalatePage}}
	}
	return restingNotices(i, t.Now(), digest)
}

// cycle takes what the incident is due until nothing is. It never waits for another that
// has the incident: that one looks again before and after it gives the incident back.
func (t *telling) cycle(ctx context.Context) error {
	held, err := t.open(ctx)
	if err != nil {
		return err
	}
	for ; ; held = false {
		if len(t.log.Events()) == 0 {
			return nil // nothing to tell yet
		}
		if busy, err := t.busy(ctx); busy || err != nil {
			return err
		}
		i, err := t.load(ctx, held)
		if err != nil {
			return err
		}
		clicks, err := t.unhandledClicks(ctx, i, held)
		if err != nil {
			return err
		}
		due := t.due(i)
		if len(due)+len(clicks) == 0 {
			if held {
				if err := release(ctx, t.log); err != nil {
					return err
				}
				continue // what came while it was held
			}
			return t.wakeForNext(ctx, i)
		}
		if !held {
			if _, err := t.log.Append(ctx, "taken", nil); err != nil {
				if !errors.Is(err, caselog.ErrConflict) {
					return err
				}
				if err := t.log.Reload(ctx); err != nil {
					return err
				}
				continue
			}
		}
		if err := t.take(ctx, i, due, clicks); err != nil {
			return errors.Join(err, t.leaveUnfinished(ctx, i))
		}
		if err := release(ctx, t.log); err != nil {
			return err
		}
	}
}

// open makes the incident of a case that this invocation knows, where there is none; it
// reports whether this invocation did, and has its lease.
func (t *telling) open(ctx context.Context) (bool, error) {
	if len(t.log.Events()) > 0 {
		return false, nil
	}
	if err := t.knowMember(ctx); err != nil || t.known == nil {
		return false, err
	}
	limited := make(chan bool, 1)
	go func() { limited <- t.overLimit(ctx) }() // it costs the page no time
	_, err := t.log.Append(ctx, incidents.KindOpened, incidents.Opened{Workload: t.known.Decided.Finding.Workload(), Case: t.known.ID, Replaces: t.log.Replaces()})
	t.limited = <-limited
	if errors.Is(err, caselog.ErrConflict) {
		return false, t.log.Reload(ctx)
	}
	t.opened = err == nil
	return t.opened, err
}

// knowMember takes a case of an incident whose damaged log this one takes the place of as
// the one that opens it: nobody else would.
func (t *telling) knowMember(ctx context.Context) error {
	if t.known != nil || t.log.Replaces() == "" {
		return nil
	}
	all, _, err := incidentlog.Members(ctx, t.Log, incidents.Incident{ID: t.log.ID})
	open := incidents.Incident{}.With(all, 0).Open()
	if err == nil && len(open) > 0 {
		t.known = &open[0]
	}
	return err
}

// busy reports whether another has the incident, after having it looked at when that
// one's lease ends.
func (t *telling) busy(ctx context.Context) (bool, error) {
	if !t.log.LeasedByOther() {
		return false, nil
	}
	if err := t.log.Reload(ctx); err != nil || !t.log.LeasedByOther() {
		return false, err
	}
	return true, t.Log.WakeAt(ctx, t.log.ID, t.log.LeasedUntil())
}

// load returns the incident with its cases. One that was just opened has the case that
// opened it, and nothing else is read: the page does not wait.
func (t *telling) load(ctx context.Context, justOpened bool) (incidents.Incident, error) {
	i, err := incidents.Fold(t.log.ID, t.log.Events())
	if err != nil {
		return i, err
	}
	if justOpened {
		return i.With([]cases.Case{*t.known}, 0), nil
	}
	all, more, err := incidentlog.Members(ctx, t.Log, i)
	if err != nil {
		return i, err
	}
	return i.With(withKnown(all, t.known), more), nil
}

// withKnown adds a case that this invocation knows better than its log shows.
func withKnown(all []cases.Case, known *cases.Case) []cases.Case {
	if known == nil {
		return all
	}
	n := slices.IndexFunc(all, func(c cases.Case) bool { return c.ID == known.ID })
	if n < 0 {
		return append(all, *known)
	}
	if known.Decided.Verdict.Level.WorseThan(all[n].Decided.Verdict.Level) && all[n].Closed == nil {
		all[n] = *known
	}
	return all
}

// take acts on clicks, then takes the steps.
func (t *telling) take(ctx context.Context, i incidents.Incident, due []notice, clicks []cases.Click) error {
	for _, k := range clicks {
		if err := t.forward(ctx, i, k); err != nil {
			return err
		}
	}
	if len(clicks) > 0 {
		return nil // they may have changed what is due
	}
	for _, n := range due {
		ctx, cancel := context.WithTimeout(ctx, cases.StepDeadline)
		err := n.do(ctx, t, i)
		cancel()
		if err != nil {
			return err
		}
	}
	return nil
}

// leaveUnfinished gives the incident back and has it looked at, although the invocation's
// own time may be over.
func (t *telling) leaveUnfinished(ctx context.Context, i incidents.Incident) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	began := i.PagedAt
	if began.IsZero() {
		began = i.Opened
	}
	pause := min(max(t.Now().Sub(began), shortestPause), longestPause)
	return errors.Join(release(ctx, t.log), t.Log.WakeAt(ctx, t.log.ID, t.Now().Add(pause)))
}

// wakeForNext has the incident looked at when an edit that was put off, or a reminder of
// an approval, is due.
func (t *telling) wakeForNext(ctx context.Context, i incidents.Incident) error {
	if i.Paged == nil || i.Paged.Error != "" {
		return nil
	}
	at := editDue(i, t.Notifier.Digest(i))
	for _, c := range i.Cases {
		if remind := c.DecidedAt().Add(remindAfter); c.Asking() && c.DecidedAt().After(i.Reminded) && (at.IsZero() || remind.Before(at)) {
			at = remind
		}
	}
	if escalate, _ := t.escalation(i); !escalate.IsZero() && (at.IsZero() || escalate.Before(at)) {
		at = escalate
	}
	if at.IsZero() {
		return nil
	}
	at = at.Add(time.Second)
	ahead, err := t.Log.WakesWithin(ctx, t.log.ID, t.Now(), at)
	if err != nil || ahead {
		return err
	}
	return t.Log.WakeAt(ctx, t.log.ID, at)
}

// unhandledClicks returns clicks on buttons of the incident that no event covers.
func (t *telling) unhandledClicks(ctx context.Context, i incidents.Incident, justOpened bool) (out []cases.Click, err error) {
	if justOpened || !caselog.IsIncident(t.log.ID) {
		return nil, nil
	}
	entries, err := t.Log.Clicks(ctx, i.ID, i.Handled)
	for _, e := range entries {
		var k cases.Click
		if json.Unmarshal(e.Body, &k) == nil {
			out = append(out, k)
		}
	}
	return out, err
}

// forward hands a click on to every open case whose decision it can be about, and records
// it. Each case accepts or refuses it by itself.
func (t *telling) forward(ctx context.Context, i incidents.Incident, k cases.Click) error {
	for _, c := range i.Open() {
		if k.What == cases.ActionExpected && !i.Answers(k, c) {
			continue // it was decided anew since the person looked
		}
		each := k
		each.ID = "all-" + k.ID
		each.Decision = nil
		if k.What == cases.ActionApprove || k.What == cases.ActionDeny {
			if !c.Asking() || !i.Answers(k, c) {
				continue
			}
			n := c.DecisionN()
			each.Decision = &n
		}
		body, err := json.Marshal(each)
		if err != nil {
			return err
		}
		if err := t.Log.Click(ctx, c.ID, each.ID, body); err != nil {
			return err
		}
		t.clicked = append(t.clicked, c.ID)
	}
	_, err := t.log.Append(ctx, cases.KindClicked, k)
	return err
}

// post notifies people of an incident, or leaves it to a digest.
func post(ctx context.Context, t *telling, i incidents.Incident) error {
	if caselog.IsIncident(t.log.ID) && t.mayQueue(i) {
		if every := t.digestEvery(i); every > 0 && !t.bringsPage() || t.limited {
			return t.queue(ctx, i, every)
		}
	}
	return postNow(ctx, t, i)
}

// postNow notifies people of an incident.
func postNow(ctx context.Context, t *telling, i incidents.Incident) error {
	p, err := t.Notifier.Post(ctx, i, !t.opened)
	if err != nil && retry.ClassOf(err) == retry.Transient {
		t.opened = false // it may have arrived all the same
		return err
	}
	level := i.Level()
	if err != nil {
		parked, unparked := t.deadLetter(ctx, i, err)
		if unparked != nil {
			return errors.Join(err, unparked)
		}
		p, level = t.notPaged(ctx, i, p, err), ""
		p.DeadLettered = parked
	}
	if err := t.wakeForReminder(ctx, i); err != nil {
		return err
	}
	return t.recordPaged(ctx, i, p, level)
}

// deadLetter alerts the operators once that no channel took the page; it reports whether
// they are.
func (t *telling) deadLetter(ctx context.Context, i incidents.Incident, why error) (parked bool, err error) {
	if i.Paged != nil && i.Paged.DeadLettered {
		return true, nil
	}
	if t.DeadLetter == nil {
		return false, nil
	}
	lead := i.Lead()
	body, err := json.Marshal(map[string]string{"incident": i.ID, "case": lead.ID, "link": t.Link(lead.ID),
		"finding": lead.Decided.Finding.CanonicalName, "summary": casetext.IncidentHeadline(i)})
	if err != nil {
		return false, err
	}
	f := lead.Decided.Finding
	err = t.DeadLetter(ctx, deadletter.Letter{Kind: deadletter.Page, Cluster: strings.Join([]string{f.Project, f.Location, f.Cluster}, "/"), Reason: why.Error(), Data: body})
	return err == nil, err
}

// notPaged returns the record of a page that no channel took: it is sent again with
// growing pauses, for days, until the cause is mended.
func (t *telling) notPaged(ctx context.Context, i incidents.Incident, p cases.Paged, err error) cases.Paged {
	slog.ErrorContext(ctx, "no channel took the page", "incident", i.ID, "error", err)
	p.Error = err.Error()
	if i.Paged != nil {
		p.Tries = i.Paged.Tries
	}
	p.RetryAt = t.Now().Add(pagePauses[min(p.Tries, len(pagePauses)-1)]).UTC()
	p.Tries++
	return p
}

// pagePauses lie between the tries of a page that no channel took.
var pagePauses = []time.Duration{time.Minute, 5 * time.Minute, 30 * time.Minute, time.Hour, 6 * time.Hour}

// recordPaged records what the channels answered, and has the incident looked at when one
// is to be tried again. level is the verdict of which people were notified; "": of none.
func (t *telling) recordPaged(ctx context.Context, i incidents.Incident, p cases.Paged, level cases.Level) error {
	if at := p.NextRetry(); !at.IsZero() {
		if err := t.Log.WakeAt(ctx, t.log.ID, at.Add(time.Second)); err != nil {
			return err
		}
	}
	_, err := t.log.Append(ctx, cases.KindPaged, incidents.Paged{Paged: p, Level: level, Shown: i.ShownNow()})
	return err
}

// wakeForReminder has the incident looked at when an approval has been pending for long.
func (t *telling) wakeForReminder(ctx context.Context, i incidents.Incident) error {
	for _, c := range i.Cases {
		if at := c.DecidedAt(); c.Asking() && at.After(i.Reminded) {
			if err := t.Log.WakeAt(ctx, t.log.ID, at.Add(remindAfter+time.Second)); err != nil {
				return err
			}
		}
	}
	return nil
}

func remindWorse(ctx context.Context, t *telling, i incidents.Incident) error {
	if err := t.wakeForReminder(ctx, i); err != nil { // what was decided later is waited for anew
		return err
	}
	return t.remind(ctx, i, incidents.Worse, incidents.Reminded{Reminded: cases.Reminded{Worse: true}, Level: i.Level()})
}

func remindOverBudget(ctx context.Context, t *telling, i incidents.Incident) error {
	return t.remind(ctx, i, incidents.OverBudget, incidents.Reminded{OverBudget: true})
}

func remindPending(ctx context.Context, t *telling, i incidents.Incident) error {
	return t.remind(ctx, i, incidents.Pending, incidents.Reminded{Through: i.ReminderDue(t.Now(), remindAfter)})
}

// remind notifies people once more. It never acts.
func (t *telling) remind(ctx context.Context, i incidents.Incident, why incidents.Reason, b incidents.Reminded) error {
	timestamp, err := t.Notifier.Remind(ctx, i, why)
	text, again := final(err)
	if again != nil {
		return again
	}
	b.Timestamp, b.Error = timestamp, text
	_, err = t.log.Append(ctx, cases.KindReminded, b)
	return err
}

// escalation returns when another channel is to be notified, and which; zero: none is.
func (t *telling) escalation(i incidents.Incident) (at time.Time, to notify.Target) {
	if len(i.Cases) == 0 {
		return at, to
	}
	lead := i.Lead().Decided
	after, to := t.Policy.Unanswered(lead.Finding, lead.Verdict)
	return i.EscalationDue(after), to
}

// escalatePage notifies another channel once. A message that could not be posted is posted
// by an edit.
func escalatePage(ctx context.Context, t *telling, i incidents.Incident) error {
	_, to := t.escalation(i)
	p, err := t.Notifier.Escalate(ctx, i, to)
	if err != nil {
		return err
	}
	if at := p.NextRetry(); !at.IsZero() {
		if err := t.Log.WakeAt(ctx, t.log.ID, at.Add(time.Second)); err != nil {
			return err
		}
	}
	_, err = t.log.Append(ctx, cases.KindPaged, incidents.Paged{Paged: p, Unanswered: true, Shown: i.Shown})
	return err
}

func edit(ctx context.Context, t *telling, i incidents.Incident) error {
	p, err := t.Notifier.Edit(ctx, i)
	text, again := final(err)
	if again != nil {
		return again
	}
	if text != "" {
		p.Error = text
	}
	if err := t.wakeForReminder(ctx, i); err != nil {
		return err
	}
	return t.recordPaged(ctx, i, p, "")
}

// resolve ends a round: a case that comes later gets messages of its own.
func resolve(ctx context.Context, t *telling, _ incidents.Incident) error {
	_, err := t.log.Append(ctx, incidents.KindResolved, nil)
	return err
}

// notifySteps returns the steps that notify people of a case of an earlier version: it is an
// incident by itself.
func (w *run) notifySteps(c cases.Case) []step {
	if c.Incident != "" || c.Opened.IsZero() {
		return nil
	}
	i := incidents.Of(c)
	return legacySteps(planNotices(i, w.Now(), w.Notifier.Digest(i)))
}

// restingNotifySteps is notifySteps for a case at rest.
func (w *run) restingNotifySteps(c cases.Case) []step {
	if c.Incident != "" || c.Opened.IsZero() {
		return nil
	}
	i := incidents.Of(c)
	digest := w.Notifier.Digest(i)
	if i.Paged == nil || i.Paged.Error != "" || i.Paged.Digest == digest {
		return nil
	}
	return legacySteps([]notice{{"edit the messages", edit}})
}

func legacySteps(notices []notice) (out []step) {
	for _, n := range notices {
		out = append(out, step{track: trackNotify, name: n.name, do: func(ctx context.Context, w *run, c cases.Case, _ step) error {
			return n.do(ctx, &telling{Responder: w.Responder, log: w.log}, incidents.Of(c))
		}})
	}
	return out
}

// showEnd shows the end of a case of an earlier version in its messages. That of others
// is shown by their incident.
func (w *run) showEnd(ctx context.Context, ended cases.Case) error {
	if ended.Incident != "" || ended.Paged == nil || ended.Paged.Error != "" {
		return nil
	}
	_, err := w.Notifier.Edit(ctx, incidents.Of(ended))
	_, again := final(err) // it is shown, unless it can never be
	return again
}

// withPage returns the case with the incident's message, which SCC links to.
func (w *run) withPage(c cases.Case) cases.Case {
	if c.Incident != "" && w.page != nil {
		c.Paged = w.page
	}
	return c
}

// advanceClicked advances the cases to which this invocation has handed clicks on.
func (t *telling) advanceClicked(ctx context.Context) error {
	if len(t.clicked) == 0 {
		return nil
	}
	errs := make([]error, len(t.clicked))
	for n, id := range t.clicked {
		errs[n] = t.Advance(ctx, id)
	}
	return errors.Join(errs...)
}
