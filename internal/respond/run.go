package respond

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/cases/caselog"
	"github.com/contraband-dev/contraband/internal/expected"
	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/internal/incidents/incidentlog"
)

// run is one invocation's work on one case.
type run struct {
	*Responder
	holder   string
	received time.Time
	log      *caselog.Log
	folded   folded
	learnt   *cases.Decided // about the finding of this delivery; nil: there is none
	lostHold cases.Lost
	later    map[string]bool // findings, by key, that a later invocation takes in
	page     *cases.Paged    // of the incident, for links; nil: not known
	damaged  []string        // cases that the finding would have joined, and that cannot be read
	// exceptions of the workload; nil: not read yet.
	exceptions []expected.Exception
}

func (r *Responder) newRun() *run {
	return &run{Responder: r, holder: r.LeaseOwner(), received: r.Now().UTC()}
}

// assess looks up facts and verdict at once, then asks the policy.
func (w *run) assess(ctx context.Context, f finding.Finding) cases.Decided {
	f.ReportedBy = w.Sources.ReporterOf(f) // one on record may be of before the sources were configured
	d := cases.Decided{Key: f.Key(), Finding: f, Received: w.received}
	ctx, cancel := context.WithTimeout(ctx, cases.StepDeadline)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { d.Facts = w.Facts.Facts(ctx, f) })
	wg.Go(func() { d.Verdict = w.Verdicts.Finding(ctx, f) })
	wg.Wait()
	d.Decision = w.Policy.Decide(f, d.Verdict)
	return d
}

// fold returns what the events of the case add up to. Each event is decoded once.
func (w *run) fold() (cases.Case, error) { return w.folded.fold(w.log) }

// folded is a case as far as one reading of its log has been folded.
type folded struct {
	mu   sync.Mutex
	log  *caselog.Log // nil: of none yet
	next int          // number of the first event that is not in it
	c    cases.Case
}

func (m *folded) fold(log *caselog.Log) (c cases.Case, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	events := log.Events()
	switch {
	case m.log == log && len(events) > 0 && events[0].N <= m.next:
		fresh := events[m.next-events[0].N:]
		if len(fresh) == 0 {
			return m.c, nil
		}
		c, err = m.c.With(fresh...)
	default:
		c, err = cases.Fold(log.ID, events)
	}
	if err == nil && len(events) > 0 {
		m.log, m.next, m.c = log, events[len(events)-1].N+1, c
	}
	return c, err
}

func (w *run) situation() situation {
	return situation{now: w.Now(), lost: w.lostHold, scc: w.SCC != nil, workflow: w.StartWorkflow != nil, owners: w.LateOwners != nil}
}

// due returns the steps that the case is due, at rest or not.
func (w *run) due(c cases.Case) []step {
	steps := append(plan(c, w.situation()), w.notifySteps(c)...)
	if len(steps) == 0 {
		steps = append(atRest(c, w.situation()), w.restingNotifySteps(c)...)
	}
	return steps
}

// cycle takes steps until none is due and nothing new has come, then gives the case
// back. w.learnt opens a case that has no events yet.
func (w *run) cycle(ctx context.Context) error {
	opened, err := w.open(ctx)
	if err != nil {
		return err
	}
	for held := opened; ; held = false {
		justOpened := held
		if !held {
			more, err := w.take(ctx)
			if err != nil || !more {
				return err
			}
		}
		err := w.turn(ctx, justOpened)
		switch {
		case errors.Is(err, caselog.ErrConflict):
			if err := w.backOff(ctx); err != nil {
				return err
			}
			continue
		case err != nil:
			return errors.Join(err, w.leaveUnfinished(ctx))
		}
		if w.log.IsClosed() {
			return w.reopen(ctx)
		}
		if err := w.yield(ctx); err != nil {
			return err
		}
	}
}

