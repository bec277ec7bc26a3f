package cases

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/contraband-dev/contraband/internal/cases/caselog"
	"github.com/contraband-dev/contraband/internal/finding"
)

// bodies has a constructor for the body of each kind of event; nil: the event has none.
var bodies = map[string]func() any{
	KindDecided:         func() any { return new(Decided) },
	KindJoined:          func() any { return new(Joined) },
	KindEscalated:       func() any { return new(Escalated) },
	KindPaged:           func() any { return new(Paged) },
	KindClaimed:         func() any { return new(Claimed) },
	KindActed:           func() any { return new(Outcome) },
	KindClicked:         func() any { return new(Click) },
	KindExpired:         nil,
	KindLost:            func() any { return new(Lost) },
	KindWorkflowStarted: func() any { return new(WorkflowStarted) },
	KindRechecked:       func() any { return new(Rechecked) },
	KindReminded:        func() any { return new(Reminded) },
	KindQueued:          func() any { return new(Queued) },
	KindReported:        func() any { return new(Reported) },
	KindOwners:          func() any { return new(OwnersFound) },
	KindClosed:          func() any { return new(Closed) },
}

// Decode returns a pointer to the body of an event; nil for an event without a body.
func Decode(e caselog.Event) (any, error) {
	make := bodies[e.Kind]
	if make == nil {
		return nil, nil
	}
	body := make()
	if err := json.Unmarshal(e.Body, body); err != nil {
		return nil, fmt.Errorf("event %d (%s): %w: %w", e.N, e.Kind, caselog.ErrUnreadable, err)
	}
	return body, nil
}

// Fold adds up the events of a case. They begin with the first, or with one that
// carries a snapshot.
func Fold(id string, events []caselog.Event) (Case, error) {
	c := Case{ID: id, Handled: map[string]bool{}, seen: map[string]string{}}
	if len(events) > 0 && events[0].Snapshot != nil {
		if err := c.restore(events[0].Snapshot); err != nil {
			return c, fmt.Errorf("case %q, snapshot of event %d: %w", id, events[0].N, err)
		}
	}
	return c, c.addAll(events)
}

// With returns the case as it is after further events; c is unchanged.
func (c Case) With(events ...caselog.Event) (Case, error) {
	c.Handled, c.seen = cloneMap(c.Handled), cloneMap(c.seen)
	c.Claims, c.Clicks, c.Programs = slices.Clone(c.Claims), slices.Clone(c.Clicks), slices.Clone(c.Programs)
	return c, c.addAll(events)
}

// cloneMap returns a copy that can be written to.
func cloneMap[V any](m map[string]V) map[string]V {
	out := make(map[string]V, len(m)+1)
	maps.Copy(out, m)
	return out
}

func (c *Case) addAll(events []caselog.Event) error {
	for _, e := range events {
		if err := c.add(e); err != nil {
			return fmt.Errorf("case %q: %w", c.ID, err)
		}
	}
	return nil
}

// snapshot is what a Case is restored from: its fields, and those that are not for readers.
type snapshot struct {
	Case          Case              `json:"case"`
	Handled       map[string]bool   `json:"handled,omitempty"`
	Seen          map[string]string `json:"seen,omitempty"`
	Through       string            `json:"through,omitempty"`
	FailedLookups int               `json:"failedLookups,omitempty"`
	LookedUp      time.Time         `json:"lookedUp,omitzero"`
	DecidedAt     time.Time         `json:"decidedAt"`
	DecidedN      int               `json:"decidedN"`
	Worse         bool              `json:"worse,omitempty"`
	JoinedAt      time.Time         `json:"joinedAt,omitzero"`
}

