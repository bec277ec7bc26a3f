// Package respond decides which steps a case needs next and runs them (plan.go is pure,
// effects.go runs), and notifies people of incidents (tell.go). It knows no wire format.
package respond

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/contraband-dev/contraband/internal/canary"
	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/cases/caselog"
	"github.com/contraband-dev/contraband/internal/deadletter"
	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/internal/policy"
)

// ErrBusy means that another invocation has the case: try again later.
var ErrBusy = errors.New("the case is being worked on")

// Facts gathers what an analyst would look up; it never fails as a whole.
type Facts interface {
	Facts(ctx context.Context, f finding.Finding) cases.Facts
}

// Verdicts looks up what is known about a program; it never fails as a whole.
type Verdicts interface {
	Finding(ctx context.Context, f finding.Finding) cases.Verdict
}

// Escalator writes to Security Command Center.
type Escalator interface {
	Escalate(ctx context.Context, c cases.Case, at time.Time) (name string, err error)
	Report(ctx context.Context, c cases.Case, link string) error
	// Deactivate makes our own findings of a case INACTIVE.
	Deactivate(ctx context.Context, c cases.Case) error
}

// Responder takes the steps.
type Responder struct {
	Log      *caselog.Store // required
	Facts    Facts          // required
	Verdicts Verdicts       // required
	Policy   *policy.Policy // required
	Notifier Notifier       // required
	// SCC is nil where no source of our own is configured: escalation then lives
	// in the case and on the page alone.
	SCC Escalator
	// Contain has a recorded claim carried out by the Contain function. Required.
	Contain func(ctx context.Context, caseID string, n int) (cases.Outcome, error)
	// CheckHolds returns a containment measure that is no longer in effect; its Why is ""
	// when all are as far as can be seen. nil: they cannot be checked.
	CheckHolds func(ctx context.Context, c cases.Case) cases.Lost
	// HasContainer reports whether the API server knows a container as one of the case's
	// pod. nil: it cannot be checked, and a finding's claim is believed.
	HasContainer func(ctx context.Context, c cases.Case, containerID string) (bool, error)
	// StartWorkflow starts a workflow that waits for what a case needs, and returns its
	// execution. nil: none is configured, and the sweep alone advances cases.
	StartWorkflow func(ctx context.Context, caseID string) (execution string, err error)
	// PagesPerWindow bounds how many incidents are paged in ten minutes whose verdict is not
	// malicious and that ask for no approval; more are listed in one digest. 0: no limit.
	PagesPerWindow int
	// Sources are the SCC sources that are trusted. Our escalations never re-enter.
	Sources finding.Sources
	// LateOwners asks the sources of owners again, with more time than a page waits; nil:
	// what was late is left out.
	LateOwners func(ctx context.Context, f finding.Finding) cases.OwnersFound
	// DeadLetter puts an incident that no channel took where the operators are alerted. nil:
	// it is logged alone. An error means that the delivery comes again.
	DeadLetter func(ctx context.Context, l deadletter.Letter) error
	// LeaseOwner names one invocation. Required.
	LeaseOwner func() string
	// Link is the casebook's page of a case. Required.
	Link func(caseID string) string
	// Now is the clock. Required.
	Now func() time.Time
}

// Result of a finding: exactly one field is set.
type Result struct {
	Case         string `json:"case,omitempty"`
	Acknowledged string `json:"acknowledged,omitempty"` // why nothing is to be done
	DeadLettered string `json:"deadLettered,omitempty"` // why nothing can be done
}

// Finding takes a finding as far as it goes now. An error is transient: the
// same finding again continues where this one ended.
func (r *Responder) Finding(ctx context.Context, f finding.Finding) (Result, error) {
	f.ReportedBy = r.Sources.ReporterOf(f)
	switch {
	case f.Category == finding.AddedMaliciousBinary && f.In(r.Sources.Ours):
		return Result{Acknowledged: "our own escalation"}, nil
	case f.Category == finding.AddedBinary && canary.IsSelfTest(f.Process.SHA256):
		return Result{Acknowledged: "the self-test of a Contraband sensor"}, nil
	case f.Kind() == finding.Other:
		return Result{Acknowledged: fmt.Sprintf("category %q is not about a program in a container", f.Category)}, nil
	case f.Closed():
		return r.over(ctx, f)
	case f.Muted():
		return Result{Acknowledged: "the finding is muted"}, nil
	}
	return r.active(ctx, f)
}

