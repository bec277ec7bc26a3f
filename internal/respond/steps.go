package respond

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/retry"
)

// step is something that a case is due.
type step struct {
	name string
	take func(ctx context.Context, w *run, c cases.Case) error
}

// due are the steps that a case is due now; they do not depend on each other
// and are taken at once. A step that failed for good is on record and not due.
// lost says what is no more of what holds the pod, as was just seen.
func (r *Responder) due(c cases.Case, lost cases.Lost) []step {
	d := c.Decided.Decision
	var steps []step
	if d.Includes(cases.Escalate) && c.Escalated == nil {
		steps = append(steps, step{"escalate", escalate})
	}
	if c.PageDue(r.Now()) {
		steps = append(steps, step{"page", page})
	}
	if c.WorseReminderDue() {
		steps = append(steps, step{"tell that it is graver", func(ctx context.Context, w *run, c cases.Case) error { return remind(ctx, w, c, true) }})
	}
	if c.Asking() && c.Reminded == nil && r.Now().After(c.DecidedAt().Add(remindAfter)) {
		steps = append(steps, step{"tell again", func(ctx context.Context, w *run, c cases.Case) error { return remind(ctx, w, c, false) }})
	}
	if times := c.RecheckTimes(); len(times) > 0 && r.Now().After(times[0]) {
		steps = append(steps, step{"ask the sources again", recheckVerdict})
	}
	if until := freezeEnd(c); !until.IsZero() && r.Now().After(until) {
		steps = append(steps, step{"expire", expire})
	}
	if lost.Why != "" && (cases.Destroys(lost.Action) && c.RemovalStuck == "" || lost.Action == "" && c.Frozen() || lost.Action == cases.Isolate && c.InForce(cases.Isolate) && c.IsolationBroken == "") {
		steps = append(steps, step{"tell that a hold is lost", func(ctx context.Context, w *run, _ cases.Case) error { return recordLost(ctx, w, lost) }})
	}
	if action, click := nextAction(c, r.Now()); action != "" {
		steps = append(steps, step{action, func(ctx context.Context, w *run, c cases.Case) error { return act(ctx, w, c, action, click) }})
	}
	if len(steps) > 0 {
		return steps
	}
	// Only what has come to rest is reported, once, instead of after every event.
	if closing := closingOf(c); closing != nil {
		return []step{{"close", func(ctx context.Context, w *run, c cases.Case) error { return closeCase(ctx, w, c, *closing) }}}
	}
	if r.StartWorkflow != nil && c.WorkflowStarted == nil {
		steps = append(steps, step{"start the wait", drive})
	}
	if r.SCC != nil && c.Reported != c.Status() {
		steps = append(steps, step{"report", report})
	}
	if c.Paged != nil && c.Paged.Error == "" && c.Paged.Digest != r.Pager.Digest(c) {
		steps = append(steps, step{"edit the page", edit})
	}
	return steps
}

// maxTries bounds how often an action is tried that was put off, such as an
// eviction that a disruption budget does not allow yet.
const maxTries = 30

// nextAction is the containment that is due, and the click that asks for it: the
// undoing that a person asked for or that has come by time; then what the policy
// asks for, in its order, each after the one before has ended.
func nextAction(c cases.Case, now time.Time) (action, click string) {
	if release := accepted(c, cases.ActionRelease); release != "" {
		for _, held := range []string{cases.Cordon, cases.Isolate, cases.Freeze} {
			if undo := dueUndoing(c, held, release, now); undo != "" {
				return undo, release
			}
		}
	}
	if end := ending(c); end != nil {
		return dueUndoing(c, cases.Cordon, end.ID, now), end.ID // nothing new is begun
	}
	// One that is about to last longer is not over: its claim is finished first.
	if over := c.Done(cases.Isolate); c.InForce(cases.Isolate) && c.Claim(cases.Isolate).Outcome != nil && !over.Until.IsZero() && now.After(over.Until) && !c.Decided.Decision.FallbackOnExpiry {
		if undo := dueUndoing(c, cases.Isolate, "", now); undo != "" {
			return undo, ""
		}
	}
	if evict := dueEviction(c, now); evict != "" { // also where the release has failed
		return cases.Evict, evict
	}
	if accepted(c, cases.ActionRelease) != "" {
		return "", "" // what was released is not taken again
	}
	if held, click := dueExtension(c); held != "" {
		return held, click
	}
	wanted := c.Decided.Decision.Do
	if !c.Approved() {
		wanted = nil
	}
	if c.Approved() && c.FallbackReason(now) != "" {
		wanted = slices.Concat(wanted, c.Decided.Decision.Fallback)
	}
	for _, action := range cases.InOrder(wanted) {
		if cases.Destroys(action) && putOff(c, cases.Evidence) {
			continue // the evidence may still come
		}
		if isDue(c, action, now) {
			return action, ""
		}
	}
	return "", ""
}

