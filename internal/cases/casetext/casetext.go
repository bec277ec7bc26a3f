// Package casetext renders a case as plain text and data: headline, place,
// verdict, steps, actions and timeline. Slack, the web pages and the command
// line lay the same data out, each with its own escaping; nothing here is
// escaped. It performs no I/O and knows no channel.
package casetext

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/finding"
)

// Headline returns the case in one line: what happened, where, to which program, and what started it.
func Headline(c cases.Case) string {
	f := c.Decided.Finding
	where := shortened(f.ShortName(), maxPlace)
	if f.Service.Kind != "" {
		where = shortened(string(f.Service.Kind)+" "+f.Service.Name, maxPlace)
	}
	if where == "" {
		where = "an unknown container"
	}
	if f.Cluster != "" {
		where += " (" + shortened(f.Cluster, maxPlace) + ")"
	}
	if f.Kind() == finding.DetectorHealth {
		return happened(f, c.Decided.Verdict.Level) + healthPlace(f)
	}
	line := happened(f, c.Decided.Verdict.Level) + " in " + where + subject(f)
	if f.Sensor != nil && len(f.Sensor.Ancestors) > 0 {
		parent, _, _ := strings.Cut(f.Sensor.Ancestors[0], " (")
		line += ", started by " + shortened(parent, maxPlace)
	}
	return line
}

// healthPlace returns where a detector does not see what it should.
func healthPlace(f finding.Finding) string {
	place := ""
	for _, p := range []struct{ word, name string }{{" on node ", f.Node}, {" in cluster ", f.Cluster}} {
		if p.name != "" {
			place += p.word + shortened(p.name, maxPlace)
		}
	}
	if place == "" && f.Project != "" {
		return " in project " + shortened(f.Project, maxPlace)
	}
	return place
}

// Bounds of parts of a headline, in bytes.
const (
	maxPlace = 150
	maxPath  = 200
)

// happened returns what a finding reports: of a program or a library that was added, with
// its verdict; of behaviour, the detector's name for it.
func happened(f finding.Finding, level cases.Level) string {
	switch {
	case f.Process.Path == "":
	case f.Category == finding.AddedBinary || f.Category == finding.AddedMaliciousBinary:
		return VerdictWord(level) + " program ran"
	case f.Type().Subject == finding.SubjectLibrary:
		return VerdictWord(level) + " library loaded"
	}
	return shortened(f.Category, maxPlace)
}

// subject returns the path that a finding is about, and where it is connected to.
func subject(f finding.Finding) string {
	if f.Process.Path == "" {
		return ""
	}
	line := ": " + shortened(f.Process.Path, maxPath)
	if f.Type().Subject == finding.SubjectConnection && len(f.Connections) > 0 {
		line += " -> " + f.Connections[0].Remote()
	}
	return line
}

var verdictWords = map[cases.Level]string{
	cases.Malicious: "Malicious", cases.Suspicious: "Suspicious", cases.Unknown: "Unknown", cases.NotLookedUp: "Unchecked",
}

// VerdictWord returns the verdict as an adjective for a headline.
func VerdictWord(l cases.Level) string {
	if word := verdictWords[l]; word != "" {
		return word
	}
	return "Unknown"
}

// Place returns project, location, cluster and pod or container, as far as they are known.
func Place(c cases.Case) string {
	f := c.Decided.Finding
	var parts []string
	for _, p := range []string{f.Project, f.Location, f.Cluster, f.ShortName()} {
		if p != "" {
			parts = append(parts, p)
		}
	}
	return strings.Join(parts, " / ")
}

// VerdictLine returns level, label, source and reason of a verdict in one line.
func VerdictLine(v cases.Verdict) string {
	line := string(v.Level)
	if v.Label != "" {
		line += ": " + v.Label
	}
	if v.Source != "" {
		line += " (" + v.Source + ")"
	}
	if v.Why != "" {
		line += " - " + v.Why
	}
	return line
}

