// Package incidents defines what people are notified of: the cases of one workload in one
// episode. An incident has a log of its own, which records who was notified of what,
// and a lease of its own, so that notifying never waits for containment nor containment
// for notifying. Pure, no I/O.
package incidents

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/cases/caselog"
	"github.com/contraband-dev/contraband/internal/finding"
)

// Kinds of events of an incident's log, beside cases.KindPaged, KindReminded, KindQueued
// and KindClicked. The strings are stored.
const (
	KindOpened   = "opened"   // the first: the workload, and the case that began it
	KindResolved = "resolved" // every case was closed, and the messages show it
)

// Opened is the body of KindOpened.
type Opened struct {
	Workload finding.Workload `json:"workload"`
	Case     string           `json:"case"`
	// Replaces is the incident whose log is damaged and which this one takes the place of.
	Replaces string `json:"replaces,omitempty"`
}

// Paged is the body of KindPaged in an incident's log.
type Paged struct {
	cases.Paged
	Level cases.Level `json:"level,omitempty"` // of which people were notified; "": an edit
	// Unanswered: another channel was notified, as no person had answered.
	Unanswered bool  `json:"unanswered,omitempty"`
	Shown      Shown `json:"shown"`
}

// Reminded is the body of KindReminded in an incident's log.
type Reminded struct {
	cases.Reminded
	Level   cases.Level `json:"level,omitempty"`  // of which people were notified
	Through time.Time   `json:"through,omitzero"` // decisions until then were reminded of
	// OverBudget: people were notified that the hour's containments are spent.
	OverBudget bool `json:"overBudget,omitempty"`
}

// Reason is why people are notified again.
type Reason string

// Reasons.
const (
	Worse      Reason = "worse"       // the verdict is worse than the one they were notified of
	Pending    Reason = "pending"     // an approval is pending
	OverBudget Reason = "over budget" // something is not contained, because the hour's budget is spent
)

// Sighting is a decision that a busy case has not recorded yet: people are notified of it all
// the same.
type Sighting struct {
	Case    string        `json:"case"`
	Decided cases.Decided `json:"decided"`
}

// Incident is what its events add up to, with its cases.
type Incident struct {
	ID       string           `json:"id"`
	Workload finding.Workload `json:"workload"`
	Opened   time.Time        `json:"opened"`
	Updated  time.Time        `json:"updated"`
	// Cases are sorted, the most severe first. MoreCases has the number of those that were
	// not read.
	Cases     []cases.Case `json:"cases"`
	MoreCases int          `json:"moreCases,omitempty"`

	Paged   *cases.Paged `json:"paged,omitempty"` // of this round
	PagedAt time.Time    `json:"pagedAt,omitzero"`
	// Began is when this round began.
	Began time.Time `json:"began,omitzero"`
	// FirstPaged is when people were first notified in this round.
	FirstPaged time.Time `json:"firstPaged,omitzero"`
	// Escalated: another channel was notified, as no person had answered.
	Escalated bool        `json:"escalated,omitempty"`
	Told      cases.Level `json:"told,omitempty"`  // the worst verdict of which people were notified
	Shown     Shown       `json:"shown"`           // what the messages show
	Round     int         `json:"round,omitempty"` // times that it was resolved
	Reminded  time.Time   `json:"reminded,omitzero"`
	// OverBudgetTold: people were notified in this round that the budget is spent.
	OverBudgetTold bool          `json:"overBudgetTold,omitempty"`
	Queued         *cases.Queued `json:"queued,omitempty"`
	Clicks         []cases.Click `json:"clicks,omitempty"`

	FirstCase string          `json:"firstCase,omitempty"`
	Replaces  string          `json:"replaces,omitempty"` // whose log is damaged
	Handled   map[string]bool `json:"handled,omitempty"`  // clicks that events mention
}

// Fold adds up the events of an incident. They begin with the first, or with one that
// carries a snapshot.
func Fold(id string, events []caselog.Event) (Incident, error) {
	i := Incident{ID: id, Handled: map[string]bool{}}
	if len(events) > 0 && events[0].Snapshot != nil {
		if err := json.Unmarshal(events[0].Snapshot, &i); err != nil {
			return i, fmt.Errorf("incident %q, snapshot of event %d: %w", id, events[0].N, err)
		}
		if i.Handled == nil {
			i.Handled = map[string]bool{}
		}
	}
	for _, e := range events {
		if err := i.add(e); err != nil {
			return i, fmt.Errorf("incident %q, event %d (%s): %w", id, e.N, e.Kind, err)
		}
	}
	return i, nil
}

