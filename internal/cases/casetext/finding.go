package casetext

import (
	"strings"
	"time"

	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/internal/notify"
)

// maxListed bounds how many values of one kind a field lists.
const maxListed = 10

// maxValue bounds a value in a field, in bytes. The case's page shows paths whole.
const maxValue = 300

// maxProse bounds a detector's own sentences, in bytes.
const maxProse = 1000

// FindingFields returns what a finding names beside program, place and verdict: the
// service, what loaded a library or interprets a script, connections, files, indicators,
// and, of a detector's error, what to do. Fields without a value are left out.
func FindingFields(f finding.Finding) []notify.Field {
	out := []notify.Field{
		{Name: "Reported by", Value: reporterLine(f)},
		{Name: "Service", Value: serviceLine(f.Service), Code: true},
		{Name: runnerName(f), Value: runnerLine(f.Process.Runner), Code: true},
		{Name: "Connections", Value: listed(f.Connections, finding.Connection.String), Code: true},
		{Name: "Files", Value: listed(f.Files, cut), Code: true},
		{Name: "Indicators", Value: listed(f.Indicators, cut), Code: true},
		{Name: "Also in the finding", Value: listed(f.Others, mentionLine), Code: true},
		{Name: "SHA-256 of the first part", Value: f.Process.Partial, Code: true},
	}
	if f.Kind() == finding.DetectorHealth {
		out = append(out, notify.Field{Name: "Not seen", Value: shortened(f.Description, maxProse)},
			notify.Field{Name: "Since", Value: since(f.EventTime)}, notify.Field{Name: "What to do", Value: shortened(f.NextSteps, maxProse)})
	}
	var set []notify.Field
	for _, field := range out {
		if field.Value != "" {
			set = append(set, field)
		}
	}
	return set
}

// reporterLine returns the detector with its severity. Our own sensor's is fixed, and says
// nothing.
func reporterLine(f finding.Finding) string {
	if f.ReportedBy == finding.ReporterOurs || f.Detector == "" && f.ReportedBy.Trusted() {
		return ""
	}
	line := f.ReporterName()
	if f.Severity != "" {
		line += ", severity " + cut(f.Severity)
	}
	if !f.ReportedBy.Trusted() && f.Kind() != finding.DetectorHealth {
		line += "; not a trusted source: nothing is contained"
	}
	return line
}

func since(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return stamp(t)
}

func serviceLine(s finding.Service) string {
	if s.Kind == "" {
		return ""
	}
	line := string(s.Kind) + " " + s.Name
	if s.Revision != "" {
		line += ", revision " + s.Revision
	}
	return line
}

func runnerName(f finding.Finding) string {
	if f.Type().Subject == finding.SubjectLibrary {
		return "Loaded by"
	}
	return "Interpreter"
}

func runnerLine(r *finding.Runner) string {
	if r == nil {
		return ""
	}
	line := cut(r.Path)
	if r.SHA256 != "" {
		line += " (SHA-256 " + r.SHA256 + ")"
	}
	return strings.TrimSpace(line)
}

func mentionLine(m finding.Mention) string {
	line := m.Kind + " " + cut(m.Name)
	if m.SHA256 != "" {
		line += " (SHA-256 " + m.SHA256 + ")"
	}
	return line
}

// listed returns values in one line; of many, the first.
func listed[T any](values []T, text func(T) string) string {
	var out []string
	for _, v := range values[:min(len(values), maxListed)] {
		out = append(out, text(v))
	}
	if len(values) > maxListed {
		out = append(out, "and more")
	}
	return strings.Join(out, ", ")
}

// cut shortens a value of a field.
func cut(s string) string { return shortened(s, maxValue) }

// shortened returns at most limit bytes of s, without its middle: of a path, beginning and
// end say most.
func shortened(s string, limit int) string {
	const mark = "..."
	if len(s) <= limit {
		return s
	}
	half := (limit - len(mark)) / 2
	return strings.ToValidUTF8(s[:half], "") + mark + strings.ToValidUTF8(s[len(s)-half:], "")
}