// dueEviction answers the click that asks for an eviction that is due.
func dueEviction(c cases.Case, now time.Time) (click string) {
	evict := accepted(c, cases.ActionEvict)
	if evict == "" {
		return ""
	}
	if claim := c.Claim(cases.Evict); claim == nil || claim.Click != evict && claim.Outcome != nil && !claim.Outcome.Done || isDue(c, cases.Evict, now) {
		return evict
	}
	return ""
}

// dueExtension answers the hold that a person wants to last longer, and the click:
// it is claimed again, which only moves its end.
func dueExtension(c cases.Case) (held, click string) {
	extend := accepted(c, cases.ActionExtend)
	if extend == "" {
		return "", ""
	}
	for _, held := range []string{cases.Freeze, cases.Isolate} {
		claim := c.Claim(held)
		if claim != nil && (c.InForce(held) && claim.Click != extend || claim.Click == extend && claim.Outcome == nil) {
			return held, extend
		}
	}
	return "", ""
}

// isDue tells whether an action was never begun, was not finished, or was put off
// until now.
func isDue(c cases.Case, action string, now time.Time) bool {
	claim := c.Claim(action)
	if claim == nil || claim.Outcome == nil || !c.Current(claim) {
		return true
	}
	tries := 0
	for _, other := range c.Claims {
		if other.Action == action {
			tries++
		}
	}
	return !claim.Outcome.RetryAt.IsZero() && now.After(claim.Outcome.RetryAt) && tries < maxTries
}

// putOff tells whether an action was not done, and is to be tried again.
func putOff(c cases.Case, action string) bool {
	claim := c.Claim(action)
	return claim != nil && c.Current(claim) && claim.Outcome != nil && !claim.Outcome.Done && !claim.Outcome.RetryAt.IsZero()
}

// dueUndoing answers what undoes a hold that is in force or half made. One that
// failed is tried again when its time has come, or when somebody asks again.
func dueUndoing(c cases.Case, held, click string, now time.Time) string {
	undo := cases.UndoOf(held)
	claim, undone := c.Claim(held), c.Claim(undo)
	if claim == nil {
		return ""
	}
	if undone != nil && undone.N > claim.N && undone.Outcome == nil {
		return undo
	}
	tried := slices.ContainsFunc(c.Claims, func(k cases.Claim) bool {
		return k.Action == undo && k.N > claim.N && k.Click == click
	})
	again := tried && undone.Click == click && putOff(c, undo) && isDue(c, undo, now)
	if (claim.Unresolved() || c.InForce(held)) && (!tried || again) {
		return undo
	}
	return ""
}

// accepted answers the latest click of a kind that was not refused.
func accepted(c cases.Case, what string) (click string) {
	for _, k := range slices.Backward(c.Clicks) {
		if k.What == what && k.Refused == "" {
			return k.ID
		}
	}
	return ""
}

