package notify

import (
	"net/url"
	"strings"
	"unicode"
)

// Plain returns s without control and direction characters, in one line.
func Plain(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case unicode.IsControl(r), unicode.Is(unicode.Bidi_Control, r), r == '\u200b', r == '\u2060', r == '\ufeff':
			return -1
		case r == unicode.ReplacementChar:
			return '?'
		}
		return r
	}, s)
}

// Limit returns s with at most n characters, the last being an ellipsis if it was cut.
func Limit(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return string(r[:n-1]) + "…"
}

// SafeURL returns the address if it is an http or https one, else "".
func SafeURL(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.User != nil || u.Scheme != "https" && u.Scheme != "http" || len(s) > 3000 {
		return ""
	}
	return strings.ReplaceAll(u.String(), "|", "%7C")
}

// Text returns the message as plain text, for channels without a layout of their own.
func (m Message) Text() string {
	var b strings.Builder
	line := func(s string) { b.WriteString(Limit(Plain(s), 500) + "\n") }
	line(m.Verdict + " (" + m.Severity.String() + "): " + m.Summary)
	line("State: " + m.Status)
	for _, part := range []struct {
		title string
		lines []Line
	}{{"Done", m.Done}, {"Next", m.Next}} {
		if len(part.lines) > 0 {
			line("")
			line(part.title + ":")
		}
		for _, l := range part.lines {
			line("- " + l.String())
		}
	}
	if len(m.Fields) > 0 {
		line("")
	}
	for _, f := range m.Fields {
		line(f.Name + ": " + f.Text())
	}
	if owners := m.OwnerLine(); owners != "" {
		line("Owners: " + owners)
	}
	for _, l := range m.Links {
		if u := SafeURL(l.URL); u != "" {
			line(l.Label + ": " + u)
		}
	}
	return b.String()
}

// DetailText returns the details as plain text.
func (m Message) DetailText() string {
	var b strings.Builder
	for _, s := range m.Details {
		b.WriteString("\n" + Limit(Plain(s.Title), 200) + "\n")
		for _, l := range s.Lines {
			b.WriteString("  " + Limit(Plain(l), 1000) + "\n")
		}
		for _, l := range s.Links {
			if u := SafeURL(l.URL); u != "" {
				b.WriteString("  " + Limit(Plain(l.Label), 200) + ": " + u + "\n")
			}
		}
	}
	return b.String()
}

const stampFormat = "2006-01-02 15:04:05 MST"

// String returns the line with its time in UTC.
func (l Line) String() string {
	if l.At.IsZero() {
		return l.Text
	}
	return l.Text + " " + l.At.UTC().Format(stampFormat)
}

// Text returns the value, or the time in UTC, or "unknown".
func (f Field) Text() string {
	switch {
	case !f.At.IsZero():
		return f.At.UTC().Format(stampFormat)
	case f.Value == "":
		return "unknown"
	}
	return f.Value
}

// OwnerLine returns the owners with their sources, best first.
func (m Message) OwnerLine() string {
	var out []string
	for _, o := range m.Owners {
		if o.Source == "" {
			out = append(out, o.Name)
		} else {
			out = append(out, o.Name+" ("+o.Source+")")
		}
	}
	return strings.Join(out, ", ")
}
