package casetext

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/cases/caselog"
)

// TimelineEntry is one line of a case's timeline.
type TimelineEntry struct {
	At    time.Time `json:"at"`
	Stage string    `json:"stage"` // one word
	Text  string    `json:"text"`
}

// Start returns the time from which a case's durations are counted: the exec
// where the sensor reported it, else the finding's event time.
func Start(c cases.Case) time.Time {
	if s := c.Decided.Finding.Sensor; s != nil && !s.Executed.IsZero() {
		return s.Executed
	}
	return c.Decided.Finding.EventTime
}

// Timeline returns what happened in order of time, from the exec on. An event
// that cannot be decoded is an entry of its own.
func Timeline(c cases.Case, events []caselog.Event) []TimelineEntry {
	out := detection(c)
	paged := false
	for _, e := range events {
		for _, entry := range eventEntries(e) {
			if entry.Stage == "paged" && paged {
				entry.Stage = "page-edited"
			}
			paged = paged || entry.Stage == "paged"
			out = append(out, entry)
		}
	}
	out = slices.DeleteFunc(out, func(t TimelineEntry) bool { return t.At.IsZero() })
	for i := range out {
		out[i].At = out[i].At.UTC()
	}
	slices.SortStableFunc(out, func(a, b TimelineEntry) int { return a.At.Compare(b.At) })
	return out
}

// detection returns the entries before the case log begins.
func detection(c cases.Case) []TimelineEntry {
	f := c.Decided.Finding
	received := TimelineEntry{c.Decided.Received, "received", "the finding arrived"}
	executed := f.Process.Path + " in " + f.ShortName()
	s := f.Sensor
	if s == nil {
		return []TimelineEntry{{f.EventTime, "executed", executed}, received}
	}
	hashed := TimelineEntry{s.Hashed, "unhashed", s.Unhashed}
	if f.Process.SHA256 != "" {
		hashed = TimelineEntry{s.Hashed, "hashed", "SHA-256 " + f.Process.SHA256}
	}
	return []TimelineEntry{
		{s.Executed, "executed", executed},
		{s.Seen, "seen", "the kernel's event reached the sensor (" + s.Route + ")"},
		hashed,
		{s.Attributed, "attributed", "container " + f.Container.ID + " of image " + f.Container.Image},
		{s.Raised, "raised", f.Category},
		received,
	}
}

// eventEntries returns the entries of one event; events about who works on the
// case have none.
func eventEntries(e caselog.Event) []TimelineEntry {
	entries, err := decodeEntries(e)
	if err != nil {
		return []TimelineEntry{{e.At, "unreadable", fmt.Sprintf("event %d (%s) cannot be decoded: %v", e.N, e.Kind, err)}}
	}
	return entries
}

func decodeEntries(e caselog.Event) ([]TimelineEntry, error) {
	switch e.Kind {
	case cases.KindDecided:
		return entriesOf(e, decidedEntries)
	case cases.KindJoined:
		return entriesOf(e, func(b cases.Joined, at time.Time) []TimelineEntry {
			return one(at, "joined", fmt.Sprintf("%d more findings of the same program", len(b.Keys)))
		})
	case cases.KindEscalated:
		return entriesOf(e, func(b cases.Escalated, at time.Time) []TimelineEntry {
			return one(at, "escalated", b.Finding+b.Error)
		})
	case cases.KindPaged:
		return entriesOf(e, pagedEntries)
	case cases.KindClaimed:
		return entriesOf(e, func(b cases.Claimed, at time.Time) []TimelineEntry {
			return one(at, "claimed", b.Action+" of container "+b.ContainerID)
		})
	case cases.KindActed:
		return entriesOf(e, func(b cases.Outcome, _ time.Time) []TimelineEntry { return outcomeEntries(b) })
	case cases.KindClicked:
		return entriesOf(e, func(b cases.Click, _ time.Time) []TimelineEntry { return clickEntries(b) })
	case cases.KindExpired:
		return one(e.At, "expired", "the freeze has expired"), nil
	case cases.KindRechecked:
		return entriesOf(e, func(b cases.Verdict, at time.Time) []TimelineEntry {
			return one(at, "rechecked", string(b.Level)+" "+b.Why)
		})
	case cases.KindWorkflowStarted:
		return entriesOf(e, func(b cases.WorkflowStarted, at time.Time) []TimelineEntry {
			return one(at, "waits", b.Execution+b.Error)
		})
	case cases.KindReminded:
		return entriesOf(e, remindedEntries)
	case cases.KindLost:
		return entriesOf(e, lostEntries)
	case cases.KindReported:
		return entriesOf(e, func(b cases.Reported, at time.Time) []TimelineEntry {
			return one(at, "reported", strings.TrimSpace("to Security Command Center: "+b.Status+" "+b.Error))
		})
	case cases.KindClosed:
		return entriesOf(e, func(b cases.Closed, at time.Time) []TimelineEntry {
			return one(at, "closed", b.Resolution+" by "+b.By)
		})
	}
	return nil, nil
}

func one(at time.Time, stage, text string) []TimelineEntry {
	return []TimelineEntry{{at, stage, text}}
}

// entriesOf decodes an event's body and renders it.
func entriesOf[B any](e caselog.Event, render func(B, time.Time) []TimelineEntry) ([]TimelineEntry, error) {
	var body B
	if err := json.Unmarshal(e.Body, &body); err != nil {
		return nil, err
	}
	return render(body, e.At), nil
}

func decidedEntries(b cases.Decided, at time.Time) []TimelineEntry {
	if b.Moved {
		return one(at, "new-container", "container "+b.Finding.Container.ID+" of the pod runs the same program")
	}
	verdict := strings.TrimSpace(string(b.Verdict.Level) + " " + b.Verdict.Label + " " + b.Verdict.Why)
	return []TimelineEntry{
		{at, "verdict", verdict},
		{at, "decided", "rule " + b.Decision.Rule + ": " + strings.Join(b.Decision.Do, ", ")},
	}
}

func pagedEntries(b cases.Paged, at time.Time) []TimelineEntry {
	if b.Error != "" {
		return one(at, "not-paged", b.Error)
	}
	return one(at, "paged", "message "+b.Timestamp+" in channel "+b.Channel)
}

func remindedEntries(b cases.Reminded, at time.Time) []TimelineEntry {
	if b.Worse {
		return one(at, "worse", "severity raised since the page")
	}
	return one(at, "reminded", "approval was still pending")
}

func lostEntries(b cases.Lost, at time.Time) []TimelineEntry {
	switch {
	case b.Action == cases.Isolate:
		return one(at, "isolation-lost", b.Why)
	case cases.Destroys(b.Action):
		return one(at, "removal-stuck", b.Why)
	}
	return one(at, "freeze-lost", b.Why)
}

func clickEntries(b cases.Click) []TimelineEntry {
	text := ActionLabel(b.What) + " by " + b.By
	if b.Refused != "" {
		text += "; refused: " + b.Refused
	}
	return one(b.At, "clicked", text)
}

func outcomeEntries(b cases.Outcome) []TimelineEntry {
	if !b.Done {
		return one(b.At, b.Action+"-failed", b.Error)
	}
	var parts []string
	if b.Processes > 0 {
		parts = append(parts, fmt.Sprintf("%d processes", b.Processes))
	}
	if b.SHA256 != "" {
		parts = append(parts, fmt.Sprintf("%d bytes, SHA-256 %s verified", b.Bytes, b.SHA256))
	}
	for _, s := range []string{b.Verified, b.Unverified, b.NotEnforced} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	return one(b.At, stages[b.Action], strings.Join(append(parts, b.Notes...), "; "))
}
