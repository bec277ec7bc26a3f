// Package respond owns the playbook: which steps a case is due and in which
// order. It is the only room that knows them all. It knows no wire format: it
// is handed findings and case ids, and hands work to the rooms that do it.
package respond

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/cases/caselog"
	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/internal/policy"
)

// ErrBusy means that somebody else is at work on the case: try again later.
var ErrBusy = errors.New("the case is being worked on")

// Facts gathers what an analyst would look up; it never fails as a whole.
type Facts interface {
	Facts(ctx context.Context, f finding.Finding) cases.Facts
}

// Judge says what is known of the bytes; it never fails as a whole.
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

// Pager tells people.
type Pager interface {
	Post(ctx context.Context, c cases.Case, again bool) (cases.Paged, error)
	Edit(ctx context.Context, c cases.Case) (cases.Paged, error)
	// Remind tells again, once a decision, that an answer is waited for, or that it is
	// graver than the page said.
	Remind(ctx context.Context, c cases.Case, graver bool) (timestamp string, err error)
	Digest(c cases.Case) string
}

// Responder takes the steps.
type Responder struct {
	Log      *caselog.Store // required
	Facts    Facts          // required
	Verdicts Verdicts       // required
	Policy   *policy.Policy // required
	Pager    Pager          // required
	// SCC is nil where no source of our own is configured: escalation then lives
	// in the case and on the page alone.
	SCC Escalator
	// Act has a recorded claim carried out by the Contain function. Required.
	Contain func(ctx context.Context, caseID string, n int) (cases.Outcome, error)
	// Lost says what is no more of what holds a pod, and why; its Why is "" when all
	// holds as far as can be seen. nil: nobody can see.
	CheckHolds func(ctx context.Context, c cases.Case) cases.Lost
	// Has tells whether a container is one of the case's pod, by the API server's word.
	// nil: nobody can see, and a finding's word is taken.
	HasContainer func(ctx context.Context, c cases.Case, containerID string) (bool, error)
	// Drive starts a workflow that waits for what a case needs, and answers its
	// execution. nil: none is configured, and the sweep alone goes on with cases.
	StartWorkflow func(ctx context.Context, caseID string) (execution string, err error)
	// Source is our own source's name; our escalations in it never re-enter.
	Source string
	// Holder names one invocation. Required.
	LeaseOwner func() string
	// Link is the casebook's page of a case. Required.
	Link func(caseID string) string
	// Now is the clock. Required.
	Now func() time.Time
}

// Outcome is what became of a finding: exactly one field is set.
type Result struct {
	Case         string `json:"case,omitempty"`
	Acknowledged string `json:"acknowledged,omitempty"` // why nothing is to be done
	DeadLettered string `json:"deadLettered,omitempty"` // why nothing can be done
}

// Finding takes a finding as far as it goes now. An error is transient: the
// same finding again goes on where this one ended.
func (r *Responder) Finding(ctx context.Context, f finding.Finding) (Result, error) {
	switch {
	case f.Category == finding.AddedMaliciousBinary && f.Of(r.Source):
		return Result{Acknowledged: "our own escalation"}, nil
	case f.Kind() == finding.Other:
		return Result{Acknowledged: fmt.Sprintf("category %q is not about a program in a container", f.Category)}, nil
	case f.Closed():
		return r.over(ctx, f)
	case f.Muted():
		return Result{Acknowledged: "the finding is muted"}, nil
	}
	return r.active(ctx, f)
}

func (r *Responder) active(ctx context.Context, f finding.Finding) (Result, error) {
	w := &run{Responder: r, holder: r.LeaseOwner(), received: r.Now().UTC()}
	var learnt cases.Decided
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { // reads need no claim: they run beside the bucket's round trips
		learnt = w.assess(gctx, f)
		return nil
	})
	var fresh bool
	g.Go(func() (err error) {
		w.log, fresh, err = w.join(gctx, f)
		return err
	})
	if err := g.Wait(); err != nil {
		return Result{}, err
	}
	outcome, err := w.workOrLeave(ctx, f, &learnt, fresh)
	if errors.Is(err, caselog.ErrClosed) {
		return Result{}, fmt.Errorf("it closed meanwhile; the next delivery opens its next episode: %w", err)
	}
	return outcome, err
}