func closingOf(c cases.Case) *cases.Closed {
	if c.Closed != nil {
		return nil
	}
	if k := ending(c); k != nil && len(c.Holds()) == 0 { // what could not be undone keeps it open
		return &cases.Closed{Resolution: cases.Resolution(k.What), By: k.By}
	}
	if id := accepted(c, cases.ActionRelease); id != "" && c.Released() {
		i := slices.IndexFunc(c.Clicks, func(k cases.Click) bool { return k.ID == id })
		return &cases.Closed{Resolution: "released", By: c.Clicks[i].By}
	}
	return nil
}

// ending is the latest accepted click that closes the case, or nil.
func ending(c cases.Case) *cases.Click {
	for i := range slices.Backward(c.Clicks) {
		if k := &c.Clicks[i]; cases.Resolution(k.What) != "" && k.Refused == "" {
			return k
		}
	}
	return nil
}

// steps takes what is due until nothing is. One step's failure does not keep
// the others from being taken.
func (w *run) steps(ctx context.Context) error {
	for {
		c, err := w.fold()
		if err != nil {
			return err
		}
		due := w.due(c, w.lostHold)
		if len(due) == 0 || w.log.IsClosed() {
			return nil
		}
		errs := make([]error, len(due))
		var wg sync.WaitGroup
		for i, s := range due {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(ctx, cases.StepDeadline)
				defer cancel()
				errs[i] = s.take(ctx, w, c)
			})
		}
		wg.Wait()
		w.lostHold = cases.Lost{} // it was of what held the pod before
		if err := errors.Join(errs...); err != nil {
			return errors.Join(err, w.show(ctx))
		}
	}
}

// show has the page and SCC say how far it came where a step has failed: what is tried
// again for hours is not hidden meanwhile.
func (w *run) show(ctx context.Context) error {
	c, err := w.fold()
	if err != nil || w.log.IsClosed() {
		return err
	}
	var errs []error
	if c.Paged != nil && c.Paged.Error == "" && c.Paged.Digest != w.Pager.Digest(c) {
		errs = append(errs, edit(ctx, w, c))
	}
	if w.SCC != nil && c.Reported != c.Status() {
		errs = append(errs, report(ctx, w, c))
	}
	return errors.Join(errs...)
}

func escalate(ctx context.Context, w *run, c cases.Case) error {
	if w.SCC == nil {
		_, err := w.log.Append(ctx, cases.KindEscalated, cases.Escalated{Error: "no SCC source is configured: the escalation lives in the case and on the page"})
		return err
	}
	name, err := w.SCC.Escalate(ctx, c, c.Opened)
	body := cases.Escalated{Finding: name}
	if err != nil {
		if !retry.IsRefused(err) {
			return err
		}
		body = cases.Escalated{Error: err.Error()}
	}
	_, err = w.log.Append(ctx, cases.KindEscalated, body)
	return err
}

func page(ctx context.Context, w *run, c cases.Case) error {
	p, err := w.Pager.Post(ctx, c, !w.opened)
	if err != nil && retry.ClassOf(err) == retry.Transient {
		w.opened = false // it may have arrived all the same
		return err
	}
	if err != nil {
		p = w.notPaged(ctx, c, p, err)
	}
	if err := w.wakeForLater(ctx, c); err != nil {
		return err
	}
	return w.recordPaged(ctx, p)
}

// notPaged returns the record of a page that no channel took: it is sent again with
// growing pauses, for days, until somebody has mended the cause.
func (w *run) notPaged(ctx context.Context, c cases.Case, p cases.Paged, err error) cases.Paged {
	slog.ErrorContext(ctx, "nobody was paged", "case", c.ID, "error", err)
	p.Error = err.Error()
	if c.Paged != nil {
		p.Tries = c.Paged.Tries
	}
	p.RetryAt = w.Now().Add(pagePauses[min(p.Tries, len(pagePauses)-1)]).UTC()
	p.Tries++
	return p
}

// pagePauses lie between the tries of a page that no channel took.
var pagePauses = []time.Duration{time.Minute, 5 * time.Minute, 30 * time.Minute, time.Hour, 6 * time.Hour}

