package casetext

import (
	"strings"

	"github.com/contraband-dev/contraband/internal/cases"
)

// Style says how prominent an action is.
type Style string

// Styles of actions.
const (
	StyleDefault Style = ""
	StylePrimary Style = "primary" // what the case waits for
	StyleDanger  Style = "danger"  // cannot be undone
)

// Action is something that a person can do about a case.
type Action struct {
	ID    string `json:"id"` // what a click records: cases.ActionApprove, ...
	Label string `json:"label"`
	// Confirm is the question to ask before the click counts. Empty: none.
	Confirm string `json:"confirm,omitempty"`
	Style   Style  `json:"style,omitempty"`
	// Decision is the number of the decision that the reader sees.
	Decision int `json:"decision"`
}

type actionText struct {
	label   string
	style   Style
	confirm func(c cases.Case, where string) string // nil: no confirmation
}

var actionTexts = map[string]actionText{
	cases.ActionApprove: {label: "Approve", style: StylePrimary, confirm: func(c cases.Case, where string) string {
		return "Contains " + where + ": " + strings.Join(cases.InOrder(c.Decided.Decision.Do), ", ") + "."
	}},
	cases.ActionDeny: {label: "Deny"},
	cases.ActionContain: {label: "Contain now", style: StyleDanger, confirm: func(_ cases.Case, where string) string {
		return "Freezes " + where + " and saves evidence, within the guards: the container serves nothing until it is released."
	}},
	cases.ActionRelease: {label: "Release", confirm: func(c cases.Case, where string) string {
		if c.Frozen() {
			return "Unfreezes " + where + "; the program will run again."
		}
		return "Releases " + where + " from containment."
	}},
	cases.ActionExtend: {label: "Hold longer"},
	cases.ActionEvict: {label: "Evict pod", style: StyleDanger, confirm: func(_ cases.Case, where string) string {
		return "Evicts " + where + ". The evidence is saved."
	}},
	cases.ActionExpected:   {label: "Close as expected"},
	cases.ActionRemediated: {label: "Close as remediated"},
	cases.ActionClose:      {label: "Close, finding stays active"},
}

// Actions returns what a person can do about a case now, in the order in which
// it is shown.
func Actions(c cases.Case) []Action {
	where := c.Decided.Finding.ShortName()
	if where == "" {
		where = "the container"
	}
	var out []Action
	for _, id := range c.ClickActions() {
		text := actionTexts[id]
		a := Action{ID: id, Label: text.label, Style: text.style, Decision: c.DecisionN()}
		if text.confirm != nil {
			a.Confirm = text.confirm(c, where)
		}
		out = append(out, a)
	}
	return out
}

// ActionLabel returns the label of a click action; an unknown one is quoted.
func ActionLabel(id string) string {
	if text, ok := actionTexts[id]; ok {
		return text.label
	}
	return "unknown action " + id
}