// over closes the open case of a finding that SCC says is over.
func (r *Responder) over(ctx context.Context, f finding.Finding) (Result, error) {
	why := "the finding is " + f.State
	if f.Deleted {
		why = "the finding is deleted"
	}
	file, c, err := r.openCaseOf(ctx, f)
	if err != nil {
		return Result{}, err
	}
	if file == nil {
		return Result{Acknowledged: why + ", and no case is open for it"}, nil
	}
	if f.EventTime.Before(c.First) {
		return Result{Acknowledged: why + ", and the open case is about later findings"}, nil
	}
	names, err := r.findingsOf(ctx, c)
	if err != nil {
		return Result{}, err
	}
	if !names[f.CanonicalName] {
		return Result{Acknowledged: why + ", and the open case about the same container does not include it"}, nil
	}
	if len(names) > 1 || c.MorePrograms > 0 {
		return Result{Case: file.ID}, nil // others keep it open
	}
	if file.LeasedByOther() {
		return Result{}, fmt.Errorf("case %q: %w", file.ID, ErrBusy)
	}
	// SCC's state is a click like a person's: the case goes its usual way to the end.
	id := cases.ClickOfSCC + f.Key()[:32]
	body, err := json.Marshal(cases.Click{ID: id, What: cases.ActionClose, By: "Security Command Center (" + why + ")", At: r.Now().UTC()})
	if err != nil {
		return Result{}, err
	}
	if err := r.Log.Click(ctx, file.ID, id, body); err != nil {
		return Result{}, err
	}
	return Result{Case: file.ID}, r.Advance(ctx, file.ID)
}

// openCaseOf returns the open case that a finding is part of; nil: there is none.
func (r *Responder) openCaseOf(ctx context.Context, f finding.Finding) (*caselog.Log, cases.Case, error) {
	ids, err := r.Log.CasesOfName(ctx, nameDigest(f))
	if err != nil {
		return nil, cases.Case{}, err
	}
	for _, id := range slices.Backward(ids) {
		file, err := r.Log.Read(ctx, id, r.LeaseOwner())
		if err != nil {
			return nil, cases.Case{}, err
		}
		c, err := cases.Fold(id, file.Events())
		if err != nil || len(file.Events()) > 0 && !file.IsClosed() {
			return file, c, err
		}
	}
	file, err := r.Log.Latest(ctx, f.EarlierCaseKey(), r.LeaseOwner(), ofSamePod(f))
	if err != nil || len(file.Events()) == 0 {
		return nil, cases.Case{}, err
	}
	c, err := cases.Fold(file.ID, file.Events())
	return file, c, err
}

// findingsOf returns the canonical names of the findings that joined a case.
func (r *Responder) findingsOf(ctx context.Context, c cases.Case) (map[string]bool, error) {
	names := map[string]bool{}
	if c.Incident != "" {
		for _, name := range c.FindingNames() {
			names[name] = true
		}
	}
	entries, err := r.Log.Occurrences(ctx, c.ID, c.HandledThrough(), nil)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		var f finding.Finding
		if err := json.Unmarshal(e.Body, &f); err != nil {
			return nil, fmt.Errorf("case %q, occurrence %q: %w", c.ID, e.Name, err)
		}
		names[f.CanonicalName] = true
	}
	return names, nil
}

// Advance takes every step that a case or an incident is due. An error is transient.
func (r *Responder) Advance(ctx context.Context, id string) error {
	switch {
	case caselog.IsIncident(id):
		return r.advanceIncident(ctx, id)
	case caselog.IsDigest(id):
		return r.sendDigest(ctx, id)
	}
	w := r.newRun()
	var err error
	if w.log, err = r.Log.Read(ctx, id, w.holder); err != nil {
		return err
	}
	incident, advanced := w.advance(ctx)
	if incident == "" {
		return advanced
	}
	return errors.Join(advanced, w.refresh(ctx, incident))
}

