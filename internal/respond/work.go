package respond

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/cases/caselog"
	"github.com/contraband-dev/contraband/internal/finding"
)

// work is one invocation's hold on one case.
type run struct {
	*Responder
	holder   string
	received time.Time
	log      *caselog.Log
	opened   bool // by this invocation: nobody can have paged before
	lostHold cases.Lost
	later    map[string]bool // findings, by key, that are taken in by a later invocation
}

// learn does the reading: facts and verdict at once, then the policy.
func (w *run) assess(ctx context.Context, f finding.Finding) cases.Decided {
	d := cases.Decided{Key: f.Key(), Finding: f, Received: w.received}
	ctx, cancel := context.WithTimeout(ctx, cases.StepDeadline)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { d.Facts = w.Facts.Facts(ctx, f) })
	wg.Go(func() { d.Verdict = w.Verdicts.Finding(ctx, f) })
	wg.Wait()
	if f.Kind() == finding.DetectorHealth {
		d.Decision = cases.Decision{Rule: "(a detector is blind)", Do: []string{cases.Page}}
		return d
	}
	d.Decision = w.Policy.Decide(f, d.Verdict)
	return d
}

// join puts the finding on record in its case.
func (w *run) join(ctx context.Context, f finding.Finding) (file *caselog.Log, fresh bool, err error) {
	latest, err := w.Log.Latest(ctx, f.CaseKey(""), w.holder, ofSamePod(f))
	if err != nil {
		return nil, false, err
	}
	name := f.Key()
	for n := 2; ; n++ {
		id, err := w.Log.AssignCase(ctx, name, latest.ID)
		if err != nil {
			return nil, false, err
		}
		file = latest
		if id != latest.ID { // it joined an earlier episode
			if file, err = w.Log.Read(ctx, id, w.holder); err != nil {
				return nil, false, err
			}
		}
		missed, err := closedWithout(file, f.Key())
		if err != nil {
			return nil, false, err
		}
		if !missed {
			break
		}
		// It was named, and the case closed before anybody saw it: it is named anew.
		name = fmt.Sprintf("%s.%d", f.Key(), n)
	}
	id := file.ID
	body, err := json.Marshal(f)
	if err != nil {
		return nil, false, err
	}
	fresh, err = w.Log.AddOccurrence(ctx, id, f.Key(), body)
	return file, fresh, err
}

// ofSamePod tells whether an open case is about the pod of a finding: a successor of
// its name is another pod, and needs its own containment.
func ofSamePod(f finding.Finding) func(*caselog.Log) (bool, error) {
	return func(file *caselog.Log) (bool, error) {
		c, err := cases.Fold(file.ID, file.Events())
		uid := c.PodUID()
		if uid != "" && f.Pod.UID != "" {
			return uid == f.Pod.UID, err
		}
		// Who does not know the pod's UID tells of a successor when what we have removed
		// was gone by then, unless it is the very container.
		a := c.Removed()
		later := a != nil && !f.Closed() && f.EventTime.After(a.At.Add(cases.MaxGrace))
		return !later || f.Container.ID != "" && f.Container.ID == c.ContainerID(), err
	}
}

// closedWithout tells whether a case has ended and no event of it mentions a finding.
func closedWithout(file *caselog.Log, key string) (bool, error) {
	if !file.IsClosed() {
		return false, nil
	}
	c, err := cases.Fold(file.ID, file.Events())
	return !c.Handled[key], err
}