// Snapshot returns what the events of a case add up to, for Fold to continue from.
func Snapshot(id string, events []caselog.Event) (json.RawMessage, error) {
	c, err := Fold(id, events)
	if err != nil {
		return nil, err
	}
	return json.Marshal(snapshot{Case: c, Handled: c.Handled, Seen: c.seen, Through: c.through, FailedLookups: c.failedLookups,
		LookedUp: c.lookedUp, DecidedAt: c.decided, DecidedN: c.decidedN, Worse: c.worse, JoinedAt: c.joined})
}

func (c *Case) restore(raw json.RawMessage) error {
	var s snapshot
	if err := json.Unmarshal(raw, &s); err != nil {
		return err
	}
	id := c.ID
	*c = s.Case
	c.ID, c.Handled, c.seen, c.through = id, s.Handled, s.Seen, s.Through
	c.failedLookups, c.lookedUp, c.decided, c.decidedN, c.worse = s.FailedLookups, s.LookedUp, s.DecidedAt, s.DecidedN, s.Worse
	c.joined = s.JoinedAt
	if c.Handled == nil {
		c.Handled = map[string]bool{}
	}
	if c.seen == nil {
		c.seen = map[string]string{}
	}
	return nil
}

func (c *Case) add(e caselog.Event) error {
	c.Updated = e.At
	body, err := Decode(e)
	if err != nil {
		return err
	}
	switch b := body.(type) {
	case *Decided:
		c.decide(e, *b)
	case *Joined:
		c.join(*b)
		if len(b.Keys) > 0 {
			c.joined = e.At
		}
	case *Escalated:
		c.Escalated = b
	case *Paged:
		c.Paged, c.Queued = b, nil
	case *Queued:
		c.Queued = b
	case *Claimed:
		c.Claims = append(c.Claims, Claim{N: e.N, At: e.At, Claimed: *b})
	case *Outcome:
		c.resolve(b)
	case *Click:
		c.Clicks = append(c.Clicks, *b)
		c.Handled[b.ID] = true
	case *Rechecked:
		c.recheck(e, *b)
	case *WorkflowStarted:
		c.WorkflowStarted = b
	case *Reminded:
		c.remind(b)
	case *Lost:
		c.lose(*b)
	case *Reported:
		c.Reported, c.ReportRetry = b.Status, b.Retry
	case *OwnersFound:
		c.LateOwners = b
	case *Closed:
		c.Closed = b
	case nil:
		c.Expired = c.Expired || e.Kind == KindExpired // others only say who has the lease
	}
	c.addLateOwners()
	return nil
}

// addLateOwners adds the owners that were found after the page to the facts, which a later
// decision can replace.
func (c *Case) addLateOwners() {
	if c.LateOwners == nil {
		return
	}
	facts := &c.Decided.Facts
	for _, o := range c.LateOwners.Owners {
		if !slices.ContainsFunc(facts.Owners, func(known OwnerContact) bool { return known.Name == o.Name }) {
			facts.Owners = append(slices.Clip(facts.Owners), o)
		}
		if !slices.Contains(facts.Contacts, o.Name) {
			facts.Contacts = append(slices.Clip(facts.Contacts), o.Name)
		}
	}
	if facts.OwnersLate {
		facts.OwnersLate = false
		facts.Missing = slices.Concat(slices.DeleteFunc(slices.Clone(facts.Missing), isOwnerSource), c.LateOwners.Missing)
	}
}

// OwnerSource begins the line of Facts.Missing about a source of owners.
const OwnerSource = "owner from "

func isOwnerSource(missing string) bool { return strings.HasPrefix(missing, OwnerSource) }