// open records the first decision of a case without events; it reports whether it did.
func (w *run) open(ctx context.Context) (bool, error) {
	if len(w.log.Events()) > 0 || w.learnt == nil {
		return false, nil
	}
	at := w.Now()
	for _, id := range w.damaged {
		w.learnt.Facts.Missing = append(w.learnt.Facts.Missing, fmt.Sprintf("the case before this one: the log of %s is damaged (contraband case check)", id))
	}
	if err := w.wakeForFirstRecheck(ctx, at); err != nil {
		return false, err
	}
	_, err := w.log.AppendAt(ctx, at, cases.KindDecided, w.learnt)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, caselog.ErrConflict):
		return false, w.backOff(ctx)
	}
	return false, err
}

// wakeForFirstRecheck has a case that is opened at a time looked at when the sources are
// to be asked again. It comes before the event, so that none is forgotten.
func (w *run) wakeForFirstRecheck(ctx context.Context, at time.Time) error {
	c, err := incidentlog.WithDecided(cases.Case{ID: w.log.ID}, 0, *w.learnt, at)
	if err != nil {
		return err
	}
	times := c.RecheckTimes()
	if len(times) == 0 {
		return nil
	}
	return w.Log.WakeAt(ctx, w.log.ID, times[0].Add(time.Second))
}

// take takes the case, if there is anything to do in it. It must be held before anything
// is done: two that act at once on what they have read do it twice.
func (w *run) take(ctx context.Context) (bool, error) {
	for {
		more, err := w.anythingToDo(ctx)
		if err != nil || !more {
			return false, err
		}
		if err := w.guardMessages(ctx); err != nil {
			return false, err
		}
		_, err = w.log.Append(ctx, "taken", nil)
		if !errors.Is(err, caselog.ErrConflict) {
			return err == nil, err
		}
		if err := w.backOff(ctx); err != nil {
			return false, err
		}
	}
}

// guardMessages has the incident looked at later: should this invocation end between a
// step and the edit that shows it, its caller may not come again. A finding's delivery is
// repeated until both are done.
func (w *run) guardMessages(ctx context.Context) error {
	if w.learnt != nil {
		return nil
	}
	c, err := w.fold()
	if err != nil || c.Incident == "" {
		return err
	}
	return w.Log.WakeAt(ctx, c.Incident, w.Now().Add(cases.Lease))
}

func (w *run) anythingToDo(ctx context.Context) (bool, error) {
	c, err := w.fold()
	if err != nil {
		return false, err
	}
	if len(w.due(c)) > 0 {
		return true, nil
	}
	occurrences, clicks, err := w.unhandled(ctx)
	return len(occurrences)+len(clicks) > 0, err
}

// leaveUnfinished gives the case back, so that the next holder need not wait for the
// lease, and has it looked at in any case. It works although the invocation's
// own time may be over.
func (w *run) leaveUnfinished(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if w.log.IsClosed() {
		return nil
	}
	return errors.Join(w.yield(ctx), w.Log.WakeAt(ctx, w.log.ID, w.Now().Add(w.pause())))
}

// Bounds of the pause before what failed is tried again: as long as it has been tried.
const (
	shortestPause = time.Minute
	longestPause  = cases.LongestRetry
)

func (w *run) pause() time.Duration {
	c, err := w.fold()
	if err != nil {
		return shortestPause
	}
	began := w.Now()
	for _, claim := range c.Claims {
		if claim.Outcome == nil && claim.At.Before(began) {
			began = claim.At
		}
	}
	if c.Decided.Decision.Includes(cases.Escalate) && c.Escalated == nil && c.DecidedAt().Before(began) {
		began = c.DecidedAt()
	}
	if c.Incident == "" && c.Paged == nil && !c.Opened.IsZero() {
		began = c.Opened
	}
	return min(max(w.Now().Sub(began), shortestPause), longestPause)
}

// reopen takes what came while the case was closing to its next episode: the delivery that brought
// it relied on the holder's looking.
func (w *run) reopen(ctx context.Context) error {
	late, _, err := w.unhandled(ctx)
	if err != nil {
		return err
	}
	for _, o := range late {
		if _, err := w.Finding(ctx, o.Finding); err != nil {
			return err
		}
	}
	return nil
}