// Snapshot returns what the events of an incident add up to, for Fold to continue from.
func Snapshot(id string, events []caselog.Event) (json.RawMessage, error) {
	i, err := Fold(id, events)
	if err != nil {
		return nil, err
	}
	return json.Marshal(i)
}

func (i *Incident) add(e caselog.Event) error {
	i.Updated = e.At
	switch e.Kind {
	case KindOpened:
		var b Opened
		err := json.Unmarshal(e.Body, &b)
		i.Opened, i.Began, i.Workload, i.FirstCase, i.Replaces = e.At, e.At, b.Workload, b.Case, b.Replaces
		return err
	case cases.KindPaged:
		var b Paged
		err := json.Unmarshal(e.Body, &b)
		i.Paged, i.PagedAt, i.Shown, i.Queued = &b.Paged, e.At, b.Shown, nil
		if i.FirstPaged.IsZero() && b.Level != "" {
			i.FirstPaged = e.At
		}
		i.Escalated = i.Escalated || b.Unanswered
		i.tell(b.Level)
		return err
	case cases.KindReminded:
		var b Reminded
		err := json.Unmarshal(e.Body, &b)
		i.tell(b.Level)
		if b.Through.After(i.Reminded) {
			i.Reminded = b.Through
		}
		i.OverBudgetTold = i.OverBudgetTold || b.OverBudget
		return err
	case cases.KindClicked:
		var b cases.Click
		err := json.Unmarshal(e.Body, &b)
		i.Clicks = append(i.Clicks, b)
		i.Handled[b.ID] = true
		return err
	case cases.KindQueued:
		var b cases.Queued
		err := json.Unmarshal(e.Body, &b)
		i.Queued = &b
		return err
	case KindResolved:
		i.Round++
		i.Queued = nil
		i.Paged, i.Told, i.FirstPaged, i.Escalated, i.Began = nil, "", time.Time{}, false, e.At
		i.OverBudgetTold = false
	}
	return nil
}

// tell notes the verdict of which people were notified.
func (i *Incident) tell(l cases.Level) {
	if i.Told == "" || l.WorseThan(i.Told) {
		i.Told = l
	}
}

// Of returns the incident that a case of an earlier version is by itself: its own log
// records who was notified.
func Of(c cases.Case) Incident {
	i := Incident{ID: c.ID, Workload: c.Decided.Finding.Workload(), Opened: c.Opened, Updated: c.Updated, Cases: []cases.Case{c},
		Paged: c.Paged, FirstCase: c.ID, Handled: c.Handled}
	if c.Paged != nil {
		i.PagedAt = c.Updated
	}
	if c.Paged != nil && !c.WorseReminderDue() {
		i.Told = c.Decided.Verdict.Level
	}
	if c.Reminded != nil {
		i.Reminded = c.DecidedAt()
	}
	return i
}

// With returns the incident with its cases, the most severe first.
func (i Incident) With(all []cases.Case, more int) Incident {
	i.Cases, i.MoreCases = slices.Clone(all), more
	slices.SortStableFunc(i.Cases, func(a, b cases.Case) int {
		switch x, y := a.Decided.Verdict.Level, b.Decided.Verdict.Level; {
		case x.WorseThan(y):
			return -1
		case y.WorseThan(x):
			return 1
		}
		return cmp.Or(boolCompare(a.Closed != nil, b.Closed != nil), a.Opened.Compare(b.Opened), cmp.Compare(a.ID, b.ID))
	})
	return i
}

func boolCompare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// Lead returns the most severe case, which the messages are about; the zero Case if
// there is none.
func (i Incident) Lead() cases.Case {
	if len(i.Cases) == 0 {
		return cases.Case{}
	}
	return i.Cases[0]
}

// Level returns the worst verdict of the open cases whose policy asks for a page, or of
// all cases when none is open; "" if there is none.
func (i Incident) Level() cases.Level {
	level := cases.Level("")
	over := i.Resolved()
	for _, c := range i.Cases {
		if c.Closed != nil && !over {
			continue
		}
		if l := c.Decided.Verdict.Level; pages(c) && (level == "" || l.WorseThan(level)) {
			level = l
		}
	}
	return level
}

