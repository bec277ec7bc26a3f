package expected

import (
	"fmt"
	"strings"
)

// contextLines is how many unchanged lines a diff shows on each side.
const contextLines = 3

// Diff returns a unified diff that adds a draft to a policy file's exceptions.
func Diff(name, file, draft string) string {
	lines := strings.SplitAfter(file, "\n")
	if lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	at, added := len(lines), []string{"exceptions:"}
	var removed string
	for i, line := range lines {
		key, value, ok := strings.Cut(strings.TrimRight(line, "\n"), ":")
		if !ok || key != "exceptions" {
			continue
		}
		at, added = i+1, nil
		if strings.TrimSpace(value) == "[]" {
			at, removed, added = i, line, []string{"exceptions:"}
		}
	}
	for line := range strings.Lines(draft) {
		added = append(added, "  "+strings.TrimRight(line, "\n"))
	}
	after := at
	if removed != "" {
		after++
	}
	from, to := max(0, at-contextLines), min(len(lines), after+contextLines)
	var b strings.Builder
	fmt.Fprintf(&b, "--- a/%[1]s\n+++ b/%[1]s\n@@ -%d,%d +%d,%d @@\n", name, from+1, to-from, from+1, to-from+len(added)-(after-at))
	write := func(sign string, all ...string) {
		for _, line := range all {
			b.WriteString(sign + strings.TrimRight(line, "\n") + "\n")
		}
	}
	write(" ", lines[from:at]...)
	write("-", lines[at:after]...)
	write("+", added...)
	write(" ", lines[after:to]...)
	return b.String()
}