// recordPaged records what the channels answered, and has the case looked at when one is
// to be tried again.
func (w *run) recordPaged(ctx context.Context, p cases.Paged) error {
	if at := p.NextRetry(); !at.IsZero() {
		if err := w.Log.WakeAt(ctx, w.log.ID, at.Add(time.Second)); err != nil {
			return err
		}
	}
	_, err := w.log.Append(ctx, cases.KindPaged, p)
	return err
}

// wakeForLater has somebody look when the sources are to be asked again and when an
// answer has been waited for long enough.
func (w *run) wakeForLater(ctx context.Context, c cases.Case) error {
	wakes := c.RecheckTimes()
	if c.Asking() {
		wakes = append(wakes, c.DecidedAt().Add(remindAfter))
	}
	for _, at := range wakes {
		if err := w.Log.WakeAt(ctx, c.ID, at.Add(time.Second)); err != nil {
			return err
		}
	}
	return nil
}

// judgeLater asks the indicator sources again about bytes that they did not know. A
// graver verdict decides anew.
func recheckVerdict(ctx context.Context, w *run, c cases.Case) error {
	f := c.Decided.Finding
	v := w.Verdicts.Finding(ctx, f)
	if !v.Level.WorseThan(c.Decided.Verdict.Level) {
		_, err := w.log.Append(ctx, cases.KindRechecked, v)
		return err
	}
	d := cases.Decided{Key: c.Decided.Key, Finding: f, Facts: c.Decided.Facts, Verdict: v, Decision: w.Policy.Decide(f, v), Received: w.received, Recheck: true}
	_, err := w.log.Append(ctx, cases.KindDecided, d)
	return err
}

// remindAfter is how long an answer is waited for before people are told again.
const remindAfter = 30 * time.Minute

// tellAgain tells again what nobody has answered, or what is graver than was told. It
// never acts.
func remind(ctx context.Context, w *run, c cases.Case, graver bool) error {
	if graver { // what was decided later is waited for anew
		if err := w.wakeForLater(ctx, c); err != nil {
			return err
		}
	}
	ts, err := w.Pager.Remind(ctx, c, graver)
	body := cases.Reminded{Timestamp: ts, Worse: graver}
	if err != nil {
		if !retry.IsRefused(err) {
			return err
		}
		body.Error = err.Error()
	}
	_, err = w.log.Append(ctx, cases.KindReminded, body)
	return err
}

func edit(ctx context.Context, w *run, c cases.Case) error {
	p, err := w.Pager.Edit(ctx, c)
	if err != nil {
		if !retry.IsRefused(err) {
			return err
		}
		p.Error = err.Error()
	}
	return w.recordPaged(ctx, p)
}

func report(ctx context.Context, w *run, c cases.Case) error {
	body := cases.Reported{Status: c.Status()}
	if err := w.SCC.Report(ctx, c, w.Link(c.ID)); err != nil {
		if !retry.IsRefused(err) {
			return err
		}
		body.Error = err.Error()
	}
	_, err := w.log.Append(ctx, cases.KindReported, body)
	return err
}

// act records the claim, has it carried out, and records what came of it. A
// claim without an end is carried out again: under the same number it is the
// same order.
func act(ctx context.Context, w *run, c cases.Case, action, click string) error {
	n := 0
	if claim := c.Claim(action); claim != nil && claim.Outcome == nil {
		n = claim.N
	} else {
		e, err := w.log.Append(ctx, cases.KindClaimed, claimOf(c, action, click))
		if err != nil {
			return err
		}
		n = e.N
	}
	acted, err := w.Contain(ctx, c.ID, n)
	if err != nil {
		claim := c.Claim(action)
		tried := claim != nil && claim.N == n && w.Now().Sub(claim.At) > giveUpAfter
		if !retry.IsRefused(err) && !tried {
			return err
		}
		acted = cases.Outcome{Claim: n, Action: action, Error: err.Error(), At: w.Now().UTC(), Unknown: !retry.IsRefused(err)}
	}
	looks := []time.Time{acted.Until, acted.RetryAt} // somebody has to look then
	if !acted.RestartsAt.IsZero() {
		looks = append(looks, acted.RestartsAt.Add(restartSlack))
	}
	if (action == cases.Freeze || action == cases.Isolate) && acted.Done && w.CheckHolds != nil {
		looks = append(looks, w.Now().Add(holdCheck))
	}
	if cases.Destroys(action) && acted.Done && w.CheckHolds != nil {
		c.Claims = append(slices.Clone(c.Claims), cases.Claim{N: n, Claimed: cases.Claimed{Action: action}, Outcome: &acted})
		looks = append(looks, c.RemovalDeadline())
	}
	for _, at := range looks {
		if at.IsZero() {
			continue
		}
		if err := w.Log.WakeAt(ctx, c.ID, at.Add(time.Second)); err != nil { // and then it is due
			return err
		}
	}
	_, err = w.log.Append(ctx, cases.KindActed, acted)
	return err
}

