package casetext

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/cases/caselog"
	"github.com/contraband-dev/contraband/internal/finding"
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
	switch {
	case f.Kind() == finding.DetectorHealth:
		return []TimelineEntry{{f.EventTime, "since", f.Category}, received}
	case s == nil:
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
	body, err := cases.Decode(e)
	if err != nil {
		return nil, err
	}
	switch b := body.(type) {
	case *cases.Decided:
		return decidedEntries(*b, e.At), nil
	case *cases.Joined:
		return joinedEntries(*b, e.At), nil
	case *cases.Escalated:
		return one(e.At, "escalated", b.Finding+b.Error+retryNote(b.Retry)), nil
	case *cases.Paged:
		return pagedEntries(*b, e.At), nil
	case *cases.Queued:
		return one(e.At, "queued", "told in the digest at "+stamp(b.Until)), nil
	case *cases.Claimed:
		return one(e.At, "claimed", b.Action+" of container "+b.ContainerID), nil
	case *cases.Outcome:
		return outcomeEntries(*b), nil
	case *cases.Click:
		return clickEntries(*b), nil
	case *cases.Rechecked:
		return one(e.At, "rechecked", string(b.Level)+" "+b.Why), nil
	case *cases.OwnersFound:
		return one(e.At, "owners", ownersText(*b)), nil
	case *cases.WorkflowStarted:
		return one(e.At, "waits", b.Execution+b.Error), nil
	case *cases.Reminded:
		return remindedEntries(*b, e.At), nil
	case *cases.Lost:
		return lostEntries(*b, e.At), nil
	case *cases.Reported:
		return one(e.At, "reported", strings.TrimSpace("to Security Command Center: "+b.Status+" "+b.Error)), nil
	case *cases.Closed:
		return one(e.At, "closed", b.Resolution+" by "+b.By), nil
	}
	if e.Kind == cases.KindExpired {
		return one(e.At, "expired", "the freeze has expired"), nil
	}
	return nil, nil // who has the lease
}

func one(at time.Time, stage, text string) []TimelineEntry {
	return []TimelineEntry{{at, stage, text}}
}

// joinedEntries names the programs that are new, and counts the findings.
func joinedEntries(b cases.Joined, at time.Time) []TimelineEntry {
	if len(b.Keys) == 0 {
		return one(at, "refused", fmt.Sprintf("%d more clicks", len(b.Clicks)))
	}
	if len(b.Programs) <= 1 {
		return one(at, "joined", fmt.Sprintf("%d more findings of the same program", len(b.Keys)))
	}
	return one(at, "joined", fmt.Sprintf("%d more findings of %d programs", len(b.Keys), len(b.Programs)))
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
	return one(b.At, cases.Word(b.Action), strings.Join(append(parts, b.Notes...), "; "))
}

func retryNote(r cases.Retry) string {
	if r.RetryAt.IsZero() {
		return ""
	}
	return "; tried again at " + stamp(r.RetryAt)
}

func ownersText(b cases.OwnersFound) string {
	var names []string
	for _, o := range b.Owners {
		names = append(names, o.Name+" ("+o.Source+")")
	}
	if len(names) == 0 {
		return "asked again with more time: no owner was named"
	}
	return "found late: " + strings.Join(names, ", ")
}