// workOrLeave goes on with the case, unless another has it in hand.
func (w *run) workOrLeave(ctx context.Context, f finding.Finding, learnt *cases.Decided, fresh bool) (Result, error) {
	outcome := Result{Case: w.log.ID}
	if w.log.IsClosed() {
		return outcome, nil // a redelivery of what that case dealt with
	}
	if w.log.LeasedByOther() {
		// The occurrence is on record. Had the holder given the case back before
		// it was, and looked in vain, this second reading shows it.
		if err := w.log.Reload(ctx); err != nil {
			return Result{}, err
		}
		if w.log.LeasedByOther() {
			c, err := w.fold()
			if err != nil {
				return Result{}, err
			}
			if fresh || c.Handled[f.Key()] {
				// The holder has it, or looks before it leaves; should it die instead,
				// the case is looked at when its lease has ended.
				return outcome, w.Log.WakeAt(ctx, w.log.ID, w.log.LeasedUntil())
			}
			return Result{}, fmt.Errorf("case %q: %w", w.log.ID, ErrBusy) // it may have died: come again
		}
	}
	return outcome, w.cycle(ctx, learnt)
}

// over ends the open case of a finding that SCC says is over.
func (r *Responder) over(ctx context.Context, f finding.Finding) (Result, error) {
	why := "the finding is " + f.State
	if f.Deleted {
		why = "the finding is deleted"
	}
	file, err := r.Log.Latest(ctx, f.CaseKey(""), r.LeaseOwner(), ofSamePod(f))
	if err != nil {
		return Result{}, err
	}
	if len(file.Events()) == 0 {
		return Result{Acknowledged: why + ", and no case is open for it"}, nil
	}
	c, err := cases.Fold(file.ID, file.Events())
	if err != nil {
		return Result{}, err
	}
	if f.EventTime.Before(c.First) {
		return Result{Acknowledged: why + ", and what the open case is about came later"}, nil
	}
	names, err := r.findingsOf(ctx, file.ID)
	if err != nil {
		return Result{}, err
	}
	if !names[f.CanonicalName] {
		return Result{Acknowledged: why + ", and the open case about the same is not of it"}, nil
	}
	if len(names) > 1 {
		return Result{Case: file.ID}, nil // others keep it open
	}
	if file.LeasedByOther() {
		return Result{}, fmt.Errorf("case %q: %w", file.ID, ErrBusy)
	}
	// The word of SCC is a click like a person's: the case goes its usual way to the end.
	body, err := json.Marshal(cases.Click{ID: "scc-" + f.Key()[:32], What: cases.ActionClose, By: "Security Command Center (" + why + ")", At: r.Now().UTC()})
	if err != nil {
		return Result{}, err
	}
	if err := r.Log.Click(ctx, file.ID, "scc-"+f.Key()[:32], body); err != nil {
		return Result{}, err
	}
	return Result{Case: file.ID}, r.Advance(ctx, file.ID)
}

// findingsOf answers the canonical names of the findings that joined a case.
func (r *Responder) findingsOf(ctx context.Context, caseID string) (map[string]bool, error) {
	entries, err := r.Log.Occurrences(ctx, caseID, nil)
	if err != nil {
		return nil, err
	}
	names := map[string]bool{}
	for _, e := range entries {
		var f finding.Finding
		if err := json.Unmarshal(e.Body, &f); err != nil {
			return nil, fmt.Errorf("case %q, occurrence %q: %w", caseID, e.Name, err)
		}
		names[f.CanonicalName] = true
	}
	return names, nil
}