// giveUpAfter is how long one claim is tried that fails in a way that may pass: then
// it is told as failed, and what comes after it is done.
const giveUpAfter = 24 * time.Hour

// restartSlack is what a kubelet may take to tell of a restart.
const restartSlack = 3 * time.Second

// claimOf is about what the finding names; where it names less, what the cluster
// said when it was decided.
func claimOf(c cases.Case, action, click string) cases.Claimed {
	f := c.Decided.Finding
	return cases.Claimed{Action: action, ContainerID: c.ContainerID(), Node: f.Node, SHA256: f.Process.SHA256, PodUID: c.PodUID(), Click: click}
}

// freezeEnd is when the case's freeze ends by itself; zero when nothing is frozen.
func freezeEnd(c cases.Case) time.Time {
	if !c.Frozen() {
		return time.Time{}
	}
	return c.Done(cases.Freeze).Until
}

// expire records what the node has done by itself.
func expire(ctx context.Context, w *run, _ cases.Case) error {
	_, err := w.log.Append(ctx, cases.KindExpired, nil)
	return err
}

func recordLost(ctx context.Context, w *run, lost cases.Lost) error {
	_, err := w.log.Append(ctx, cases.KindLost, lost)
	return err
}

// drive has a workflow wait for the case. Without one the sweep goes on with it, a
// little later: that it could not be started holds nothing up.
func drive(ctx context.Context, w *run, c cases.Case) error {
	execution, err := w.StartWorkflow(ctx, c.ID)
	body := cases.WorkflowStarted{Execution: execution}
	if err != nil {
		body.Error = err.Error()
	}
	_, err = w.log.Append(ctx, cases.KindWorkflowStarted, body)
	return err
}

// closeCase shows the end everywhere first: a closed case takes no more events.
func closeCase(ctx context.Context, w *run, c cases.Case, end cases.Closed) error {
	for _, claim := range c.Claims { // a hold without an end was undone, or the case would not close
		if claim.Outcome != nil || cases.UndoOf(claim.Action) != "" || cases.UndoneBy(claim.Action) != "" {
			continue
		}
		unknown := cases.Outcome{Claim: claim.N, Action: claim.Action, At: w.Now().UTC(), Error: "the case was ended first: it may have taken effect or not"}
		if _, err := w.log.Append(ctx, cases.KindActed, unknown); err != nil {
			return err
		}
	}
	ended := c
	ended.Closed, ended.Updated = &end, w.Now().UTC()
	if w.SCC != nil && end.ClosesFinding() {
		if err := w.SCC.Deactivate(ctx, ended); err != nil && !retry.IsRefused(err) {
			return err
		}
	}
	if w.SCC != nil {
		if err := w.SCC.Report(ctx, ended, w.Link(c.ID)); err != nil && !retry.IsRefused(err) {
			return err
		}
	}
	if c.Paged != nil && c.Paged.Error == "" {
		if _, err := w.Pager.Edit(ctx, ended); err != nil && !retry.IsRefused(err) {
			return err // the end is shown, unless it can never be
		}
	}
	_, err := w.log.Close(ctx, end)
	return err
}
