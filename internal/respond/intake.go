package respond

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/cases/caselog"
	"github.com/contraband-dev/contraband/internal/expected"
	"github.com/contraband-dev/contraband/internal/finding"
)

// occurrence is a finding that joined a case.
type occurrence struct {
	finding.Finding
	slot string
}

func (o occurrence) handledKey() string { return cases.HandledKey(o.slot, o.Key()) }

// program returns the key of the program within the case.
func (o occurrence) program() string { return cases.ProgramOf(o.Finding, cases.Verdict{}).Key() }

// unhandled returns the occurrences and clicks that no event covers.
func (w *run) unhandled(ctx context.Context) (occurrences []occurrence, clicks []cases.Click, err error) {
	c, err := w.fold()
	if err != nil {
		return nil, nil, err
	}
	entries, err := w.Log.Occurrences(ctx, w.log.ID, c.HandledThrough(), c.HandledFinding)
	if err != nil {
		return nil, nil, err
	}
	for _, e := range entries {
		var f finding.Finding
		if err := json.Unmarshal(e.Body, &f); err != nil { // it must not hide the others
			slog.ErrorContext(ctx, "unreadable occurrence", "case", w.log.ID, "occurrence", e.Name, "error", err)
			continue
		}
		if !w.later[f.Key()] {
			occurrences = append(occurrences, occurrence{f, e.Slot})
		}
	}
	entries, err = w.Log.Clicks(ctx, w.log.ID, c.Handled)
	if err != nil {
		return nil, nil, err
	}
	for _, e := range entries {
		var k cases.Click
		if err := json.Unmarshal(e.Body, &k); err != nil {
			slog.ErrorContext(ctx, "unreadable click", "case", w.log.ID, "click", e.Name, "error", err)
			continue
		}
		clicks = append(clicks, k)
	}
	return occurrences, clicks, nil
}

// takeIn records what has come: findings that decide anew, findings that only count, and
// clicks.
func (w *run) takeIn(ctx context.Context) error {
	occurrences, clicks, err := w.unhandled(ctx)
	if err != nil {
		return err
	}
	joining, programs, err := w.decideAnew(ctx, occurrences)
	if err != nil {
		return err
	}
	if joining, err = w.followContainer(ctx, occurrences, joining); err != nil {
		return err
	}
	if err := w.join(ctx, joining, programs); err != nil {
		return err
	}
	return w.takeClicks(ctx, clicks)
}

// maxRefusedClicks bounds the refused clicks that a case keeps; of more only the IDs are.
const maxRefusedClicks = 20

// takeClicks records clicks: what ends a containment or keeps one from beginning first.
// Clicks that change nothing cost one event together.
func (w *run) takeClicks(ctx context.Context, clicks []cases.Click) error {
	slices.SortStableFunc(clicks, func(a, b cases.Click) int { return cmp.Or(urgency(a)-urgency(b), a.At.Compare(b.At)) })
	var dropped []string
	for _, k := range clicks {
		c, err := w.fold()
		if err != nil {
			return err
		}
		if k.Refused == "" { // else Interact knows that this person may not click
			k.Refused = w.refuses(c, k)
		}
		if k.Refused != "" && refusedClicks(c) >= maxRefusedClicks {
			slog.WarnContext(ctx, "click refused", "case", c.ID, "what", k.What, "by", k.By, "reason", k.Refused)
			dropped = append(dropped, k.ID)
			continue
		}
		if err := w.record(ctx, cases.KindClicked, k); err != nil {
			return err
		}
	}
	if len(dropped) == 0 {
		return nil
	}
	return w.record(ctx, cases.KindJoined, cases.Joined{Clicks: dropped})
}

// urgency orders clicks; the least is the most urgent.
func urgency(k cases.Click) int {
	if k.What == cases.ActionRelease || k.What == cases.ActionDeny {
		return 0
	}
	return 1
}

func refusedClicks(c cases.Case) (n int) {
	for _, k := range c.Clicks {
		if k.Refused != "" {
			n++
		}
	}
	return n
}

// handledAfter is older than any occurrence that can still be written: a delivery that
// was given its slot ends within the function's time.
const handledAfter = 20 * time.Minute