// backOff reads what another has appended; when that one is still at it, we leave.
func (w *run) backOff(ctx context.Context) error {
	if err := w.log.Reload(ctx); err != nil {
		return err
	}
	if w.log.IsClosed() {
		return fmt.Errorf("case %q: %w", w.log.ID, caselog.ErrClosed)
	}
	if w.log.LeasedByOther() {
		return fmt.Errorf("case %q: %w", w.log.ID, ErrBusy)
	}
	return nil
}

func (w *run) yield(ctx context.Context) error { return release(ctx, w.log) }

func release(ctx context.Context, log *caselog.Log) error {
	err := log.Release(ctx)
	if errors.Is(err, caselog.ErrConflict) || errors.Is(err, caselog.ErrClosed) {
		return nil // another has it, or it is needed no more
	}
	return err
}

// turn takes in what is new, then every step that is due. A case that was just opened is
// acted on first.
func (w *run) turn(ctx context.Context, justOpened bool) error {
	if justOpened {
		if err := w.steps(ctx); err != nil {
			return err
		}
	}
	if err := w.takeIn(ctx); err != nil {
		return err
	}
	return w.steps(ctx)
}

// steps takes what is due until nothing is. Tracks do not wait for each other, and what
// fails in one keeps no other from being taken.
func (w *run) steps(ctx context.Context) error {
	for {
		errs := make([]error, len(tracks))
		var wg sync.WaitGroup
		for i, t := range tracks {
			wg.Go(func() { errs[i] = w.followTrack(ctx, t) })
		}
		wg.Wait()
		w.lostHold = cases.Lost{} // it was of what held the pod before
		if err := errors.Join(errs...); err != nil {
			return errors.Join(err, w.showProgress(ctx))
		}
		rested, err := w.rest(ctx)
		if err != nil || rested {
			return err
		}
	}
}

// followTrack takes the steps of one track until none is due. A hold that was found lost
// concerns only the first step of containment: later ones change what contains the pod.
func (w *run) followTrack(ctx context.Context, t track) error {
	lost := cases.Lost{}
	if t == trackContain {
		lost = w.lostHold
	}
	for ; ; lost = (cases.Lost{}) {
		c, err := w.fold()
		if err != nil {
			return err
		}
		s := w.situation()
		s.lost = lost
		steps := append(plan(c, s), w.notifySteps(c)...)
		i := slices.IndexFunc(steps, func(s step) bool { return s.track == t })
		if i < 0 || w.log.IsClosed() {
			return nil
		}
		if err := w.do(ctx, c, steps[i]); err != nil {
			return err
		}
	}
}

func (w *run) do(ctx context.Context, c cases.Case, s step) error {
	ctx, cancel := context.WithTimeout(ctx, cases.StepDeadline)
	defer cancel()
	return s.do(ctx, w, c, s)
}

// rest takes the steps of a case at rest; it reports whether none was due.
func (w *run) rest(ctx context.Context) (bool, error) {
	c, err := w.fold()
	if err != nil || w.log.IsClosed() {
		return true, err
	}
	steps := atRest(c, w.situation())
	if closing(c) == nil { // the end is shown by closing
		steps = append(steps, w.restingNotifySteps(c)...)
	}
	errs := make([]error, len(steps))
	var wg sync.WaitGroup
	for i, s := range steps {
		wg.Go(func() { errs[i] = w.do(ctx, c, s) })
	}
	wg.Wait()
	return len(steps) == 0 || w.log.IsClosed(), errors.Join(errs...)
}

// showProgress reports the state of a case in which a step has failed: what is tried
// again for hours is not hidden meanwhile.
func (w *run) showProgress(ctx context.Context) error {
	c, err := w.fold()
	if err != nil || w.log.IsClosed() {
		return err
	}
	var errs []error
	for _, s := range w.restingNotifySteps(c) {
		errs = append(errs, w.do(ctx, c, s))
	}
	if w.SCC != nil && c.ReportDue(w.Now()) {
		errs = append(errs, w.do(ctx, c, step{do: report}))
	}
	return errors.Join(errs...)
}