// Steps returns one line for each thing that was done, is planned, failed or
// was refused, in the order of the playbook. Indented lines belong to the one above.
func Steps(c cases.Case) []string {
	d := c.Decided.Decision
	out := []string{"rule: " + d.Rule}
	if c.Damaged != "" {
		out = []string{"the log is DAMAGED, and this is what can be read of it (contraband case check): " + c.Damaged}
	}
	if d.Why != "" {
		out = append(out, d.Why)
	}
	out = append(out, escalation(c)...)
	if c.Queued != nil {
		out = append(out, "told in the digest at "+stamp(c.Queued.Until))
	}
	if c.Asking() {
		out = append(out, "WAITING for approval of: "+strings.Join(cases.InOrder(d.Do), ", "))
	}
	out = append(out, losses(c)...)
	if c.Moves > 0 {
		out = append(out, fmt.Sprintf("the container was replaced %d times by one that ran the same program", c.Moves))
	}
	for _, action := range cases.Containments {
		out = append(out, actionLines(c, action)...)
		if undo := cases.UndoOf(action); undo != "" {
			out = append(out, actionLines(c, undo)...)
		}
	}
	if c.Joined > 0 {
		out = append(out, fmt.Sprintf("%d more findings of %s, the last at %s", c.Joined, programCount(c), stamp(c.LastSeen)))
	}
	out = append(out, clicks(c)...)
	if c.Closed != nil {
		out = append(out, "closed as "+c.Closed.Resolution+" by "+c.Closed.By)
	}
	return out
}

// programCount returns how many programs the case has, in words.
func programCount(c cases.Case) string {
	if n := len(c.Programs) + c.MorePrograms; n > 1 {
		return fmt.Sprintf("%d programs", n)
	}
	return "the same program"
}

func escalation(c cases.Case) []string {
	switch e := c.Escalated; {
	case e != nil && e.Error != "":
		if e.RetryAt.IsZero() {
			return []string{"not escalated: " + e.Error}
		}
		return []string{"not escalated yet, and tried again: " + e.Error}
	case e != nil:
		return []string{"escalated in Security Command Center"}
	case c.Decided.Decision.Includes(cases.Escalate):
		return []string{"to be escalated in Security Command Center"}
	}
	return nil
}

// losses returns what is no longer in effect although no person ended it.
func losses(c cases.Case) []string {
	var out []string
	if c.Expired {
		out = append(out, "the freeze has expired: the container is RUNNING again")
	}
	if c.FreezeLostReason != "" {
		out = append(out, "the container is NO LONGER FROZEN: "+c.FreezeLostReason)
	}
	if c.IsolationBroken != "" {
		out = append(out, "the pod is NO LONGER ISOLATED: "+c.IsolationBroken)
	}
	if c.RemovalStuck != "" {
		out = append(out, "the pod was removed but is STILL THERE: "+c.RemovalStuck)
	}
	return out
}

func actionLines(c cases.Case, action string) []string {
	claim := c.Claim(action)
	if claim == nil {
		if slices.Contains(c.Wanted(c.Updated), action) {
			return []string{action + " is planned"}
		}
		return nil
	}
	if claim.Outcome == nil {
		return []string{action + " is in progress since " + stamp(claim.At)}
	}
	return outcomeLines(c, action, *claim.Outcome)
}

func outcomeLines(c cases.Case, action string, a cases.Outcome) []string {
	line := action + " NOT done: " + a.Error
	if a.Done {
		line = cases.DoneText(action) + " at " + stamp(a.At)
	}
	if a.Processes > 0 {
		line += fmt.Sprintf(" (%d processes)", a.Processes)
	}
	if len(a.Items) > 0 {
		line += fmt.Sprintf(" (%d items)", len(a.Items))
	}
	if !a.RetryAt.IsZero() {
		line += "; next try after " + stamp(a.RetryAt)
	}
	out := []string{line}
	for _, detail := range []struct{ label, text string }{
		{"NOT ENFORCED", a.NotEnforced}, {"not verified", a.Unverified}, {"verified", a.Verified},
	} {
		if detail.text != "" {
			out = append(out, "  "+detail.label+": "+detail.text)
		}
	}
	if a.Done && !a.Until.IsZero() && c.InForce(action) {
		out = append(out, "  until "+stamp(a.Until)+", unless released earlier")
	}
	for _, n := range a.Notes {
		out = append(out, "  "+n)
	}
	return out
}

func clicks(c cases.Case) []string {
	var out []string
	for _, k := range c.Clicks {
		line := k.By + " clicked " + ActionLabel(k.What)
		if k.Refused != "" {
			line += "; refused: " + k.Refused
		}
		out = append(out, line)
	}
	return out
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
