package respond

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/contraband-dev/contraband/internal/docket"
	"github.com/contraband-dev/contraband/internal/retry"
)

// step is something that a case is due.
type step struct {
	name string
	take func(ctx context.Context, w *work, c docket.Case) error
}

// due are the steps that a case is due now; they do not depend on each other
// and are taken at once. A step that failed for good is on record and not due.
// lost says what is no more of what holds the pod, as was just seen.
func (r *Responder) due(c docket.Case, lost docket.Lost) []step {
	d := c.Decided.Decision
	var steps []step
	if d.Includes(docket.Escalate) && c.Escalated == nil {
		steps = append(steps, step{"escalate", escalate})
	}
	if d.Includes(docket.Page) && c.Paged == nil {
		steps = append(steps, step{"page", page})
	}
	if c.ToWarn() {
		steps = append(steps, step{"tell that it is graver", func(ctx context.Context, w *work, c docket.Case) error { return tellAgain(ctx, w, c, true) }})
	}
	if c.Asking() && c.Reminded == nil && r.Now().After(c.DecidedAt().Add(remindAfter)) {
		steps = append(steps, step{"tell again", func(ctx context.Context, w *work, c docket.Case) error { return tellAgain(ctx, w, c, false) }})
	}
	if times := c.AskAgain(); len(times) > 0 && r.Now().After(times[0]) {
		steps = append(steps, step{"ask the sources again", judgeLater})
	}
	if until := freezeEnd(c); !until.IsZero() && r.Now().After(until) {
		steps = append(steps, step{"expire", expire})
	}
	if lost.Why != "" && (docket.Destroys(lost.Action) && c.Stays == "" || lost.Action == "" && c.Frozen() || lost.Action == docket.Isolate && c.InForce(docket.Isolate) && c.Open == "") {
		steps = append(steps, step{"tell that a hold is lost", func(ctx context.Context, w *work, _ docket.Case) error { return lose(ctx, w, lost) }})
	}
	if action, click := nextAction(c, r.Now()); action != "" {
		steps = append(steps, step{action, func(ctx context.Context, w *work, c docket.Case) error { return act(ctx, w, c, action, click) }})
	}
	if len(steps) > 0 {
		return steps
	}
	// Only what has come to rest is reported, once, instead of after every event.
	if closing := closingOf(c); closing != nil {
		return []step{{"close", func(ctx context.Context, w *work, c docket.Case) error { return closeCase(ctx, w, c, *closing) }}}
	}
	if r.Drive != nil && c.Driven == nil {
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
func nextAction(c docket.Case, now time.Time) (action, click string) {
	if release := accepted(c, docket.PressRelease); release != "" {
		for _, held := range []string{docket.Cordon, docket.Isolate, docket.Freeze} {
			if undo := dueUndoing(c, held, release, now); undo != "" {
				return undo, release
			}
		}
	}
	if end := ending(c); end != nil {
		return dueUndoing(c, docket.Cordon, end.ID, now), end.ID // nothing new is begun
	}
	// One that is about to last longer is not over: its claim is finished first.
	if over := c.Done(docket.Isolate); c.InForce(docket.Isolate) && c.Claim(docket.Isolate).Acted != nil && !over.Until.IsZero() && now.After(over.Until) && !c.Decided.Decision.EscalateAtEnd {
		if undo := dueUndoing(c, docket.Isolate, "", now); undo != "" {
			return undo, ""
		}
	}
	if evict := dueEviction(c, now); evict != "" { // also where the release has failed
		return docket.Evict, evict
	}
	if accepted(c, docket.PressRelease) != "" {
		return "", "" // what was released is not taken again
	}
	if held, click := dueExtension(c); held != "" {
		return held, click
	}
	wanted := c.Decided.Decision.Do
	if !c.Permitted() {
		wanted = nil
	}
	if c.Permitted() && c.Trouble(now) != "" {
		wanted = slices.Concat(wanted, c.Decided.Decision.Otherwise)
	}
	for _, action := range docket.InOrder(wanted) {
		if docket.Destroys(action) && putOff(c, docket.Evidence) {
			continue // the evidence may still come
		}
		if isDue(c, action, now) {
			return action, ""
		}
	}
	return "", ""
}

// dueEviction answers the click that asks for an eviction that is due.
func dueEviction(c docket.Case, now time.Time) (click string) {
	evict := accepted(c, docket.PressEvict)
	if evict == "" {
		return ""
	}
	if claim := c.Claim(docket.Evict); claim == nil || claim.Click != evict && claim.Acted != nil && !claim.Acted.Done || isDue(c, docket.Evict, now) {
		return evict
	}
	return ""
}

// dueExtension answers the hold that a person wants to last longer, and the click:
// it is claimed again, which only moves its end.
func dueExtension(c docket.Case) (held, click string) {
	extend := accepted(c, docket.PressExtend)
	if extend == "" {
		return "", ""
	}
	for _, held := range []string{docket.Freeze, docket.Isolate} {
		claim := c.Claim(held)
		if claim != nil && (c.InForce(held) && claim.Click != extend || claim.Click == extend && claim.Acted == nil) {
			return held, extend
		}
	}
	return "", ""
}

// isDue tells whether an action was never begun, was not finished, or was put off
// until now.
func isDue(c docket.Case, action string, now time.Time) bool {
	claim := c.Claim(action)
	if claim == nil || claim.Acted == nil || !c.Current(claim) {
		return true
	}
	tries := 0
	for _, other := range c.Claims {
		if other.Action == action {
			tries++
		}
	}
	return !claim.Acted.Later.IsZero() && now.After(claim.Acted.Later) && tries < maxTries
}

// putOff tells whether an action was not done, and is to be tried again.
func putOff(c docket.Case, action string) bool {
	claim := c.Claim(action)
	return claim != nil && c.Current(claim) && claim.Acted != nil && !claim.Acted.Done && !claim.Acted.Later.IsZero()
}

// dueUndoing answers what undoes a hold that is in force or half made. One that
// failed is tried again when its time has come, or when somebody asks again.
func dueUndoing(c docket.Case, held, click string, now time.Time) string {
	undo := docket.Undoing(held)
	claim, undone := c.Claim(held), c.Claim(undo)
	if claim == nil {
		return ""
	}
	if undone != nil && undone.N > claim.N && undone.Acted == nil {
		return undo
	}
	tried := slices.ContainsFunc(c.Claims, func(k docket.Claim) bool {
		return k.Action == undo && k.N > claim.N && k.Click == click
	})
	again := tried && undone.Click == click && putOff(c, undo) && isDue(c, undo, now)
	if (claim.Open() || c.InForce(held)) && (!tried || again) {
		return undo
	}
	return ""
}

// accepted answers the latest click of a kind that was not refused.
func accepted(c docket.Case, what string) (click string) {
	for _, k := range slices.Backward(c.Clicks) {
		if k.What == what && k.Refused == "" {
			return k.ID
		}
	}
	return ""
}

func closingOf(c docket.Case) *docket.Closed {
	if c.Closed != nil {
		return nil
	}
	if k := ending(c); k != nil && len(c.Holds()) == 0 { // what could not be undone keeps it open
		return &docket.Closed{Resolution: docket.Ending(k.What), By: k.By}
	}
	if id := accepted(c, docket.PressRelease); id != "" && c.Released() {
		i := slices.IndexFunc(c.Clicks, func(k docket.Click) bool { return k.ID == id })
		return &docket.Closed{Resolution: "released", By: c.Clicks[i].By}
	}
	return nil
}

// ending is the latest accepted click that closes the case, or nil.
func ending(c docket.Case) *docket.Click {
	for i := range slices.Backward(c.Clicks) {
		if k := &c.Clicks[i]; docket.Ending(k.What) != "" && k.Refused == "" {
			return k
		}
	}
	return nil
}

// steps takes what is due until nothing is. One step's failure does not keep
// the others from being taken.
func (w *work) steps(ctx context.Context) error {
	for {
		c, err := w.fold()
		if err != nil {
			return err
		}
		due := w.due(c, w.lost)
		if len(due) == 0 || w.file.IsClosed() {
			return nil
		}
		errs := make([]error, len(due))
		var wg sync.WaitGroup
		for i, s := range due {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(ctx, docket.StepDeadline)
				defer cancel()
				errs[i] = s.take(ctx, w, c)
			})
		}
		wg.Wait()
		w.lost = docket.Lost{} // it was of what held the pod before
		if err := errors.Join(errs...); err != nil {
			return errors.Join(err, w.show(ctx))
		}
	}
}