// decide records the first decision, or a later one that is worse.
func (c *Case) decide(e caselog.Event, d Decided) {
	c.handle(d.Key, d.Slot)
	if d.Finding.EventTime.After(c.LastSeen) {
		c.LastSeen = d.Finding.EventTime
	}
	switch {
	case d.Recheck:
		c.Rechecks++
		c.failedLookups, c.lookedUp = 0, e.At
	case !d.Widened:
		p := ProgramOf(d.Finding, d.Verdict)
		p.Expected = d.Expected
		c.addPrograms([]Program{p})
	}
	if c.Opened.IsZero() {
		c.Opened, c.decided, c.decidedN, c.Decided, c.First, c.Incident = e.At, e.At, e.N, d, d.Finding.EventTime, d.Incident
		return
	}
	if !d.Recheck && !d.Widened {
		c.Joined++
	}
	if d.Moved {
		c.move(d)
		return
	}
	c.worse = d.Verdict.Level.WorseThan(c.Decided.Verdict.Level)
	c.raise(e, d)
}

// raise makes a later decision the one that stands. In cases with an incident it can be
// about another program, which is then what the case is about.
func (c *Case) raise(e caselog.Event, d Decided) {
	if c.Incident != "" && !d.Recheck {
		facts := c.Decided.Facts
		if len(d.Facts.Queries)+len(d.Facts.Commands) > 0 || d.Facts.Workload != nil {
			facts = d.Facts
		}
		old := c.Decided
		c.Decided = d
		c.Decided.Facts, c.Decided.Incident, c.Decided.Received = facts, old.Incident, old.Received
		c.Decided.Finding = about(old.Finding, d.Finding)
	}
	if d.Recheck {
		c.updateVerdict(ProgramOf(d.Finding, d.Verdict))
		if c.Incident != "" {
			c.Decided.Finding = about(c.Decided.Finding, d.Finding)
		}
	}
	c.Decided.Verdict, c.Decided.Decision, c.decided, c.decidedN = d.Verdict, d.Decision, e.At, e.N
	c.Reminded, c.WorseReminder = nil, nil
}

// about returns a later finding as the one that the case is about. The container stays:
// only Moved continues with another, which the cluster must have confirmed.
func about(old, f finding.Finding) finding.Finding {
	if old.Container.ID != "" {
		f.Container, f.Node = old.Container, old.Node
	}
	if old.Pod.UID != "" || f.Pod.UID == "" {
		f.Pod = old.Pod
	}
	return f
}

func (c *Case) join(b Joined) {
	for _, k := range b.Keys {
		if slot, key, ok := splitHandled(k); ok {
			c.seen[key] = slot
		} else {
			c.Handled[k] = true
		}
	}
	for _, id := range b.Clicks {
		c.Handled[id] = true
	}
	c.Joined += len(b.Keys)
	if b.Last.After(c.LastSeen) {
		c.LastSeen = b.Last
	}
	c.addPrograms(b.Programs)
	if b.Through > c.through {
		c.through = b.Through
		for key, slot := range c.seen {
			if slot < c.through {
				delete(c.seen, key)
			}
		}
	}
}

func (c *Case) resolve(b *Outcome) {
	for i := range c.Claims {
		if c.Claims[i].N == b.Claim {
			c.Claims[i].Outcome = b
		}
	}
	if b.Done && b.Action == Freeze {
		c.FreezeLostReason, c.Expired = "", false
	}
	if b.Done && b.Action == Isolate {
		c.IsolationBroken = ""
	}
}

func (c *Case) recheck(e caselog.Event, b Rechecked) {
	c.lookedUp = e.At
	if b.Failed {
		c.failedLookups++
		return
	}
	c.failedLookups = 0
	for _, p := range b.Programs {
		c.updateVerdict(p)
	}
	if c.Decided.Verdict.Why != "" { // every source has answered at last: the plan begins
		c.Decided.Verdict = b.Verdict
		return
	}
	c.Rechecks++
}

func (c *Case) remind(b *Reminded) {
	if b.Worse {
		c.WorseReminder = b
	} else {
		c.Reminded = b
	}
}

func (c *Case) lose(b Lost) {
	switch {
	case b.Action == Isolate:
		c.IsolationBroken = b.Why
	case Destroys(b.Action):
		c.RemovalStuck = b.Why
	default:
		c.FreezeLostReason = b.Why
	}
}