func pages(c cases.Case) bool { return c.Decided.Decision.Includes(cases.Page) && c.Expected() == "" }

// Programs returns the distinct programs of all cases, the most severe first, with their
// counts added up.
func (i Incident) Programs() []cases.Program {
	var out []cases.Program
	at := map[string]int{}
	for _, c := range i.Cases {
		for _, p := range c.Programs {
			if n, ok := at[p.Key()]; ok {
				out[n].Count += p.Count
				continue
			}
			at[p.Key()] = len(out)
			out = append(out, p)
		}
	}
	slices.SortStableFunc(out, func(a, b cases.Program) int {
		switch x, y := a.Verdict.Level, b.Verdict.Level; {
		case x.WorseThan(y):
			return -1
		case y.WorseThan(x):
			return 1
		}
		return 0
	})
	return out
}

// Pods returns the number of distinct pods, or containers where there are no pods.
func (i Incident) Pods() int {
	seen := map[string]bool{}
	for _, c := range i.Cases {
		f := c.Decided.Finding
		seen[cmp.Or(f.Pod.Name, f.Container.ID)] = true
	}
	return len(seen) + i.MoreCases
}

// Open returns the cases that are not closed.
func (i Incident) Open() []cases.Case {
	return slices.DeleteFunc(slices.Clone(i.Cases), func(c cases.Case) bool { return c.Closed != nil })
}

// Resolved reports whether every case is closed.
func (i Incident) Resolved() bool { return len(i.Cases) > 0 && len(i.Open()) == 0 && i.MoreCases == 0 }

// PageDue reports whether people are to be notified for the first time in this round, or
// again because no channel took the page.
func (i Incident) PageDue(now time.Time) bool {
	if i.inDigest(now) {
		return false
	}
	return i.Level() != "" && (i.Paged == nil && (!i.Resolved() || i.Round == 0) || i.Paged != nil && i.Paged.Error != "" && !now.Before(i.Paged.RetryAt))
}

// inDigest reports whether what there is to tell is a line of a digest.
func (i Incident) inDigest(now time.Time) bool {
	q := i.Queued
	if q == nil || i.Level().WorseThan(q.Level) {
		return false
	}
	more := q.ByPolicy && !now.Before(q.Until) && len(i.Programs()) > q.Programs
	return !more
}

// WorseDue reports whether the verdict is worse than the one people were notified of: an
// edited message notifies no person.
func (i Incident) WorseDue() bool {
	return i.Paged != nil && i.Paged.Error == "" && !i.Resolved() && i.Level().WorseThan(i.Told)
}

// ReminderDue returns the latest decision whose approval has been pending for longer than
// after without a reminder; zero if there is none.
func (i Incident) ReminderDue(now time.Time, after time.Duration) (through time.Time) {
	if i.Paged == nil || i.Paged.Error != "" {
		return through
	}
	for _, c := range i.Cases {
		at := c.DecidedAt()
		if c.Asking() && at.After(i.Reminded) && now.After(at.Add(after)) && at.After(through) {
			through = at
		}
	}
	return through
}

// OverBudget returns the case that is not contained because the budget is spent, or nil.
func (i Incident) OverBudget() *cases.Case {
	for n := range i.Cases {
		if i.Cases[n].OverBudget() != nil {
			return &i.Cases[n]
		}
	}
	return nil
}

// OverBudgetDue reports whether people are to be notified that something is not contained
// because the budget is spent: once in a round.
func (i Incident) OverBudgetDue() bool {
	return i.Paged != nil && i.Paged.Error == "" && !i.OverBudgetTold && i.OverBudget() != nil
}

// Answered reports whether a person has clicked on anything in this round. It begins before
// people are notified: whoever clicks while other channels are still being called has
// answered.
func (i Incident) Answered() bool {
	since := func(k cases.Click) bool { return k.Refused == "" && !k.Automatic() && !k.At.Before(i.Began) }
	return slices.ContainsFunc(i.Clicks, since) || slices.ContainsFunc(i.Cases, func(c cases.Case) bool { return slices.ContainsFunc(c.Clicks, since) })
}

