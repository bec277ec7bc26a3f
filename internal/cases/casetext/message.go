package casetext

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/internal/notify"
)

// Message returns the message about a case as it is now. link returns the address
// of a case's page; nil: there is none.
func Message(c cases.Case, link func(caseID string) string) notify.Message {
	d := c.Decided
	m := notify.Message{
		Key: c.ID, Severity: severity(c), Verdict: Label(c), Summary: Headline(c), Status: c.Status(),
		Resolved: c.Closed != nil, Done: doneLines(c), Next: nextLines(c), Fields: fields(c), Owners: owners(c),
		Updates: updates(c), Details: detailSections(c),
	}
	for _, a := range Actions(c) {
		m.Actions = append(m.Actions, notify.Action{
			ID: a.ID, Value: fmt.Sprintf("%s/%d", c.ID, a.Decision), Label: a.Label, Confirm: a.Confirm, Style: string(a.Style)})
	}
	if link != nil {
		m.Links = append(m.Links, notify.Link{Label: "Open case", URL: link(c.ID)})
	}
	if uri := d.Finding.ExternalURI; strings.HasPrefix(uri, sccConsole) {
		m.Links = append(m.Links, notify.Link{Label: "Open in SCC", URL: uri})
	}
	return m
}

// Label returns what a message or a page says first of a case: its verdict, or that it is
// about a detector.
func Label(c cases.Case) string {
	if c.Decided.Finding.Kind() == finding.DetectorHealth {
		return "Detector error"
	}
	return VerdictWord(c.Decided.Verdict.Level)
}

// sccConsole is where a finding's own address must lead: others are not linked.
const sccConsole = "https://console.cloud.google.com/"

// severities of verdicts; a finding's own severity can raise an unknown one.
var severities = map[cases.Level]notify.Severity{
	cases.Malicious: notify.Critical, cases.Suspicious: notify.High, cases.Unknown: notify.Medium, cases.NotLookedUp: notify.Low,
}

func severity(c cases.Case) notify.Severity {
	if c.Decided.Finding.Kind() == finding.DetectorHealth {
		return notify.High
	}
	s := severities[c.Decided.Verdict.Level]
	if f := c.Decided.Finding.Severity; s < notify.High && (f == "CRITICAL" || f == "HIGH") {
		return s + 1
	}
	return s
}

func fields(c cases.Case) []notify.Field {
	f := c.Decided.Finding
	where, node := notify.Field{Name: "Where", Value: cut(Place(c)), Code: true}, notify.Field{Name: "Node", Value: cut(f.Node), Code: true}
	rule := notify.Field{Name: "Rule", Value: c.Decided.Decision.Rule}
	var out []notify.Field
	switch {
	case f.Kind() == finding.DetectorHealth && f.Node == "":
		out = []notify.Field{where, rule}
	case f.Kind() == finding.DetectorHealth:
		out = []notify.Field{where, node, rule}
	default:
		out = []notify.Field{
			{Name: programName(f), Value: cut(f.Process.Path), Code: true},
			{Name: "Verdict", Value: VerdictLine(c.Decided.Verdict)},
			where,
			{Name: "Image", Value: cut(f.Container.Image), Code: true},
			node,
			{Name: "First run", At: f.EventTime},
			{Name: "SHA-256", Value: f.Process.SHA256, Code: true},
			rule,
		}
	}
	if f.Service.Kind != "" { // it has no node
		out = slices.DeleteFunc(out, func(field notify.Field) bool { return field.Name == node.Name })
	}
	out = append(out, FindingFields(f)...)
	if c.Joined > 0 {
		out = append(out, notify.Field{Name: "Findings", Value: roundedCount(c.Joined + 1)})
	}
	return out
}

// programName returns what Finding.Process is.
func programName(f finding.Finding) string {
	switch f.Type().Subject {
	case finding.SubjectLibrary:
		return "Library"
	case finding.SubjectScript:
		return "Script"
	}
	return "Program"
}

// roundedCount returns small counts exactly and large ones as a lower bound, so that a
// message is not edited for every further finding.
func roundedCount(n int) string {
	if n < 10 {
		return fmt.Sprint(n)
	}
	bound := 10
	for _, step := range []int{20, 50, 100, 200, 500, 1000, 10000, 100000} {
		if n >= step {
			bound = step
		}
	}
	return fmt.Sprintf("%d or more", bound)
}

func owners(c cases.Case) []notify.Owner {
	var out []notify.Owner
	for _, o := range c.Decided.Facts.Owners {
		out = append(out, notify.Owner{Name: o.Name, Source: o.Source})
	}
	if len(out) > 0 {
		return out
	}
	for _, name := range c.Decided.Facts.Contacts {
		out = append(out, notify.Owner{Name: name})
	}
	return out
}