// join records findings in one event, with what they add to each program.
func (w *run) join(ctx context.Context, joining []occurrence, assessed map[string]cases.Decided) error {
	if len(joining) == 0 {
		return nil
	}
	c, err := w.fold()
	if err != nil {
		return err
	}
	j := cases.Joined{}
	if c.Incident != "" {
		j.Through = caselog.Slot(w.Now().Add(-handledAfter))
	}
	programs := map[string]int{}
	for _, o := range joining {
		j.Keys = append(j.Keys, o.handledKey())
		if o.EventTime.After(j.Last) {
			j.Last = o.EventTime
		}
		p := cases.ProgramOf(o.Finding, assessed[o.program()].Verdict)
		p.Expected = assessed[o.program()].Expected
		i, ok := programs[p.Key()]
		if !ok {
			programs[p.Key()] = len(j.Programs)
			j.Programs = append(j.Programs, p)
			continue
		}
		j.Programs[i] = addCount(j.Programs[i], p)
	}
	return w.record(ctx, cases.KindJoined, j)
}

func addCount(sum, p cases.Program) cases.Program {
	sum.Count += p.Count
	if p.First.Before(sum.First) {
		sum.First = p.First
	}
	if p.Last.After(sum.Last) {
		sum.Last = p.Last
	}
	for _, name := range p.Findings {
		if !slices.Contains(sum.Findings, name) && len(sum.Findings) < 8 {
			sum.Findings = append(sum.Findings, name)
		}
	}
	return sum
}

// assessAtOnce bounds the programs of one batch that are assessed side by side.
const assessAtOnce = 8

// decideAnew assesses the programs of the findings that join, and decides anew when one
// is worse than the case is, or when its policy contains in a way that the decision that
// stands does not. It returns the findings that only join, and what was assessed.
func (w *run) decideAnew(ctx context.Context, joining []occurrence) ([]occurrence, map[string]cases.Decided, error) {
	c, err := w.fold()
	if err != nil || len(joining) == 0 {
		return joining, nil, err
	}
	assessed, err := w.assessPrograms(ctx, c, joining)
	if err != nil {
		return nil, nil, err
	}
	for _, d := range bySeverity(assessed) {
		worse := d.Verdict.Level.WorseThan(c.Decided.Verdict.Level) || c.Expected() != "" && d.Expected == ""
		if d.Expected != "" {
			continue // it counts, and changes nothing
		}
		if !worse && !asksForMore(d.Decision, c.Decided.Decision) {
			continue
		}
		if !worse || asksForMore(c.Decided.Decision, d.Decision) {
			d.Decision = union(c.Decided.Decision, d.Decision)
		}
		if !worse { // what the case is about stays
			d.Finding, d.Verdict, d.Widened = c.Decided.Finding, c.Decided.Verdict, true
		}
		if err := w.record(ctx, cases.KindDecided, d); err != nil {
			return nil, nil, err
		}
		joining = slices.DeleteFunc(joining, func(o occurrence) bool { return worse && o.Key() == d.Key })
		if c, err = w.fold(); err != nil {
			return nil, nil, err
		}
	}
	return joining, assessed, nil
}

// bySeverity returns the decisions, the worst verdict first.
func bySeverity(assessed map[string]cases.Decided) []cases.Decided {
	var out []cases.Decided
	for _, d := range assessed {
		out = append(out, d)
	}
	slices.SortFunc(out, func(a, b cases.Decided) int {
		switch {
		case a.Verdict.Level.WorseThan(b.Verdict.Level):
			return -1
		case b.Verdict.Level.WorseThan(a.Verdict.Level):
			return 1
		}
		return a.Finding.EventTime.Compare(b.Finding.EventTime)
	})
	return out
}