// advance takes the steps of the case; it returns the incident that shows them.
func (w *run) advance(ctx context.Context) (incident string, err error) {
	c, err := w.fold()
	if err != nil {
		return "", err
	}
	if w.log.IsClosed() {
		return c.Incident, w.reopen(ctx)
	}
	if w.log.LeasedByOther() {
		return c.Incident, fmt.Errorf("case %q: %w", c.ID, ErrBusy)
	}
	if len(w.log.Events()) == 0 {
		return "", w.openNamed(ctx)
	}
	if err := w.knowPage(ctx, c); err != nil {
		return c.Incident, err
	}
	next, err := w.lookAtHolds(ctx)
	if err != nil {
		return c.Incident, err
	}
	if err := w.cycle(ctx); err != nil || next.IsZero() || w.log.IsClosed() {
		return c.Incident, err
	}
	return c.Incident, w.wakeForHolds(ctx, next) // one may be lost, and the other still in force
}

// openNamed opens a case to which a finding was assigned, and which has no event yet: the
// finding is delivered as if it came now.
func (w *run) openNamed(ctx context.Context) error {
	entries, err := w.Log.Occurrences(ctx, w.log.ID, "", nil)
	if err != nil || len(entries) == 0 {
		return err
	}
	var f finding.Finding
	if err := json.Unmarshal(entries[0].Body, &f); err != nil {
		return fmt.Errorf("case %q, occurrence %q: %w", w.log.ID, entries[0].Name, err)
	}
	_, err = w.Finding(ctx, f)
	return err
}

func (r *Responder) advanceIncident(ctx context.Context, id string) error {
	log, err := r.Log.Read(ctx, id, r.LeaseOwner())
	if err != nil {
		return err
	}
	t := &telling{Responder: r, log: log}
	before := len(log.Events())
	if err := t.cycle(ctx); err != nil || before == 0 {
		return err
	}
	return t.advanceClicked(ctx)
}

// A kubelet that restarts what is frozen does so soon: that is when it is looked at often.
const (
	holdCheck      = time.Minute
	holdCheckLater = 15 * time.Minute
	holdYoung      = 10 * time.Minute
)

// nextHoldCheck returns when to check whether what contains the pod is still in effect; zero
// when nothing contains it, or it cannot be checked.
func (r *Responder) nextHoldCheck(c cases.Case) (at time.Time) {
	if r.CheckHolds == nil || c.Decided.Finding.Pod.Name == "" {
		return at
	}
	for _, held := range []string{cases.Freeze, cases.Isolate} {
		if !c.InForce(held) || held == cases.Isolate && c.IsolationBroken != "" {
			continue
		}
		next := r.Now().Add(holdCheck)
		if r.Now().Sub(c.Done(held).At) > holdYoung {
			next = r.Now().Add(holdCheckLater)
		}
		if at.IsZero() || next.Before(at) {
			at = next
		}
	}
	return at
}

// lookAtHolds checks whether the kubelet has restarted what we froze, or somebody has
// opened what we isolated, and returns when to look again.
func (w *run) lookAtHolds(ctx context.Context) (next time.Time, err error) {
	c, err := w.fold()
	if err != nil {
		return next, err
	}
	next = w.nextHoldCheck(c)
	gone := c.RemovalDeadline()
	look := w.Responder.CheckHolds != nil && !gone.IsZero() && w.Now().After(gone) && w.Now().Sub(gone) < seeGoneFor
	if next.IsZero() && !look {
		return next, nil
	}
	ctx, cancel := context.WithTimeout(ctx, cases.StepDeadline)
	defer cancel()
	w.lostHold = w.Responder.CheckHolds(ctx, c)
	return next, nil
}