func doneLines(c cases.Case) []notify.Line {
	var out []notify.Line
	if why := c.Decided.Decision.Why; why != "" {
		out = append(out, notify.Line{Text: why, Warn: true})
	}
	if e := c.Escalated; e != nil {
		out = append(out, notify.Line{Text: escalation(c)[0], Warn: e.Error != ""})
	}
	for _, loss := range losses(c) {
		out = append(out, notify.Line{Text: loss, Warn: true})
	}
	if c.Moves > 0 {
		out = append(out, notify.Line{Text: fmt.Sprintf("the container was replaced %d times by one that ran the same program", c.Moves)})
	}
	for _, claim := range latestClaims(c) {
		out = append(out, claimLines(claim)...)
	}
	for _, k := range c.Clicks {
		line := notify.Line{Text: k.By + ": " + ActionLabel(k.What), At: k.At}
		if k.Refused != "" {
			line.Text, line.Warn = line.Text+" (refused: "+k.Refused+")", true
		}
		out = append(out, line)
	}
	if c.Closed != nil {
		out = append(out, notify.Line{Text: "closed as " + c.Closed.Resolution + " by " + c.Closed.By})
	}
	return out
}

// latestClaims returns the latest claim of each action, in the order in which they began.
func latestClaims(c cases.Case) []*cases.Claim {
	var out []*cases.Claim
	for _, action := range cases.Containments {
		for _, a := range []string{action, cases.UndoOf(action)} {
			if claim := c.Claim(a); a != "" && claim != nil {
				out = append(out, claim)
			}
		}
	}
	slices.SortStableFunc(out, func(a, b *cases.Claim) int { return cmp.Compare(a.N, b.N) })
	return out
}

func claimLines(claim *cases.Claim) []notify.Line {
	o := claim.Outcome
	if o == nil {
		return []notify.Line{{Text: claim.Action + " is in progress since", At: claim.At}}
	}
	if !o.Done {
		return []notify.Line{{Text: claim.Action + " NOT done: " + o.Error, Warn: true}}
	}
	text := cases.DoneText(claim.Action)
	if o.Processes > 0 {
		text += fmt.Sprintf(" (%d processes)", o.Processes)
	}
	if len(o.Items) > 0 {
		text += fmt.Sprintf(" (%d items)", len(o.Items))
	}
	if o.Verified != "" {
		text += " (verified: " + o.Verified + ")"
	}
	out := []notify.Line{{Text: text + " at", At: o.At}}
	for _, problem := range []struct{ label, text string }{{"NOT ENFORCED", o.NotEnforced}, {"not verified", o.Unverified}} {
		if problem.text != "" {
			out = append(out, notify.Line{Text: problem.label + ": " + problem.text, Warn: true})
		}
	}
	for _, n := range o.Notes {
		out = append(out, notify.Line{Text: n})
	}
	return out
}

// nextLines returns what happens without anybody's doing, and what is waited for.
func nextLines(c cases.Case) []notify.Line {
	if c.Closed != nil {
		return nil
	}
	d := c.Decided.Decision
	var out []notify.Line
	if c.Asking() {
		out = append(out, notify.Line{Text: "Waiting for approval of: " + strings.Join(cases.InOrder(d.Do), ", ") + ", since", At: c.DecidedAt(), Warn: true})
	} else {
		out = append(out, plannedLines(c)...)
	}
	for _, held := range []string{cases.Freeze, cases.Isolate} {
		if done := c.Done(held); c.InForce(held) && !done.Until.IsZero() {
			out = append(out, notify.Line{Text: cases.ContainmentOf(held).Stays + " unless released earlier, until", At: done.Until})
		}
	}
	if times := c.RecheckTimes(); len(times) > 0 {
		out = append(out, notify.Line{Text: "The verdict is looked up again at", At: times[0].Truncate(time.Second)})
	}
	if len(out) == 0 {
		out = append(out, notify.Line{Text: "Nothing happens by itself: " + leftToDo(c)})
	}
	return out
}

// leftToDo returns what a person can do about a case for which nothing is planned.
func leftToDo(c cases.Case) string {
	switch f := c.Decided.Finding; {
	case f.Kind() == finding.DetectorHealth:
		return "repair the detector, then close the case"
	case f.ContainmentUnsupported() != "":
		return "follow the commands, then close the case"
	}
	return "close the case, or contain the pod"
}

func plannedLines(c cases.Case) []notify.Line {
	d := c.Decided.Decision
	var out []notify.Line
	if d.Includes(cases.Escalate) && c.Escalated == nil {
		out = append(out, notify.Line{Text: "to be escalated in Security Command Center"})
	}
	wanted := c.Wanted(c.Updated)
	for _, action := range cases.InOrder(slices.Concat(d.Do, wanted)) {
		claim := c.Claim(action)
		switch {
		case claim == nil && slices.Contains(wanted, action):
			out = append(out, notify.Line{Text: action + " is planned"})
		case claim != nil && claim.Outcome != nil && !claim.Outcome.RetryAt.IsZero():
			out = append(out, notify.Line{Text: action + " is tried again at", At: claim.Outcome.RetryAt})
		}
	}
	return out
}

