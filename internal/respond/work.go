package respond

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/contraband-dev/contraband/internal/casefile"
	"github.com/contraband-dev/contraband/internal/docket"
	"github.com/contraband-dev/contraband/internal/finding"
)

// work is one invocation's hold on one case.
type work struct {
	*Responder
	holder   string
	received time.Time
	file     *casefile.File
	opened   bool // by this invocation: nobody can have paged before
	lost     docket.Lost
	later    map[string]bool // findings, by key, that are taken in by a later invocation
}

// learn does the reading: facts and verdict at once, then the policy.
func (w *work) learn(ctx context.Context, f finding.Finding) docket.Decided {
	d := docket.Decided{Key: f.Key(), Finding: f, Received: w.received}
	ctx, cancel := context.WithTimeout(ctx, docket.StepDeadline)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { d.Facts = w.Facts.Facts(ctx, f) })
	wg.Go(func() { d.Verdict = w.Judge.Judge(ctx, f) })
	wg.Wait()
	if f.Kind() == finding.DetectorHealth {
		d.Decision = docket.Decision{Rule: "(a detector is blind)", Do: []string{docket.Page}}
		return d
	}
	d.Decision = w.Policy.Decide(f, d.Verdict)
	return d
}

// join puts the finding on record in its case.
func (w *work) join(ctx context.Context, f finding.Finding) (file *casefile.File, fresh bool, err error) {
	latest, err := w.Log.Latest(ctx, f.CaseKey(""), w.holder, ofSamePod(f))
	if err != nil {
		return nil, false, err
	}
	name := f.Key()
	for n := 2; ; n++ {
		id, err := w.Log.Name(ctx, name, latest.ID)
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
	fresh, err = w.Log.Occur(ctx, id, f.Key(), body)
	return file, fresh, err
}

// ofSamePod tells whether an open case is about the pod of a finding: a successor of
// its name is another pod, and needs its own containment.
func ofSamePod(f finding.Finding) func(*casefile.File) (bool, error) {
	return func(file *casefile.File) (bool, error) {
		c, err := docket.Fold(file.ID, file.Events())
		uid := c.PodUID()
		if uid != "" && f.Pod.UID != "" {
			return uid == f.Pod.UID, err
		}
		// Who does not know the pod's UID tells of a successor when what we have removed
		// was gone by then, unless it is the very container.
		a := c.Removed()
		later := a != nil && !f.Closed() && f.EventTime.After(a.At.Add(docket.MaxGrace))
		return !later || f.Container.ID != "" && f.Container.ID == c.ContainerID(), err
	}
}

// closedWithout tells whether a case has ended and no event of it mentions a finding.
func closedWithout(file *casefile.File, key string) (bool, error) {
	if !file.IsClosed() {
		return false, nil
	}
	c, err := docket.Fold(file.ID, file.Events())
	return !c.Handled[key], err
}

// run takes steps until none is due and nothing new has come, then gives the
// case back. learnt opens a case that has no events yet.
func (w *work) run(ctx context.Context, learnt *docket.Decided) error {
	if len(w.file.Events()) == 0 && learnt != nil {
		_, err := w.file.Append(ctx, docket.KindDecided, learnt)
		switch {
		case err == nil:
			w.opened = true
		case errors.Is(err, casefile.ErrConflict):
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
		case errors.Is(err, casefile.ErrConflict):
			if err := w.giveWay(ctx); err != nil {
				return err
			}
			continue
		case err != nil:
			return errors.Join(err, w.leaveUnfinished(ctx))
		}
		if w.file.IsClosed() {
			return w.reopen(ctx)
		}
		if err := w.yield(ctx); err != nil {
			return err
		}
	}
}

// take takes the case, if there is anything to do in it. It must be had before
// anything is done: two that act at once on what they have read do it twice.
func (w *work) take(ctx context.Context) (bool, error) {
	for {
		more, err := w.anythingToDo(ctx)
		if err != nil || !more {
			return false, err
		}
		_, err = w.file.Append(ctx, "taken", nil)
		if !errors.Is(err, casefile.ErrConflict) {
			return err == nil, err
		}
		if err := w.giveWay(ctx); err != nil {
			return false, err
		}
	}
}

func (w *work) anythingToDo(ctx context.Context) (bool, error) {
	c, err := w.fold()
	if err != nil {
		return false, err
	}
	if len(w.due(c, w.lost)) > 0 {
		return true, nil
	}
	occurrences, clicks, err := w.unhandled(ctx)
	return len(occurrences)+len(clicks) > 0, err
}

// leaveUnfinished gives the case back, so that whoever comes next need not wait
// for the lease, and has it looked at even if nobody comes. It works although
// the invocation's own time may be over.
func (w *work) leaveUnfinished(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if w.file.IsClosed() {
		return nil
	}
	return errors.Join(w.yield(ctx), w.Log.WakeAt(ctx, w.file.ID, w.Now().Add(w.pause())))
}

// Bounds of the pause before what could not be done is tried again: as long as it has
// been tried.
const (
	shortestPause = time.Minute
	longestPause  = time.Hour
)

func (w *work) pause() time.Duration {
	c, err := w.fold()
	if err != nil {
		return shortestPause
	}
	began := w.Now()
	if c.Paged == nil && !c.Opened.IsZero() {
		began = c.Opened
	}
	for _, claim := range c.Claims {
		if claim.Acted == nil && claim.At.Before(began) {
			began = claim.At
		}
	}
	return min(max(w.Now().Sub(began), shortestPause), longestPause)
}

// reopen takes what came while the case was closing to its next episode: whoever
// brought it was told that the holder would look.
func (w *work) reopen(ctx context.Context) error {
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
func (w *work) giveWay(ctx context.Context) error {
	if err := w.file.Reload(ctx); err != nil {
		return err
	}
	w.opened = false
	if w.file.IsClosed() {
		return fmt.Errorf("case %q: %w", w.file.ID, casefile.ErrClosed)
	}
	if w.file.HeldByOther() {
		return fmt.Errorf("case %q: %w", w.file.ID, ErrBusy)
	}
	return nil
}

func (w *work) yield(ctx context.Context) error {
	err := w.file.Yield(ctx)
	if errors.Is(err, casefile.ErrConflict) || errors.Is(err, casefile.ErrClosed) {
		return nil // another has it, or nobody needs it any more
	}
	return err
}

// turn takes in what is new, then every step that is due. What has just been
// opened is told first: the page does not wait for a look around.
func (w *work) turn(ctx context.Context, justOpened bool) error {
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

func (w *work) fold() (docket.Case, error) { return docket.Fold(w.file.ID, w.file.Events()) }

// unhandled are the occurrences and clicks that no event mentions.
func (w *work) unhandled(ctx context.Context) (occurrences []finding.Finding, clicks []docket.Click, err error) {
	c, err := w.fold()
	if err != nil {
		return nil, nil, err
	}
	entries, err := w.Log.Occurrences(ctx, w.file.ID, c.Handled)
	if err != nil {
		return nil, nil, err
	}
	for _, e := range entries {
		var f finding.Finding
		if err := json.Unmarshal(e.Body, &f); err != nil {
			return nil, nil, fmt.Errorf("case %q, occurrence %q: %w", w.file.ID, e.Name, err)
		}
		if !w.later[f.Key()] {
			occurrences = append(occurrences, f)
		}
	}
	entries, err = w.Log.Clicks(ctx, w.file.ID, c.Handled)
	if err != nil {
		return nil, nil, err
	}
	for _, e := range entries {
		var k docket.Click
		if err := json.Unmarshal(e.Body, &k); err != nil {
			return nil, nil, fmt.Errorf("case %q, click %q: %w", w.file.ID, e.Name, err)
		}
		clicks = append(clicks, k)
	}
	return occurrences, clicks, nil
}

func (w *work) takeIn(ctx context.Context) error {
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
		var j docket.Joined
		for _, f := range occurrences {
			j.Keys = append(j.Keys, f.Key())
			if f.EventTime.After(j.Last) {
				j.Last = f.EventTime
			}
		}
		if _, err := w.file.Append(ctx, docket.KindJoined, j); err != nil {
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
		if _, err := w.file.Append(ctx, docket.KindClicked, k); err != nil {
			return err
		}
	}
	return nil
}

// judgeAgain decides anew when the newest of the findings that joined brings a
// graver verdict than the case has; it answers those that merely join.
func (w *work) judgeAgain(ctx context.Context, joining []finding.Finding) ([]finding.Finding, error) {
	c, err := w.fold()
	if err != nil || len(joining) == 0 || c.Decided.Verdict.Level == docket.Malicious {
		return joining, err
	}
	newest := slices.MaxFunc(joining, func(a, b finding.Finding) int { return a.EventTime.Compare(b.EventTime) })
	d := w.learn(ctx, newest)
	if !d.Verdict.Level.Graver(c.Decided.Verdict.Level) {
		return joining, nil
	}
	if _, err := w.file.Append(ctx, docket.KindDecided, d); err != nil {
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
func (w *work) follow(ctx context.Context, all, joining []finding.Finding) ([]finding.Finding, error) {
	c, err := w.fold()
	if err != nil || len(all) == 0 || c.Moves >= maxMoves || len(docket.InOrder(c.Decided.Decision.Do)) == 0 {
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
	d := docket.Decided{Key: newest.Key(), Finding: newest, Verdict: c.Decided.Verdict, Decision: c.Decided.Decision, Received: w.received, Moved: true}
	if _, err := w.file.Append(ctx, docket.KindDecided, d); err != nil {
		return nil, err
	}
	return but(), nil
}

// tookItsPlace tells whether the API server agrees with a finding that tells of a new
// container: that it is one of the pod's, and that the frozen one is no more. On another
// node's word a case would follow a container that does not exist, and contain nothing.
func (w *work) tookItsPlace(ctx context.Context, c docket.Case, f finding.Finding) bool {
	if c.Decided.Finding.Pod.Name == "" {
		return true // a machine of its own: there is nobody else to ask
	}
	if c.InForce(docket.Freeze) && w.Responder.Lost != nil {
		if lost := w.Responder.Lost(ctx, c); lost.Why == "" || lost.Action != "" {
			return false
		}
	}
	if w.Has == nil {
		return true
	}
	has, err := w.Has(ctx, c, f.Container.ID)
	return err == nil && has
}

// replaces tells whether a finding is about a container that has taken the place of the
// case's: of the same name, of the same pod, on the same node, and later.
func replaces(f finding.Finding, c docket.Case) bool {
	was, uid := c.Decided.Finding, c.PodUID()
	return f.Container.ID != "" && f.Container.ID != c.ContainerID() && f.EventTime.After(was.EventTime) &&
		f.Container.Name == was.Container.Name && f.Node == was.Node && f.Pod.UID == uid
}

func refuses(c docket.Case, k docket.Click) string {
	pending := c.Pending()
	held := c.Holds()
	switch {
	case k.What == docket.PressRelease && len(held) == 0 && !pending:
		return "nothing is frozen, isolated or cordoned"
	case k.What == docket.PressApprove || k.What == docket.PressDeny:
		return refusesAnswer(c, k)
	case k.What == docket.PressExtend && !c.InForce(docket.Freeze) && !c.InForce(docket.Isolate):
		return "nothing is frozen or isolated"
	case k.What == docket.PressExtend:
		return ""
	case k.What == docket.PressEvict && (c.Gone() || c.Decided.Finding.Pod.Name == ""):
		return "there is no pod to evict"
	case k.What == docket.PressEvict && c.Done(docket.Evidence) == nil:
		return "no evidence is saved, and an eviction destroys it"
	case docket.Ending(k.What) != "" && c.Frozen():
		return "the container is still frozen: release it first"
	case docket.Ending(k.What) != "" && c.InForce(docket.Isolate):
		return "the pod is still isolated: release or evict it first"
	case docket.Ending(k.What) != "" && pending:
		return "a containment is under way: release it first"
	case !docket.IsButton(k.What):
		return "there is no such button"
	}
	return ""
}

func refusesAnswer(c docket.Case, k docket.Click) string {
	if a := c.Answer(); a != nil {
		return fmt.Sprintf("%s has pressed %s already", a.By, a.What)
	}
	if !c.Asking() {
		return "nothing was asked"
	}
	if !c.Sees(k) {
		return "what is asked has changed since: look again"
	}
	return ""
}