// seeGoneFor is how long it is looked whether a pod that was removed has gone: a sweep
// may be late.
const seeGoneFor = 6 * time.Hour

// wakeForHolds has the holds checked at a time, unless they are before: every check asks
// for the next, and they must not multiply.
func (w *run) wakeForHolds(ctx context.Context, at time.Time) error {
	ahead, err := w.Log.WakesWithin(ctx, w.log.ID, w.Now(), at)
	if err != nil || ahead {
		return err
	}
	return w.Log.WakeAt(ctx, w.log.ID, at)
}

// Wait is what a case waits for: nothing when Done, else for a click, at most For.
type Wait struct {
	Done bool
	For  time.Duration
	Why  string
}

// Bounds of one wait. What is due earlier than a wake says is never missed: the
// sweep looks too.
const (
	shortestWait = 5 * time.Second
	longestWait  = 24 * time.Hour
	// longestDriven is well within Workflows' limits: a year, and a hundred thousand steps,
	// of which a day of waiting takes eight.
	longestDriven = 300 * 24 * time.Hour
)

// AdvanceFor is Advance for a workflow's execution that drives the case and can be
// resumed at callback; both are "" for other callers. One execution drives a case:
// any other gets Done.
func (r *Responder) AdvanceFor(ctx context.Context, caseID, execution, callback string) (Wait, error) {
	if execution != "" {
		claimed, err := r.Log.ClaimExecution(ctx, caseID, execution)
		if err != nil {
			return Wait{}, err
		}
		if !claimed {
			return Wait{Done: true, Why: "another execution has the case"}, nil
		}
	}
	if callback != "" { // before anything is read: a click from now on resumes it
		if err := r.Log.SetCallback(ctx, caseID, callback); err != nil {
			return Wait{}, err
		}
	}
	if err := r.Advance(ctx, caseID); err != nil {
		return Wait{}, err
	}
	return r.Waits(ctx, caseID)
}

// Waits returns for how long nothing is due in a case.
func (r *Responder) Waits(ctx context.Context, caseID string) (Wait, error) {
	file, err := r.Log.Read(ctx, caseID, r.LeaseOwner())
	if err != nil {
		return Wait{}, err
	}
	if len(file.Events()) == 0 {
		return Wait{Done: true, Why: "no such case"}, nil
	}
	c, err := cases.Fold(caseID, file.Events())
	if err != nil {
		return Wait{}, err
	}
	if c.Closed != nil {
		return Wait{Done: true, Why: "closed: " + c.Closed.Resolution}, nil
	}
	now, next := r.Now(), r.Now().Add(longestWait)
	if now.Sub(c.Opened) > longestDriven {
		return Wait{Done: true, Why: "left to the sweep: an execution lives a year at most"}, nil
	}
	for _, at := range r.looks(c) {
		if at.After(now) && at.Before(next) {
			next = at
		}
	}
	return Wait{For: max(shortestWait, next.Sub(now))}, nil
}

// looks are the times at which a step may become due with time alone.
func (r *Responder) looks(c cases.Case) (out []time.Time) {
	for _, claim := range c.Claims {
		if a := claim.Outcome; a != nil {
			out = append(out, a.RetryAt, a.Until, a.RestartsAt.Add(restartSlack))
		}
	}
	// (The sweep checks whether a hold is still in effect: done by the workflow as well it would
	// take it to its limit of steps.)
	if at := c.RemovalDeadline(); !at.IsZero() && r.CheckHolds != nil {
		out = append(out, at.Add(time.Second))
	}
	for _, at := range c.RecheckTimes() {
		out = append(out, at.Add(time.Second))
	}
	if e := c.Escalated; e != nil && !e.RetryAt.IsZero() {
		out = append(out, e.RetryAt.Add(time.Second))
	}
	if at := c.ReportRetry.RetryAt; !at.IsZero() {
		out = append(out, at.Add(time.Second))
	}
	if c.Incident == "" && c.Asking() && c.Reminded == nil {
		out = append(out, c.DecidedAt().Add(remindAfter+time.Second))
	}
	return out
}