// updates returns a line for each change that a reader should notice.
func updates(c cases.Case) []notify.Update {
	out := []notify.Update{{Key: notify.DetailsKey, Text: "Details"}}
	for i := range c.Claims {
		if o := c.Claims[i].Outcome; o != nil && o.Done && o.Action != cases.Evidence {
			out = append(out, notify.Update{Key: fmt.Sprintf("claim-%d", c.Claims[i].N), Text: cases.DoneText(c.Claims[i].Action), At: o.At})
		}
	}
	for i, loss := range losses(c) {
		out = append(out, notify.Update{Key: fmt.Sprintf("loss-%d-%.40s", i, loss), Text: loss})
	}
	for _, k := range c.Clicks {
		if k.Refused == "" {
			out = append(out, notify.Update{Key: "click-" + k.ID, Text: k.By + ": " + ActionLabel(k.What), At: k.At})
		}
	}
	if c.Closed != nil {
		out = append(out, notify.Update{Key: "closed", Text: "closed as " + c.Closed.Resolution + " by " + c.Closed.By})
	}
	return out[:min(len(out), maxUpdates)]
}

// maxUpdates bounds a thread.
const maxUpdates = 50

// Reminder returns the update that notifies people again that an approval is pending. It is
// one for each decision.
func Reminder(c cases.Case, now time.Time) notify.Update {
	of := c.DecidedAt().UTC().Format(time.RFC3339Nano)
	pending := now.Sub(c.DecidedAt()).Round(time.Minute)
	return notify.Update{Key: "reminder of the decision of " + of, Text: fmt.Sprintf("Approval pending for %s: %s", pending, Headline(c)), Broadcast: true}
}

func detailSections(c cases.Case) []notify.Section {
	f, facts := c.Decided.Finding, c.Decided.Facts
	out := []notify.Section{{Title: "Process tree", Lines: processTree(c), Code: true}}
	if w := facts.Workload; w != nil && len(w.Owners) > 0 {
		var chain []string
		for _, o := range w.Owners {
			chain = append(chain, o.Kind+" "+o.Name)
		}
		out = append(out, notify.Section{Title: "Workload", Lines: []string{strings.Join(chain, " <- ")}, Code: true})
	}
	if contents := f.Process.Contents; contents != "" {
		out = append(out, notify.Section{Title: "Beginning of the script", Lines: strings.Split(shortened(contents, maxProse), "\n"), Code: true})
	}
	if a := c.Done(cases.Evidence); a != nil {
		var items []string
		for _, i := range a.Items {
			items = append(items, fmt.Sprintf("%s: %d bytes, SHA-256 %s %s", i.Name, i.Bytes, i.SHA256, i.Error))
		}
		out = append(out, notify.Section{Title: "Evidence", Lines: items, Code: true})
	}
	out = append(out, factSection("Commands", facts.Commands), factSection("Logs", linksOnly(facts.Queries)),
		factSection("Research", facts.Research), factSection("Related findings of the container", facts.Related),
		notify.Section{Title: "Could not be looked up", Lines: facts.Missing})
	if f.Sensor != nil && f.Sensor.Missed != "" {
		out = append(out, notify.Section{Title: "Not seen in this window", Lines: []string{f.Sensor.Missed}})
	}
	return slices.DeleteFunc(out, func(s notify.Section) bool { return len(s.Lines) == 0 && len(s.Links) == 0 })
}

// processTree returns the program below its ancestors, the oldest first.
func processTree(c cases.Case) []string {
	f := c.Decided.Finding
	if f.Process.Path == "" {
		return nil
	}
	var out []string
	if f.Sensor != nil {
		out = slices.Clone(f.Sensor.Ancestors)
		slices.Reverse(out)
	}
	line := f.Process.Path
	if f.Process.PID != 0 {
		line += fmt.Sprintf(" (%d)", f.Process.PID)
	}
	if len(f.Process.Args) > 1 {
		line += " " + strings.Join(f.Process.Args[1:], " ")
	}
	out = append(out, line)
	for i := range out {
		out[i] = strings.Repeat("  ", i) + out[i]
	}
	return out
}

func factSection(title string, facts []cases.Fact) notify.Section {
	s := notify.Section{Title: title, Code: true}
	for _, f := range facts {
		if f.Link != "" {
			s.Links = append(s.Links, notify.Link{Label: f.Title, URL: f.Link})
		}
		if f.Text != "" {
			s.Lines = append(s.Lines, f.Text)
		}
	}
	return s
}

// linksOnly drops the text of queries whose link says the same.
func linksOnly(facts []cases.Fact) []cases.Fact {
	out := slices.Clone(facts)
	for i := range out {
		if out[i].Link != "" {
			out[i].Text = ""
		}
	}
	return out
}
