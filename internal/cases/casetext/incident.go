package casetext

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/incidents"
	"github.com/contraband-dev/contraband/internal/notify"
)

// Bounds of what a message lists.
const (
	maxListedPrograms = 10
	maxListedCases    = 20
)

// IncidentMessage returns the message about an incident as it is now: its most severe
// case, with what the others add. link returns the address of a case's page; nil: there
// is none.
func IncidentMessage(i incidents.Incident, link func(caseID string) string) notify.Message {
	lead := i.Lead()
	m := Message(lead, link)
	m.Key = i.Key()
	if len(i.Cases) > 1 || i.MoreCases > 0 {
		m.Summary = incidentHeadline(i)
		m.Status = i.Status()
		m.Resolved = i.Resolved()
		m.Done = doneLines(lead)
		m.Fields = append(m.Fields, notify.Field{Name: "Pods", Value: roundedCount(i.Pods())})
		m.Actions = incidentActions(i)
		m.Updates = incidentUpdates(i)
		m.Details = append(m.Details, caseList(i, link))
	}
	if i.Replaces != "" {
		m.Done = append(m.Done, notify.Line{Text: "People are notified anew: the log of an earlier message about this is damaged (contraband case check)", Warn: true})
	}
	if programs := i.Programs(); len(programs) > 1 {
		m.Fields = append(m.Fields, notify.Field{Name: "Programs", Value: roundedCount(len(programs))})
		m.Details = append([]notify.Section{programList(programs)}, m.Details...)
	}
	return m
}

// IncidentHeadline returns the incident in one line.
func IncidentHeadline(i incidents.Incident) string {
	if len(i.Cases) > 1 || i.MoreCases > 0 {
		return incidentHeadline(i)
	}
	return Headline(i.Lead())
}

// incidentHeadline names the workload instead of one of its pods.
func incidentHeadline(i incidents.Incident) string {
	f := i.Lead().Decided.Finding
	where := shortened(i.Workload.String(), maxPlace)
	if f.Cluster != "" {
		where += " in " + shortened(f.Cluster, maxPlace)
	}
	return happened(f, i.Lead().Decided.Verdict.Level) + " in " + where + subject(f) + ", " + pods(i)
}

// pods returns the number of pods in words; a large one is a lower bound, so that no
// message is edited for each.
func pods(i incidents.Incident) string {
	if n := i.Pods(); n != 1 {
		return roundedCount(n) + " pods"
	}
	return "1 pod"
}

// incidentActions returns the actions of all open cases; each acts on every case that it
// fits.
func incidentActions(i incidents.Incident) []notify.Action {
	var out []notify.Action
	for _, c := range i.Open() {
		for _, a := range Actions(c) {
			if slices.ContainsFunc(out, func(o notify.Action) bool { return o.ID == a.ID }) {
				continue
			}
			confirm := a.Confirm
			if confirm != "" {
				confirm = fmt.Sprintf("%s: acts on every case of this incident that it applies to, in %s.", a.Label, pods(i))
			}
			out = append(out, notify.Action{ID: a.ID, Value: fmt.Sprintf("%s/%d", i.ID, i.ShownAt()), Label: a.Label + " (all)",
				Confirm: confirm, Style: string(a.Style)})
		}
	}
	return out
}

// incidentUpdates returns the details and each case's updates, under keys of their own.
func incidentUpdates(i incidents.Incident) []notify.Update {
	out := []notify.Update{{Key: notify.DetailsKey, Text: "Details"}}
	for _, c := range i.Cases {
		for _, u := range updates(c) {
			if u.Key == notify.DetailsKey {
				continue
			}
			u.Key, u.Text = c.ID+"-"+u.Key, cut(c.Decided.Finding.ShortName())+": "+u.Text
			out = append(out, u)
		}
	}
	return out[:min(len(out), maxUpdates)]
}

func programList(programs []cases.Program) notify.Section {
	s := notify.Section{Title: "Programs, the most severe first", Code: true}
	for _, p := range programs[:min(len(programs), maxListedPrograms)] {
		s.Lines = append(s.Lines, ProgramLine(p))
	}
	if more := len(programs) - maxListedPrograms; more > 0 {
		s.Lines = append(s.Lines, "and more, in the case")
	}
	return s
}

