package respond

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/cases/caselog"
	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/internal/incidents"
	"github.com/contraband-dev/contraband/internal/incidents/incidentlog"
)

// place is where a finding was put on record.
type place struct {
	log      *caselog.Log
	incident string
	slot     string
	fresh    bool // this delivery recorded it
}

// active takes a finding as far as it goes now. The case and the messages about it
// have leases of their own, and are worked on side by side.
func (r *Responder) active(ctx context.Context, f finding.Finding) (Result, error) {
	w := r.newRun()
	var learnt cases.Decided
	var p place
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { // reads need no lease: they run beside the bucket's round trips
		learnt = w.assess(gctx, f)
		return nil
	})
	g.Go(func() (err error) {
		p, err = w.place(gctx, f)
		return err
	})
	if err := g.Wait(); err != nil {
		return Result{}, err
	}
	learnt = w.expect(learnt)
	learnt.Incident, learnt.Slot = p.incident, p.slot
	w.log, w.learnt = p.log, &learnt
	result := Result{Case: p.log.ID}
	if left, err := w.leaveToBatch(ctx); left || err != nil {
		return result, err
	}
	err := w.actAndTell(ctx, f, p)
	if errors.Is(err, caselog.ErrClosed) {
		return Result{}, fmt.Errorf("it closed meanwhile; the next delivery opens its next episode: %w", err)
	}
	if err != nil {
		return Result{}, err
	}
	return result, nil
}

// actAndTell works on the case and notifies people side by side; then it brings the
// messages up to date.
func (w *run) actAndTell(ctx context.Context, f finding.Finding, p place) error {
	if w.log.IsClosed() {
		return nil // a redelivery of what that case dealt with
	}
	known, err := w.withLearnt()
	if err != nil {
		return err
	}
	incident := known.Incident
	var acted, told error
	var wg sync.WaitGroup
	wg.Go(func() { acted = w.workOrLeave(ctx, f, p) })
	if incident != "" {
		wg.Go(func() { told = w.notify(ctx, incident, &known) })
	}
	wg.Wait()
	if incident == "" {
		return acted
	}
	return errors.Join(acted, told, w.refresh(ctx, incident))
}

// withLearnt returns the case together with what this delivery has learnt, where that
// opens the case or is worse than the case is.
func (w *run) withLearnt() (cases.Case, error) {
	events := w.log.Events()
	c, err := w.fold()
	if err != nil || w.learnt == nil {
		return c, err
	}
	if len(events) > 0 && (c.Closed != nil || w.learnt.Expected != "" || !w.learnt.Verdict.Level.WorseThan(c.Decided.Verdict.Level)) {
		return c, nil
	}
	n := 0
	if len(events) > 0 {
		n = events[len(events)-1].N + 1
	}
	return incidentlog.WithDecided(c, n, *w.learnt, w.Now())
}

// notify notifies people of a case as this invocation knows it.
func (w *run) notify(ctx context.Context, incident string, known *cases.Case) error {
	t, err := w.tell(ctx, incident, known)
	if err != nil {
		return err
	}
	return t.cycle(ctx)
}

// refresh brings the messages up to date with what was done meanwhile. An invocation
// whose time is over still does: what is retried for hours must show.
func (w *run) refresh(ctx context.Context, incident string) error {
	c, err := w.fold()
	if err != nil {
		return err
	}
	var known *cases.Case
	if !c.Opened.IsZero() {
		known = &c
	}
	return w.notify(ctx, incident, known)
}

// knowPage reads the incident's message, which SCC links to. A failure to read it delays
// nothing.
func (w *run) knowPage(ctx context.Context, c cases.Case) error {
	if c.Incident == "" || w.SCC == nil {
		return nil
	}
	log, err := w.Log.Read(ctx, c.Incident, w.holder)
	if err != nil {
		return err
	}
	i, err := incidents.Fold(c.Incident, log.Events())
	w.page = i.Paged
	return err
}

// joinEvery is the least time between two events that only count findings.
const joinEvery = time.Minute

// leaveToBatch leaves a finding that only counts to the case's next batch; it reports
// whether it did. The finding is on record.
func (w *run) leaveToBatch(ctx context.Context) (bool, error) {
	c, err := w.fold()
	if err != nil || !w.onlyCounts(c) {
		return false, err
	}
	next := c.JoinedAt().Add(joinEvery)
	if c.JoinedAt().IsZero() || !w.Now().Before(next) {
		return false, nil
	}
	return true, w.Log.WakeAt(ctx, c.ID, next.Truncate(time.Second).Add(time.Second))
}