// assessPrograms returns the decision about each program of the findings, by program key:
// of bytes that ran at several paths, one about a path at which they are not expected.
// Programs that are known to be malicious are not asked about again.
func (w *run) assessPrograms(ctx context.Context, c cases.Case, joining []occurrence) (map[string]cases.Decided, error) {
	type run struct{ program, path string }
	newest := map[run]occurrence{}
	for _, o := range joining {
		at := run{o.program(), o.Process.Path}
		if old, ok := newest[at]; !ok || o.EventTime.After(old.EventTime) {
			newest[at] = o
		}
	}
	if err := w.readExceptions(ctx, c.Decided.Finding); err != nil {
		return nil, err
	}
	decisions := make(chan cases.Decided, len(newest))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(assessAtOnce)
	for at, o := range newest {
		if p, ok := c.Program(at.program); ok && p.Verdict.Level == cases.Malicious {
			continue
		}
		g.Go(func() error {
			d := w.assessOnce(gctx, o.Finding)
			d.Slot = o.slot
			decisions <- d
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	close(decisions)
	out := map[string]cases.Decided{}
	for d := range decisions {
		key := cases.ProgramOf(d.Finding, d.Verdict).Key()
		if other, ok := out[key]; !ok || other.Expected != "" && d.Expected == "" {
			out[key] = d
		}
	}
	return out, ctx.Err()
}

// assessOnce returns what this delivery has learnt about its own finding, or assesses.
func (w *run) assessOnce(ctx context.Context, f finding.Finding) cases.Decided {
	if w.learnt != nil && w.learnt.Key == f.Key() {
		d := *w.learnt
		d.Incident = ""
		return d
	}
	return w.expect(w.assess(ctx, f))
}

// readExceptions reads what is expected of the finding's workload, once.
func (w *run) readExceptions(ctx context.Context, f finding.Finding) (err error) {
	if w.exceptions == nil {
		w.exceptions, err = expected.Read(ctx, w.Log.Objects, f.IncidentKey())
		if w.exceptions == nil {
			w.exceptions = []expected.Exception{}
		}
	}
	return err
}

// expect returns the decision about a finding with the exception that it matches: then no
// person is paged, and nothing is done. An expired one is named instead.
func (w *run) expect(d cases.Decided) cases.Decided {
	if d.Finding.Kind() != finding.ContainerThreat {
		return d
	}
	for _, e := range w.exceptions {
		if e.Matches(d.Finding, d.Verdict, w.Now()) {
			d.Expected = e.ID
			d.Decision = cases.Decision{Rule: "expected: exception " + e.ID, Why: fmt.Sprintf("declared by %s until %s: %s", e.By, e.Until.Format(time.DateOnly), e.Reason)}
			return d
		}
	}
	if e := w.Policy.Expected(d.Finding, d.Verdict, w.Now()); e != nil {
		d.Expected = "policy file, " + e.Owner + " until " + e.Until
		d.Decision = cases.Decision{Rule: "expected: exception of the policy file", Why: fmt.Sprintf("%s, until %s: %s", e.Owner, e.Until, e.Reason)}
		return d
	}
	if e := w.Policy.Expired(d.Finding, w.Now()); e != nil && d.Decision.Why == "" {
		d.Decision.Why = fmt.Sprintf("an exception of %s has expired: its last day was %s", e.Owner, e.Until)
	}
	return d
}

// maxMoves bounds how often a case continues with a new container of its pod: one that is
// restarted again and again is not frozen each time.
const maxMoves = 5

// settleTime is how long the API server is given to show that a container was replaced.
const (
	settleTime  = time.Minute
	settleCheck = 5 * time.Second
)

// followContainer moves the case to a new container of its pod that runs the same: what
// was done to the one before does not hold this one. Of all findings about such a
// container it looks at the newest; it returns which of those that were to join still
// are. Where the frozen one is still there as far as the cluster shows, it is looked at
// again in a moment: a finding's claim alone ends no hold.
func (w *run) followContainer(ctx context.Context, all, joining []occurrence) ([]occurrence, error) {
	c, err := w.fold()
	if err != nil || len(all) == 0 || c.Moves >= maxMoves || len(cases.InOrder(c.Decided.Decision.Do)) == 0 && c.ContainClick() == "" {
		return joining, err
	}
	successors := slices.DeleteFunc(slices.Clone(all), func(o occurrence) bool { return !replaces(o.Finding, c) })
	if len(successors) == 0 {
		return joining, nil
	}
	newest := slices.MaxFunc(successors, func(a, b occurrence) int { return a.EventTime.Compare(b.EventTime) })
	but := func() []occurrence {
		return slices.DeleteFunc(joining, func(o occurrence) bool { return o.Key() == newest.Key() })
	}
	if !w.tookItsPlace(ctx, c, newest.Finding) {
		if w.Now().Sub(newest.EventTime) > settleTime || c.HandledFinding(newest.slot, newest.Key()) {
			return joining, nil
		}
		if w.later == nil {
			w.later = map[string]bool{}
		}
		w.later[newest.Key()] = true
		return but(), w.Log.WakeAt(ctx, c.ID, w.Now().Add(settleCheck))
	}
	d := cases.Decided{Key: newest.Key(), Slot: newest.slot, Finding: newest.Finding, Verdict: c.Decided.Verdict,
		Decision: c.Decided.Decision, Received: w.received, Moved: true}
	if err := w.record(ctx, cases.KindDecided, d); err != nil {
		return nil, err
	}
	return but(), nil
}

// tookItsPlace reports whether the API server agrees with a finding about a new
// container: that it is one of the pod's, and that the frozen one is gone. On another
// node's claim a case would follow a container that does not exist, and contain nothing.
func (w *run) tookItsPlace(ctx context.Context, c cases.Case, f finding.Finding) bool {
	if c.Decided.Finding.Pod.Name == "" {
		return true // a machine of its own: there is no cluster to ask
	}
	if c.InForce(cases.Freeze) && w.CheckHolds != nil {
		if lost := w.CheckHolds(ctx, c); lost.Why == "" || lost.Action != "" {
			return false
		}
	}
	if w.HasContainer == nil {
		return true
	}
	has, err := w.HasContainer(ctx, c, f.Container.ID)
	return err == nil && has
}

// replaces reports whether a finding is about a container that has taken the place of the
// case's (of the same name, of the same pod, on the same node, and later) and runs what
// the case is about.
func replaces(f finding.Finding, c cases.Case) bool {
	was := c.Decided.Finding
	successor := f.Container.ID != "" && f.Container.ID != c.ContainerID() && f.EventTime.After(was.EventTime)
	sameContainer := f.Container.Name == was.Container.Name && f.Node == was.Node && f.Pod.UID == c.PodUID()
	return successor && sameContainer && runsTheSame(f, c)
}

// runsTheSame reports whether a finding's program is as severe as the case is. Cases of
// earlier versions have one program.
func runsTheSame(f finding.Finding, c cases.Case) bool {
	if c.Incident == "" {
		return true
	}
	p, ok := c.Program(cases.ProgramOf(f, cases.Verdict{}).Key())
	return ok && p.Verdict.Level == c.Decided.Verdict.Level
}

// refuses returns why a click cannot be acted on now, or "". What the guards forbid in any
// state of the cluster is refused at once.
func (w *run) refuses(c cases.Case, k cases.Click) string {
	if why := refuses(c, k); why != "" || k.What != cases.ActionContain {
		return why
	}
	if w.Policy.Guards.DryRun {
		return "the policy says guards.dry_run"
	}
	return w.Policy.Guards.Refuses(c.Decided.Finding)
}

// refuses is that of the case alone.
func refuses(c cases.Case, k cases.Click) string {
	pending := c.Pending()
	held := c.Holds()
	closes := cases.Resolution(k.What) != ""
	switch {
	case k.What == cases.ActionContain:
		return c.RefusesContain()
	case k.What == cases.ActionRelease && len(held) == 0 && !pending:
		return "nothing is frozen, isolated or cordoned"
	case k.What == cases.ActionApprove || k.What == cases.ActionDeny:
		return refusesAnswer(c, k)
	case k.What == cases.ActionExtend && !c.InForce(cases.Freeze) && !c.InForce(cases.Isolate):
		return "nothing is frozen or isolated"
	case k.What == cases.ActionExtend:
		return ""
	case k.What == cases.ActionEvict && c.Decided.Finding.ContainmentUnsupported() != "":
		return c.Decided.Finding.ContainmentUnsupported()
	case k.What == cases.ActionEvict && (c.PodRemoved() || c.Decided.Finding.Pod.Name == ""):
		return "there is no pod to evict"
	case k.What == cases.ActionEvict && c.Done(cases.Evidence) == nil:
		return "no evidence is saved, and an eviction destroys it"
	case closes && c.Frozen():
		return "the container is still frozen: release it first"
	case closes && c.InForce(cases.Isolate):
		return "the pod is still isolated: release or evict it first"
	case closes && c.ContainRequested():
		return "a person has just contained it"
	case closes && pending:
		return "a containment is in progress: release it first"
	case k.What == cases.ActionExpected && k.Decision != nil && !c.AnswersCurrent(k):
		return "the decision has changed since: look again"
	case !cases.IsClickAction(k.What):
		return "there is no such button"
	}
	return ""
}

func refusesAnswer(c cases.Case, k cases.Click) string {
	if a := c.Answer(); a != nil {
		return fmt.Sprintf("%s has already clicked %s", a.By, a.What)
	}
	if !c.Asking() {
		return "no approval is pending"
	}
	if !c.AnswersCurrent(k) {
		return "the decision has changed since: look again"
	}
	return ""
}