// show has the page and SCC say how far it came where a step has failed: what is tried
// again for hours is not hidden meanwhile.
func (w *work) show(ctx context.Context) error {
	c, err := w.fold()
	if err != nil || w.file.IsClosed() {
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

func escalate(ctx context.Context, w *work, c docket.Case) error {
	if w.SCC == nil {
		_, err := w.file.Append(ctx, docket.KindEscalated, docket.Escalated{Error: "no SCC source is configured: the escalation lives in the case and on the page"})
		return err
	}
	name, err := w.SCC.Escalate(ctx, c, c.Opened)
	body := docket.Escalated{Finding: name}
	if err != nil {
		if !retry.IsPermanent(err) {
			return err
		}
		body = docket.Escalated{Error: err.Error()}
	}
	_, err = w.file.Append(ctx, docket.KindEscalated, body)
	return err
}

func page(ctx context.Context, w *work, c docket.Case) error {
	p, err := w.Pager.Post(ctx, c, !w.opened)
	if err != nil {
		if !retry.IsPermanent(err) {
			w.opened = false // it may have arrived all the same
			return err
		}
		p = docket.Paged{Error: err.Error()}
	}
	if err := w.wakeForLater(ctx, c); err != nil {
		return err
	}
	_, err = w.file.Append(ctx, docket.KindPaged, p)
	return err
}

// wakeForLater has somebody look when the sources are to be asked again and when an
// answer has been waited for long enough.
func (w *work) wakeForLater(ctx context.Context, c docket.Case) error {
	wakes := c.AskAgain()
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
func judgeLater(ctx context.Context, w *work, c docket.Case) error {
	f := c.Decided.Finding
	v := w.Judge.Judge(ctx, f)
	if !v.Level.Graver(c.Decided.Verdict.Level) {
		_, err := w.file.Append(ctx, docket.KindJudged, v)
		return err
	}
	d := docket.Decided{Key: c.Decided.Key, Finding: f, Facts: c.Decided.Facts, Verdict: v, Decision: w.Policy.Decide(f, v), Received: w.received, Again: true}
	_, err := w.file.Append(ctx, docket.KindDecided, d)
	return err
}

// remindAfter is how long an answer is waited for before people are told again.
const remindAfter = 30 * time.Minute

// tellAgain tells again what nobody has answered, or what is graver than was told. It
// never acts.
func tellAgain(ctx context.Context, w *work, c docket.Case, graver bool) error {
	if graver { // what was decided later is waited for anew
		if err := w.wakeForLater(ctx, c); err != nil {
			return err
		}
	}
	ts, err := w.Pager.Remind(ctx, c, graver)
	body := docket.Reminded{Timestamp: ts, Graver: graver}
	if err != nil {
		if !retry.IsPermanent(err) {
			return err
		}
		body.Error = err.Error()
	}
	_, err = w.file.Append(ctx, docket.KindReminded, body)
	return err
}

func edit(ctx context.Context, w *work, c docket.Case) error {
	p, err := w.Pager.Edit(ctx, c)
	if err != nil {
		if !retry.IsPermanent(err) {
			return err
		}
		p.Error = err.Error()
	}
	_, err = w.file.Append(ctx, docket.KindPaged, p)
	return err
}

func report(ctx context.Context, w *work, c docket.Case) error {
	body := docket.Reported{Status: c.Status()}
	if err := w.SCC.Report(ctx, c, w.Link(c.ID)); err != nil {
		if !retry.IsPermanent(err) {
			return err
		}
		body.Error = err.Error()
	}
	_, err := w.file.Append(ctx, docket.KindReported, body)
	return err
}

// act records the claim, has it carried out, and records what came of it. A
// claim without an end is carried out again: under the same number it is the
// same order.
func act(ctx context.Context, w *work, c docket.Case, action, click string) error {
	n := 0
	if claim := c.Claim(action); claim != nil && claim.Acted == nil {
		n = claim.N
	} else {
		e, err := w.file.Append(ctx, docket.KindClaimed, claimOf(c, action, click))
		if err != nil {
			return err
		}
		n = e.N
	}
	acted, err := w.Act(ctx, c.ID, n)
	if err != nil {
		claim := c.Claim(action)
		tried := claim != nil && claim.N == n && w.Now().Sub(claim.At) > giveUpAfter
		if !retry.IsPermanent(err) && !tried {
			return err
		}
		acted = docket.Acted{Claim: n, Action: action, Error: err.Error(), At: w.Now().UTC(), Unknown: !retry.IsPermanent(err)}
	}
	looks := []time.Time{acted.Until, acted.Later} // somebody has to look then
	if !acted.RestartsAt.IsZero() {
		looks = append(looks, acted.RestartsAt.Add(restartSlack))
	}
	if (action == docket.Freeze || action == docket.Isolate) && acted.Done && w.Lost != nil {
		looks = append(looks, w.Now().Add(holdCheck))
	}
	if docket.Destroys(action) && acted.Done && w.Lost != nil {
		c.Claims = append(slices.Clone(c.Claims), docket.Claim{N: n, Claimed: docket.Claimed{Action: action}, Acted: &acted})
		looks = append(looks, c.SeeGone())
	}
	for _, at := range looks {
		if at.IsZero() {
			continue
		}
		if err := w.Log.WakeAt(ctx, c.ID, at.Add(time.Second)); err != nil { // and then it is due
			return err
		}
	}
	_, err = w.file.Append(ctx, docket.KindActed, acted)
	return err
}

// giveUpAfter is how long one claim is tried that fails in a way that may pass: then
// it is told as failed, and what comes after it is done.
const giveUpAfter = 24 * time.Hour

// restartSlack is what a kubelet may take to tell of a restart.
const restartSlack = 3 * time.Second

// claimOf is about what the finding names; where it names less, what the cluster
// said when it was decided.
func claimOf(c docket.Case, action, click string) docket.Claimed {
	f := c.Decided.Finding
	return docket.Claimed{Action: action, ContainerID: c.ContainerID(), Node: f.Node, SHA256: f.Process.SHA256, PodUID: c.PodUID(), Click: click}
}

// freezeEnd is when the case's freeze ends by itself; zero when nothing is frozen.
func freezeEnd(c docket.Case) time.Time {
	if !c.Frozen() {
		return time.Time{}
	}
	return c.Done(docket.Freeze).Until
}

// expire records what the node has done by itself.
func expire(ctx context.Context, w *work, _ docket.Case) error {
	_, err := w.file.Append(ctx, docket.KindExpired, nil)
	return err
}

func lose(ctx context.Context, w *work, lost docket.Lost) error {
	_, err := w.file.Append(ctx, docket.KindLost, lost)
	return err
}

// drive has a workflow wait for the case. Without one the sweep goes on with it, a
// little later: that it could not be started holds nothing up.
func drive(ctx context.Context, w *work, c docket.Case) error {
	execution, err := w.Drive(ctx, c.ID)
	body := docket.Driven{Execution: execution}
	if err != nil {
		body.Error = err.Error()
	}
	_, err = w.file.Append(ctx, docket.KindDriven, body)
	return err
}

// closeCase shows the end everywhere first: a closed case takes no more events.
func closeCase(ctx context.Context, w *work, c docket.Case, end docket.Closed) error {
	for _, claim := range c.Claims { // a hold without an end was undone, or the case would not close
		if claim.Acted != nil || docket.Undoing(claim.Action) != "" || docket.Undone(claim.Action) != "" {
			continue
		}
		unknown := docket.Acted{Claim: claim.N, Action: claim.Action, At: w.Now().UTC(), Error: "the case was ended first: it may have taken effect or not"}
		if _, err := w.file.Append(ctx, docket.KindActed, unknown); err != nil {
			return err
		}
	}
	ended := c
	ended.Closed, ended.Updated = &end, w.Now().UTC()
	if w.SCC != nil && end.Over() {
		if err := w.SCC.Deactivate(ctx, ended); err != nil && !retry.IsPermanent(err) {
			return err
		}
	}
	if w.SCC != nil {
		if err := w.SCC.Report(ctx, ended, w.Link(c.ID)); err != nil && !retry.IsPermanent(err) {
			return err
		}
	}
	if c.Paged != nil && c.Paged.Error == "" {
		if _, err := w.Pager.Edit(ctx, ended); err != nil && !retry.IsPermanent(err) {
			return err // the end is shown, unless it can never be
		}
	}
	_, err := w.file.Close(ctx, end)
	return err
}
