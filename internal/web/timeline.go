package web

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/cases/caselog"
	"github.com/contraband-dev/contraband/internal/notify/slack"
)

// Moment is one line of a case's timeline.
type Moment struct {
	At    time.Time `json:"at"`
	Stage string    `json:"stage"` // one word
	Text  string    `json:"text"`
}

// Start is the moment from which a case's times are counted: the exec where our
// sensor told it, else the finding's event time.
func Start(c cases.Case) time.Time {
	if s := c.Decided.Finding.Sensor; s != nil && !s.Executed.IsZero() {
		return s.Executed
	}
	return c.Decided.Finding.EventTime
}

// Timeline is what happened, in the order of time, from the exec on.
func Timeline(c cases.Case, events []caselog.Event) []Moment {
	var out []Moment
	add := func(at time.Time, stage, text string) {
		if !at.IsZero() {
			out = append(out, Moment{at.UTC(), stage, text})
		}
	}
	f := c.Decided.Finding
	if s := f.Sensor; s != nil {
		add(s.Executed, "executed", f.Process.Path+" in "+f.ShortName())
		add(s.Seen, "seen", "the kernel's event reached the sensor ("+s.Route+")")
		if f.Process.SHA256 != "" {
			add(s.Hashed, "hashed", "SHA-256 "+f.Process.SHA256)
		} else {
			add(s.Hashed, "unhashed", s.Unhashed)
		}
		add(s.Attributed, "attributed", "container "+f.Container.ID+" of image "+f.Container.Image)
		add(s.Raised, "raised", f.Category)
	} else {
		add(f.EventTime, "executed", f.Process.Path+" in "+f.ShortName())
	}
	add(c.Decided.Received, "received", "the finding arrived")
	told := false
	for _, e := range events {
		for _, m := range moments(e) {
			if m.Stage == "paged" && told {
				m.Stage = "page-edited"
			}
			told = told || m.Stage == "paged"
			add(m.At, m.Stage, m.Text)
		}
	}
	slices.SortStableFunc(out, func(a, b Moment) int { return a.At.Compare(b.At) })
	return out
}

// moments of one event; what only says who has the case is left out.
func moments(e caselog.Event) []Moment {
	one := func(stage, text string) []Moment { return []Moment{{e.At, stage, text}} }
	switch e.Kind {
	case cases.KindDecided:
		var b cases.Decided
		json.Unmarshal(e.Body, &b)
		if b.Moved {
			return one("new-container", "container "+b.Finding.Container.ID+" of the pod runs the same")
		}
		return append(one("verdict", string(b.Verdict.Level)+" "+b.Verdict.Label+" "+b.Verdict.Why), Moment{e.At, "decided", "rule " + b.Decision.Rule + ": " + fmt.Sprint(b.Decision.Do)})
	case cases.KindJoined:
		var b cases.Joined
		json.Unmarshal(e.Body, &b)
		return one("joined", fmt.Sprintf("%d more findings about the same", len(b.Keys)))
	case cases.KindEscalated:
		var b cases.Escalated
		json.Unmarshal(e.Body, &b)
		return one("escalated", b.Finding+b.Error)
	case cases.KindPaged:
		var b cases.Paged
		json.Unmarshal(e.Body, &b)
		if b.Error != "" {
			return one("not-paged", b.Error)
		}
		return one("paged", "message "+b.Timestamp+" in channel "+b.Channel)
	case cases.KindClaimed:
		var b cases.Claimed
		json.Unmarshal(e.Body, &b)
		return one("claimed", b.Action+" of container "+b.ContainerID)
	case cases.KindActed:
		var b cases.Outcome
		json.Unmarshal(e.Body, &b)
		if !b.Done {
			return []Moment{{b.At, b.Action + "-failed", b.Error}}
		}
		return []Moment{{b.At, stages[b.Action], outcome(b)}}
	case cases.KindClicked:
		var b cases.Click
		json.Unmarshal(e.Body, &b)
		text := b.What + " by " + b.By
		if b.Refused != "" {
			text += ", refused: " + b.Refused
		}
		return []Moment{{b.At, "pressed", text}}
	case cases.KindExpired:
		return one("expired", "the freeze has ended by itself")
	case cases.KindRechecked:
		var b cases.Verdict
		json.Unmarshal(e.Body, &b)
		return one("asked-again", string(b.Level)+" "+b.Why)
	case cases.KindWorkflowStarted:
		var b cases.WorkflowStarted
		json.Unmarshal(e.Body, &b)
		return one("waits", b.Execution+b.Error)
	case cases.KindReminded:
		var b cases.Reminded
		json.Unmarshal(e.Body, &b)
		if b.Worse {
			return one("warned", "it is graver than the page said")
		}
		return one("reminded", "nobody had answered")
	case cases.KindLost:
		var b cases.Lost
		json.Unmarshal(e.Body, &b)
		if b.Action == cases.Isolate {
			return one("isolation-lost", b.Why)
		}
		return one("freeze-lost", b.Why)
	case cases.KindReported:
		var b cases.Reported
		json.Unmarshal(e.Body, &b)
		return one("reported", "to Security Command Center: "+b.Status+" "+b.Error)
	case cases.KindClosed:
		var b cases.Closed
		json.Unmarshal(e.Body, &b)
		return one("closed", b.Resolution+" by "+b.By)
	}
	return nil
}

var stages = map[string]string{
	cases.Freeze: "frozen", cases.Evidence: "evidence", cases.Thaw: "thawed", cases.Isolate: "isolated", cases.Release: "released",
	cases.Cordon: "cordoned", cases.Uncordon: "uncordoned", cases.Evict: "evicted", cases.Delete: "deleted",
}

func outcome(a cases.Outcome) string {
	var parts []string
	if a.Processes > 0 {
		parts = append(parts, fmt.Sprintf("%d processes", a.Processes))
	}
	if a.SHA256 != "" {
		parts = append(parts, fmt.Sprintf("%d bytes, SHA-256 %s verified", a.Bytes, a.SHA256))
	}
	for _, s := range []string{a.Verified, a.Unverified, a.NotEnforced} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	return strings.Join(append(parts, a.Notes...), "; ")
}

// steps are the lines that the page shows too.
func steps(c cases.Case) []string { return slack.Steps(c, func(s string) string { return s }) }