// run takes steps until none is due and nothing new has come, then gives the
// case back. learnt opens a case that has no events yet.
func (w *run) cycle(ctx context.Context, learnt *cases.Decided) error {
	if len(w.log.Events()) == 0 && learnt != nil {
		_, err := w.log.Append(ctx, cases.KindDecided, learnt)
		switch {
		case err == nil:
			w.opened = true
		case errors.Is(err, caselog.ErrConflict):
			if err := w.giveWay(ctx); err != nil {
				return err
			}
		default:
			return err
		}
	}
	for held := w.opened; ; held = false {
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
			if err := w.giveWay(ctx); err != nil {
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

// take takes the case, if there is anything to do in it. It must be had before
// anything is done: two that act at once on what they have read do it twice.
func (w *run) take(ctx context.Context) (bool, error) {
	for {
		more, err := w.anythingToDo(ctx)
		if err != nil || !more {
			return false, err
		}
		_, err = w.log.Append(ctx, "taken", nil)
		if !errors.Is(err, caselog.ErrConflict) {
			return err == nil, err
		}
		if err := w.giveWay(ctx); err != nil {
			return false, err
		}
	}
}

func (w *run) anythingToDo(ctx context.Context) (bool, error) {
	c, err := w.fold()
	if err != nil {
		return false, err
	}
	if len(w.due(c, w.lostHold)) > 0 {
		return true, nil
	}
	occurrences, clicks, err := w.unhandled(ctx)
	return len(occurrences)+len(clicks) > 0, err
}

// leaveUnfinished gives the case back, so that whoever comes next need not wait
// for the lease, and has it looked at even if nobody comes. It works although
// the invocation's own time may be over.
func (w *run) leaveUnfinished(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if w.log.IsClosed() {
		return nil
	}
	return errors.Join(w.yield(ctx), w.Log.WakeAt(ctx, w.log.ID, w.Now().Add(w.pause())))
}

// Bounds of the pause before what could not be done is tried again: as long as it has
// been tried.
const (
	shortestPause = time.Minute
	longestPause  = time.Hour
)

func (w *run) pause() time.Duration {
	c, err := w.fold()
	if err != nil {
		return shortestPause
	}
	began := w.Now()
	if c.Paged == nil && !c.Opened.IsZero() {
		began = c.Opened
	}
	for _, claim := range c.Claims {
		if claim.Outcome == nil && claim.At.Before(began) {
			began = claim.At
		}
	}
	return min(max(w.Now().Sub(began), shortestPause), longestPause)
}

// reopen takes what came while the case was closing to its next episode: whoever
// brought it was told that the holder would look.
func (w *run) reopen(ctx context.Context) error {
	late, _, err := w.unhandled(ctx)
	if err != nil {
		return err
	}
	for _, f := range late {
		if _, err := w.Finding(ctx, f); err != nil {
			return err
		}
	}
	return nil
}

// giveWay reads what another has appended; when that one is still at it, we leave.
func (w *run) giveWay(ctx context.Context) error {
	if err := w.log.Reload(ctx); err != nil {
		return err
	}
	w.opened = false
	if w.log.IsClosed() {
		return fmt.Errorf("case %q: %w", w.log.ID, caselog.ErrClosed)
	}
	if w.log.LeasedByOther() {
		return fmt.Errorf("case %q: %w", w.log.ID, ErrBusy)
	}
	return nil
}

func (w *run) yield(ctx context.Context) error {
	err := w.log.Release(ctx)
	if errors.Is(err, caselog.ErrConflict) || errors.Is(err, caselog.ErrClosed) {
		return nil // another has it, or nobody needs it any more
	}
	return err
}

// turn takes in what is new, then every step that is due. What has just been
// opened is told first: the page does not wait for a look around.
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

func (w *run) fold() (cases.Case, error) { return cases.Fold(w.log.ID, w.log.Events()) }

// unhandled are the occurrences and clicks that no event mentions.
func (w *run) unhandled(ctx context.Context) (occurrences []finding.Finding, clicks []cases.Click, err error) {
	c, err := w.fold()
	if err != nil {
		return nil, nil, err
	}
	entries, err := w.Log.Occurrences(ctx, w.log.ID, c.Handled)
	if err != nil {
		return nil, nil, err
	}
	for _, e := range entries {
		var f finding.Finding
		if err := json.Unmarshal(e.Body, &f); err != nil {
			return nil, nil, fmt.Errorf("case %q, occurrence %q: %w", w.log.ID, e.Name, err)
		}
		if !w.later[f.Key()] {
			occurrences = append(occurrences, f)
		}
	}
	entries, err = w.Log.Clicks(ctx, w.log.ID, c.Handled)
	if err != nil {
		return nil, nil, err
	}
	for _, e := range entries {
		var k cases.Click
		if err := json.Unmarshal(e.Body, &k); err != nil {
			return nil, nil, fmt.Errorf("case %q, click %q: %w", w.log.ID, e.Name, err)
		}
		clicks = append(clicks, k)
	}
	return occurrences, clicks, nil
}

func (w *run) takeIn(ctx context.Context) error {
	occurrences, clicks, err := w.unhandled(ctx)
	if err != nil {
		return err
	}
	joining, err := w.judgeAgain(ctx, occurrences)
	if err != nil {
		return err
	}
	if joining, err = w.follow(ctx, occurrences, joining); err != nil {
		return err
	}
	if occurrences = joining; len(occurrences) > 0 {
		var j cases.Joined
		for _, f := range occurrences {
			j.Keys = append(j.Keys, f.Key())
			if f.EventTime.After(j.Last) {
				j.Last = f.EventTime
			}
		}
		if _, err := w.log.Append(ctx, cases.KindJoined, j); err != nil {
			return err
		}
	}
	for _, k := range clicks {
		c, err := w.fold()
		if err != nil {
			return err
		}
		if k.Refused == "" { // else Interact knows that this one may not press
			k.Refused = refuses(c, k)
		}
		if _, err := w.log.Append(ctx, cases.KindClicked, k); err != nil {
			return err
		}
	}
	return nil
}

// judgeAgain decides anew when the newest of the findings that joined brings a
// graver verdict than the case has; it answers those that merely join.
func (w *run) judgeAgain(ctx context.Context, joining []finding.Finding) ([]finding.Finding, error) {
	c, err := w.fold()
	if err != nil || len(joining) == 0 || c.Decided.Verdict.Level == cases.Malicious {
		return joining, err
	}
	newest := slices.MaxFunc(joining, func(a, b finding.Finding) int { return a.EventTime.Compare(b.EventTime) })
	d := w.assess(ctx, newest)
	if !d.Verdict.Level.WorseThan(c.Decided.Verdict.Level) {
		return joining, nil
	}
	if _, err := w.log.Append(ctx, cases.KindDecided, d); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(joining, func(f finding.Finding) bool { return f.Key() == d.Key }), nil
}

// maxMoves bounds how often a case goes on to a new container of its pod: one that
// is restarted for ever is not frozen for ever.
const maxMoves = 5

// settleTime is how long the API server is given to show that a container was replaced.
const (
	settleTime  = time.Minute
	settleCheck = 5 * time.Second
)

// follow has the case go on to a new container of its pod that runs the same: what
// was done to the one before does not hold this one. Of all that tell of such a container
// it looks at the newest; it answers which of those that were to join still are. Where the frozen one is
// still there as far as the cluster shows, it is looked at again in a moment: a finding's
// word alone takes nobody's hold away.
func (w *run) follow(ctx context.Context, all, joining []finding.Finding) ([]finding.Finding, error) {
	c, err := w.fold()
	if err != nil || len(all) == 0 || c.Moves >= maxMoves || len(cases.InOrder(c.Decided.Decision.Do)) == 0 {
		return joining, err
	}
	successors := slices.DeleteFunc(slices.Clone(all), func(f finding.Finding) bool { return !replaces(f, c) })
	if len(successors) == 0 {
		return joining, nil
	}
	newest := slices.MaxFunc(successors, func(a, b finding.Finding) int { return a.EventTime.Compare(b.EventTime) })
	but := func() []finding.Finding {
		return slices.DeleteFunc(joining, func(f finding.Finding) bool { return f.Key() == newest.Key() })
	}
	if !w.tookItsPlace(ctx, c, newest) {
		if w.Now().Sub(newest.EventTime) > settleTime || c.Handled[newest.Key()] {
			return joining, nil
		}
		if w.later == nil {
			w.later = map[string]bool{}
		}
		w.later[newest.Key()] = true
		return but(), w.Log.WakeAt(ctx, c.ID, w.Now().Add(settleCheck))
	}
	d := cases.Decided{Key: newest.Key(), Finding: newest, Verdict: c.Decided.Verdict, Decision: c.Decided.Decision, Received: w.received, Moved: true}
	if _, err := w.log.Append(ctx, cases.KindDecided, d); err != nil {
		return nil, err
	}
	return but(), nil
}

// tookItsPlace tells whether the API server agrees with a finding that tells of a new
// container: that it is one of the pod's, and that the frozen one is no more. On another
// node's word a case would follow a container that does not exist, and contain nothing.
func (w *run) tookItsPlace(ctx context.Context, c cases.Case, f finding.Finding) bool {
	if c.Decided.Finding.Pod.Name == "" {
		return true // a machine of its own: there is nobody else to ask
	}
	if c.InForce(cases.Freeze) && w.Responder.CheckHolds != nil {
		if lost := w.Responder.CheckHolds(ctx, c); lost.Why == "" || lost.Action != "" {
			return false
		}
	}
	if w.HasContainer == nil {
		return true
	}
	has, err := w.HasContainer(ctx, c, f.Container.ID)
	return err == nil && has
}

// replaces tells whether a finding is about a container that has taken the place of the
// case's: of the same name, of the same pod, on the same node, and later.
func replaces(f finding.Finding, c cases.Case) bool {
	was, uid := c.Decided.Finding, c.PodUID()
	return f.Container.ID != "" && f.Container.ID != c.ContainerID() && f.EventTime.After(was.EventTime) &&
		f.Container.Name == was.Container.Name && f.Node == was.Node && f.Pod.UID == uid
}

func refuses(c cases.Case, k cases.Click) string {
	pending := c.Pending()
	held := c.Holds()
	switch {
	case k.What == cases.ActionRelease && len(held) == 0 && !pending:
		return "nothing is frozen, isolated or cordoned"
	case k.What == cases.ActionApprove || k.What == cases.ActionDeny:
		return refusesAnswer(c, k)
	case k.What == cases.ActionExtend && !c.InForce(cases.Freeze) && !c.InForce(cases.Isolate):
		return "nothing is frozen or isolated"
	case k.What == cases.ActionExtend:
		return ""
	case k.What == cases.ActionEvict && (c.PodRemoved() || c.Decided.Finding.Pod.Name == ""):
		return "there is no pod to evict"
	case k.What == cases.ActionEvict && c.Done(cases.Evidence) == nil:
		return "no evidence is saved, and an eviction destroys it"
	case cases.Resolution(k.What) != "" && c.Frozen():
		return "the container is still frozen: release it first"
	case cases.Resolution(k.What) != "" && c.InForce(cases.Isolate):
		return "the pod is still isolated: release or evict it first"
	case cases.Resolution(k.What) != "" && pending:
		return "a containment is under way: release it first"
	case !cases.IsClickAction(k.What):
		return "there is no such button"
	}
	return ""
}

func refusesAnswer(c cases.Case, k cases.Click) string {
	if a := c.Answer(); a != nil {
		return fmt.Sprintf("%s has pressed %s already", a.By, a.What)
	}
	if !c.Asking() {
		return "nothing was asked"
	}
	if !c.AnswersCurrent(k) {
		return "what is asked has changed since: look again"
	}
	return ""
}
