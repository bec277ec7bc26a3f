package main

import (
	"strings"

	"github.com/contraband-dev/contraband/internal/web/safetext"
)

// oneLine returns attacker-controlled text in a form that a terminal does not interpret: control
// and bidirectional characters are escaped.
func oneLine(s string) string { return safetext.Escape(s) }

// truncate returns text of at most width columns, cut in the middle.
func truncate(s string, width int) string {
	return safetext.Middle(safetext.Escape(strings.TrimSpace(s)), width)
}