// EscalationDue returns when another channel is to be notified of a page that nobody has
// answered for that long; zero: none is to be.
func (i Incident) EscalationDue(after time.Duration) (at time.Time) {
	if after == 0 || i.FirstPaged.IsZero() || i.Escalated || i.Resolved() || i.Answered() {
		return at
	}
	return i.FirstPaged.Add(after)
}

// ResolvedDue reports whether the round is over: every case is closed, and the messages
// show it.
func (i Incident) ResolvedDue(digest string) bool {
	return i.Resolved() && i.Paged != nil && i.Paged.Error == "" && i.Paged.Digest == digest
}

// Key identifies the messages of this round.
func (i Incident) Key() string {
	if i.Round == 0 {
		return i.ID
	}
	return fmt.Sprintf("%s.%d", i.ID, i.Round+1)
}

// ShownAt returns the age in milliseconds of the incident's latest decision: a button's
// value carries it, so that a click is about decisions that its message showed only.
func (i Incident) ShownAt() int {
	var last time.Time
	for _, c := range i.Cases {
		if c.DecidedAt().After(last) {
			last = c.DecidedAt()
		}
	}
	if last.Before(i.Opened) {
		return 0
	}
	return int(last.Sub(i.Opened).Milliseconds()) + 1
}

// Answers reports whether a click on a button of the incident's messages can be about the
// decision of a case that stands.
func (i Incident) Answers(k cases.Click, c cases.Case) bool {
	if k.Decision == nil {
		return c.AnswersCurrent(k)
	}
	return !c.DecidedAt().After(i.Opened.Add(time.Duration(*k.Decision) * time.Millisecond))
}

// Shown is what the messages of an incident show, as far as it calls for an edit: a count
// alone does not.
type Shown struct {
	// Progress is shown at once: what was decided, done, clicked or lost.
	Progress string `json:"progress,omitempty"`
	// Extent is shown soon: how many programs and pods, in steps.
	Extent string `json:"extent,omitempty"`
}

// ShownNow returns what messages show that are brought up to date now.
func (i Incident) ShownNow() Shown {
	var progress strings.Builder
	rechecks := 0
	for _, c := range i.Cases {
		outcomes := 0
		for _, k := range c.Claims {
			if k.Outcome != nil {
				outcomes++
			}
		}
		fmt.Fprintf(&progress, "%s %q %s %d %d %d %d %t %q;", c.ID, c.Status(), c.Decided.Verdict.Level, c.DecisionN(),
			len(c.Claims), outcomes, len(c.Clicks), c.Escalated != nil && c.Escalated.Error == "", c.FreezeLostReason+c.IsolationBroken+c.RemovalStuck)
		if c.LateOwners != nil {
			fmt.Fprintf(&progress, " %d owners;", len(c.Decided.Facts.Owners))
		}
		rechecks += c.Rechecks + c.Moves
	}
	sum := sha256.Sum256([]byte(progress.String()))
	return Shown{Progress: hex.EncodeToString(sum[:8]),
		Extent: fmt.Sprintf("%d programs, %d pods, %d", Rounded(len(i.Programs())), Rounded(i.Pods()), rechecks)}
}

// Rounded returns small counts exactly and large ones as the next lower step, so that a
// message is not edited for each further one.
func Rounded(n int) int {
	if n < 10 {
		return n
	}
	bound := 10
	for _, step := range []int{20, 50, 100, 200, 500, 1000, 10_000, 100_000} {
		if n >= step {
			bound = step
		}
	}
	return bound
}

// Status returns the state in few words: that of its one case, or counts.
func (i Incident) Status() string {
	if len(i.Cases) == 1 && i.MoreCases == 0 {
		return i.Cases[0].Status()
	}
	var order []string
	counts := map[string]int{}
	for _, c := range i.Cases {
		s := c.Status()
		if counts[s]++; counts[s] == 1 {
			order = append(order, s)
		}
	}
	var parts []string
	for _, s := range order {
		parts = append(parts, fmt.Sprintf("%d %s", counts[s], s))
	}
	return strings.Join(parts, "; ")
}

// SnapshotAny is the snapshot of a case's log or of an incident's.
func SnapshotAny(id string, events []caselog.Event) (json.RawMessage, error) {
	if caselog.IsIncident(id) {
		return Snapshot(id, events)
	}
	return cases.Snapshot(id, events)
}