// onlyCounts reports whether this delivery's finding is about a program that the case
// has, in the container that it is about, and changes nothing that was decided.
func (w *run) onlyCounts(c cases.Case) bool {
	if c.Incident == "" || c.Closed != nil || c.Opened.IsZero() {
		return false
	}
	d := w.learnt
	_, known := c.Program(cases.ProgramOf(d.Finding, d.Verdict).Key())
	changes := d.Expected == "" && (d.Verdict.Level.WorseThan(c.Decided.Verdict.Level) || asksForMore(d.Decision, c.Decided.Decision))
	return known && !changes && d.Finding.Container.ID == c.ContainerID()
}

// workOrLeave works on the case, unless another has it: that one takes the finding in
// before it gives the case back.
func (w *run) workOrLeave(ctx context.Context, f finding.Finding, p place) error {
	if w.log.LeasedByOther() {
		// The occurrence is on record. Had the holder given the case back before it was, and
		// looked in vain, this second reading shows it.
		if err := w.log.Reload(ctx); err != nil {
			return err
		}
		if w.log.IsClosed() {
			return fmt.Errorf("case %q: %w", w.log.ID, caselog.ErrClosed)
		}
		if w.log.LeasedByOther() {
			return w.leaveToHolder(ctx, f, p)
		}
	}
	return w.cycle(ctx)
}

// leaveToHolder leaves a recorded finding to the holder of the case. What is worse than
// people are notified at once all the same: notifying does not wait for containment.
func (w *run) leaveToHolder(ctx context.Context, f finding.Finding, p place) error {
	c, err := w.fold()
	if err != nil {
		return err
	}
	handled := c.HandledFinding(p.slot, f.Key())
	if c.Incident != "" && !handled && w.learnt.Expected == "" && w.learnt.Verdict.Level.WorseThan(c.Decided.Verdict.Level) {
		body, err := json.Marshal(incidents.Sighting{Case: c.ID, Decided: *w.learnt})
		if err != nil {
			return err
		}
		if err := w.Log.AddSighting(ctx, c.Incident, f.Key(), body); err != nil {
			return err
		}
	}
	if p.fresh || handled {
		// Should the holder die instead, the case is looked at when its lease has ended.
		return w.Log.WakeAt(ctx, w.log.ID, w.log.LeasedUntil())
	}
	return fmt.Errorf("case %q: %w", w.log.ID, ErrBusy) // it may have died: come again
}

// maxEpisodes bounds how many closed cases of one container and burst are gone through.
const maxEpisodes = 100

// place puts the finding on record in its case, and the case in its incident.
func (w *run) place(ctx context.Context, f finding.Finding) (place, error) {
	workload := f.IncidentKey()
	var episode string
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		episode, err = w.Log.Episode(gctx, workload, w.Now())
		return err
	})
	g.Go(func() error { return w.readExceptions(gctx, f) })
	if err := g.Wait(); err != nil {
		return place{}, err
	}
	var p place
	g, gctx = errgroup.WithContext(ctx)
	g.Go(func() error { return w.Log.MarkActive(gctx, workload, episode, w.Now()) })
	g.Go(func() (err error) {
		p, err = w.assign(gctx, f, f.CaseKey()+"-"+episode)
		return err
	})
	if err := g.Wait(); err != nil {
		return place{}, err
	}
	p.incident = caselog.IncidentID(workload, episode)
	if c, err := w.folded.fold(p.log); err != nil || !c.Opened.IsZero() { // an earlier episode's
		p.incident = c.Incident
		if err != nil {
			return place{}, err
		}
	}
	body, err := json.Marshal(f)
	if err != nil {
		return place{}, err
	}
	g, gctx = errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		p.fresh, err = w.Log.AddOccurrence(gctx, caselog.Assignment{Case: p.log.ID, Slot: p.slot}, f.Key(), body)
		return err
	})
	g.Go(func() error { return w.Log.LinkName(gctx, nameDigest(f), p.log.ID) })
	if p.incident != "" {
		g.Go(func() error { return w.Log.AddMember(gctx, p.incident, p.log.ID) })
	}
	err = g.Wait()
	return p, err
}