// ProgramLine returns a program in one line.
func ProgramLine(p cases.Program) string {
	line := strings.TrimSpace(fmt.Sprintf("%s %s", VerdictLine(p.Verdict), cut(p.Path)))
	if p.SHA256 != "" {
		line += " " + p.SHA256[:12]
	}
	if p.Count > 1 {
		line += ", " + roundedCount(p.Count) + " times"
	}
	if p.Expected != "" {
		line += ", expected (" + p.Expected + ")"
	}
	return line
}

func caseList(i incidents.Incident, link func(caseID string) string) notify.Section {
	s := notify.Section{Title: "Cases"}
	for _, c := range i.Cases[:min(len(i.Cases), maxListedCases)] {
		line := cut(c.Decided.Finding.ShortName()) + ": " + c.Status()
		if link != nil {
			s.Links = append(s.Links, notify.Link{Label: line, URL: link(c.ID)})
			continue
		}
		s.Lines = append(s.Lines, line)
	}
	if len(i.Cases)+i.MoreCases > maxListedCases {
		s.Lines = append(s.Lines, "and more")
	}
	return s
}

// IncidentReminder returns the update that notifies people again. It is one for each level,
// decision or round.
func IncidentReminder(i incidents.Incident, why incidents.Reason, now time.Time) notify.Update {
	switch c := i.OverBudget(); {
	case why == incidents.Worse:
		return notify.Update{Key: "worse: " + string(i.Level()) + " in " + i.Lead().ID, Text: "Severity raised since the page: " + IncidentHeadline(i), Broadcast: true}
	case why == incidents.OverBudget && c != nil:
		return notify.Update{Key: fmt.Sprintf("over budget in round %d", i.Round), Text: fmt.Sprintf("NOT CONTAINED until %s: %s: %s",
			stamp(c.OverBudget().RetryAt), IncidentHeadline(i), c.OverBudget().Error), Broadcast: true}
	}
	for _, c := range i.Cases {
		if c.Asking() && c.DecidedAt().After(i.Reminded) {
			return Reminder(c, now)
		}
	}
	return Reminder(i.Lead(), now)
}

// Unanswered returns the update that says that nobody has answered the page.
func Unanswered(i incidents.Incident, now time.Time) notify.Update {
	pending := now.Sub(i.FirstPaged).Round(time.Minute)
	return notify.Update{Key: "unanswered since " + stamp(i.FirstPaged), Text: fmt.Sprintf("Nobody has answered for %s: %s", pending, IncidentHeadline(i)), Broadcast: true}
}

// maxDigested bounds how many incidents a digest names.
const maxDigested = 40

// DigestMessage returns one message about several incidents, which the policy keeps for the
// digest or which were too many to page one by one.
func DigestMessage(key string, all []incidents.Incident, link func(caseID string) string) notify.Message {
	m := notify.Message{Key: key, Verdict: "Digest", Status: "open", Summary: fmt.Sprintf("%d more incidents: more than are paged one by one", len(all))}
	if len(all) > 0 && all[0].Queued != nil && all[0].Queued.ByPolicy {
		m.Summary = fmt.Sprintf("Incidents that can wait, by the policy: %d", len(all))
	}
	for n, i := range all {
		m.Severity = max(m.Severity, severity(i.Lead()))
		if n < maxDigested {
			m.Done = append(m.Done, notify.Line{Text: IncidentHeadline(i), At: i.Opened})
		}
		if link != nil && n < maxDigestLinks {
			m.Links = append(m.Links, notify.Link{Label: "Open case " + fmt.Sprint(n+1), URL: link(i.Lead().ID)})
		}
	}
	if more := len(all) - maxDigested; more > 0 {
		m.Done = append(m.Done, notify.Line{Text: fmt.Sprintf("and %d more, in the casebook", more)})
	}
	return m
}

// maxDigestLinks bounds the buttons of a digest.
const maxDigestLinks = 5