// Advance takes every step that a case is due. An error is transient.
func (r *Responder) Advance(ctx context.Context, caseID string) error {
	w := &run{Responder: r, holder: r.LeaseOwner(), received: r.Now().UTC()}
	var err error
	if w.log, err = r.Log.Read(ctx, caseID, w.holder); err != nil {
		return err
	}
	if w.log.IsClosed() {
		return w.reopen(ctx)
	}
	if w.log.LeasedByOther() {
		return fmt.Errorf("case %q: %w", caseID, ErrBusy)
	}
	if len(w.log.Events()) > 0 {
		next, err := w.lookAtHolds(ctx)
		if err != nil {
			return err
		}
		if err := w.cycle(ctx, nil); err != nil || next.IsZero() || w.log.IsClosed() {
			return err
		}
		return w.wakeForHolds(ctx, next) // one may hold no more, and the other still
	}
	// Named, but never opened: its finding is on record.
	entries, err := r.Log.Occurrences(ctx, caseID, nil)
	if err != nil || len(entries) == 0 {
		return err
	}
	var f finding.Finding
	if err := json.Unmarshal(entries[0].Body, &f); err != nil {
		return fmt.Errorf("case %q, occurrence %q: %w", caseID, entries[0].Name, err)
	}
	learnt := w.assess(ctx, f)
	return w.cycle(ctx, &learnt)
}

// A kubelet that restarts what is frozen does so soon: that is when it is looked at often.
const (
	holdCheck      = time.Minute
	holdCheckLater = 15 * time.Minute
	holdYoung      = 10 * time.Minute
)

// nextHoldCheck is when somebody is to look whether what holds the pod still does;
// zero when nothing holds it, or nobody can see.
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

// lookAtHolds sees whether the kubelet has restarted what we froze, or somebody has
// opened what we isolated, and answers when somebody is to look again.
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

// wakeForHolds has somebody look at a time, unless somebody does so before: every look
// asks for the next, and they must not become more.
func (w *run) wakeForHolds(ctx context.Context, at time.Time) error {
	ahead, err := w.Log.WakesWithin(ctx, w.log.ID, w.Now(), at)
	if err != nil || ahead {
		return err
	}
	return w.Log.WakeAt(ctx, w.log.ID, at)
}

// Wait is what a case waits for: nothing when Done, else for a press, at most For.
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
// resumed at callback; both are "" for anybody else. One execution drives a case:
// another is told that it is done.
func (r *Responder) AdvanceFor(ctx context.Context, caseID, execution, callback string) (Wait, error) {
	if execution != "" {
		ours, err := r.Log.ClaimExecution(ctx, caseID, execution)
		if err != nil {
			return Wait{}, err
		}
		if !ours {
			return Wait{Done: true, Why: "another execution drives the case"}, nil
		}
	}
	if callback != "" { // before anything is looked at: who presses from now on resumes it
		if err := r.Log.SetCallback(ctx, caseID, callback); err != nil {
			return Wait{}, err
		}
	}
	if err := r.Advance(ctx, caseID); err != nil {
		return Wait{}, err
	}
	return r.Waits(ctx, caseID)
}

// Waits answers for how long nothing is due in a case.
func (r *Responder) Waits(ctx context.Context, caseID string) (Wait, error) {
	file, err := r.Log.Read(ctx, caseID, r.LeaseOwner())
	if err != nil {
		return Wait{}, err
	}
	if len(file.Events()) == 0 {
		return Wait{Done: true, Why: "there is no such case"}, nil
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
		return Wait{Done: true, Why: "it is left to the sweep: an execution lives a year at most"}, nil
	}
	for _, at := range r.looks(c) {
		if at.After(now) && at.Before(next) {
			next = at
		}
	}
	return Wait{For: max(shortestWait, next.Sub(now))}, nil
}

// looks are the times at which a step may become due without anybody's doing.
func (r *Responder) looks(c cases.Case) (out []time.Time) {
	for _, claim := range c.Claims {
		if a := claim.Outcome; a != nil {
			out = append(out, a.RetryAt, a.Until, a.RestartsAt.Add(restartSlack))
		}
	}
	// (Whether a hold still holds the sweep looks: asked for by the workflow as well it would
	// take it to its limit of steps.)
	if at := c.RemovalDeadline(); !at.IsZero() && r.CheckHolds != nil {
		out = append(out, at.Add(time.Second))
	}
	for _, at := range c.RecheckTimes() {
		out = append(out, at.Add(time.Second))
	}
	if c.Asking() && c.Reminded == nil {
		out = append(out, c.DecidedAt().Add(remindAfter+time.Second))
	}
	return out
}