// nameDigest identifies an SCC finding whatever its state.
func nameDigest(f finding.Finding) string {
	sum := sha256.Sum256([]byte(f.CanonicalName))
	return hex.EncodeToString(sum[:16])
}

// assign assigns the finding to a case, permanently: to the given one, or to its first
// successor that is not closed, damaged, or about another pod.
func (w *run) assign(ctx context.Context, f finding.Finding, base string) (place, error) {
	name := f.Key()
	id := base
	for n := 2; n <= maxEpisodes; n++ {
		p, usable, err := w.tryAssign(ctx, f, name, id)
		if err != nil || usable {
			return p, err
		}
		name = fmt.Sprintf("%s.%d", f.Key(), n)
		id = caselog.NextEpisode(p.log.ID)
	}
	return place{}, fmt.Errorf("finding %q: more than %d cases of one container are closed", f.Key(), maxEpisodes)
}

// tryAssign assigns the finding to a case, or reads where it was assigned before; it
// reports whether that case can take the finding.
func (w *run) tryAssign(ctx context.Context, f finding.Finding, name, id string) (p place, usable bool, err error) {
	var a caselog.Assignment
	var fresh bool
	var damaged error
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		a, fresh, err = w.Log.AssignCase(gctx, name, caselog.Assignment{Case: id, Slot: caselog.Slot(w.Now())})
		return err
	})
	g.Go(func() (err error) {
		p.log, err = w.Log.Read(gctx, id, w.holder)
		if errors.Is(err, caselog.ErrUnreadable) {
			damaged, err = err, nil
		}
		return err
	})
	if err := g.Wait(); err != nil {
		return p, false, err
	}
	if a.Case != id { // it joined an earlier episode
		damaged = nil
		if p.log, err = w.Log.Read(ctx, a.Case, w.holder); errors.Is(err, caselog.ErrUnreadable) {
			damaged, err = err, nil
		}
		if err != nil {
			return p, false, err
		}
	}
	if damaged == nil {
		_, damaged = w.folded.fold(p.log)
		if damaged != nil && !errors.Is(damaged, caselog.ErrUnreadable) {
			return p, false, damaged
		}
	}
	if damaged != nil {
		w.damaged = append(w.damaged, p.log.ID)
		slog.ErrorContext(ctx, "unreadable case: its findings open the next one", "case", p.log.ID, "error", damaged)
		return p, false, nil
	}
	p.slot = a.Slot
	usable, err = w.usable(ctx, p.log, f, a, fresh)
	return p, usable, err
}

// usable reports whether a case can take a finding that was assigned to it.
func (w *run) usable(ctx context.Context, log *caselog.Log, f finding.Finding, a caselog.Assignment, fresh bool) (bool, error) {
	c, err := w.folded.fold(log)
	if err != nil {
		return false, err
	}
	if !fresh && w.Now().After(caselog.SlotEnd(a.Slot).Add(handledAfter-10*time.Minute)) && a.Slot != "" {
		// It was assigned long ago, and the delivery may have died before it was recorded: in
		// its old slot it would not be looked for any more.
		recorded, err := w.Log.HasOccurrence(ctx, a, f.Key())
		if err != nil || !recorded {
			return false, err
		}
	}
	switch {
	case c.HandledFinding(a.Slot, f.Key()), len(log.Events()) == 0:
		return true, nil
	case log.IsClosed():
		return false, nil
	}
	return isOfSamePod(c, f), nil
}

// ofSamePod reports whether an open case of an earlier version is about the pod of a finding.
func ofSamePod(f finding.Finding) func(*caselog.Log) (bool, error) {
	return func(log *caselog.Log) (bool, error) {
		c, err := cases.Fold(log.ID, log.Events())
		return isOfSamePod(c, f), err
	}
}

// isOfSamePod reports whether a case is about the pod of a finding: a successor of its
// name is another pod, and needs its own containment.
func isOfSamePod(c cases.Case, f finding.Finding) bool {
	uid := c.PodUID()
	if uid != "" && f.Pod.UID != "" {
		return uid == f.Pod.UID
	}
	// Without the pod's UID, a successor is known by what we removed having been gone by
	// then, unless it is the very container.
	a := c.Removed()
	later := a != nil && !f.Closed() && f.EventTime.After(a.At.Add(cases.MaxGrace))
	return !later || f.Container.ID != "" && f.Container.ID == c.ContainerID()
}
