package casetext_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/cases/caselog"
	"github.com/contraband-dev/contraband/internal/cases/casetext"
	"github.com/contraband-dev/contraband/internal/incidents"
	"github.com/contraband-dev/contraband/internal/testenv/samplecases"
)

// FuzzLog: whatever an event log has in it, what people see of it is text: no event makes
// a page, a message or a list fail.
func FuzzLog(f *testing.F) {
	for _, s := range samplecases.States() {
		raw, err := json.Marshal(s.Events)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var events []caselog.Event
		if json.Unmarshal(raw, &events) != nil {
			return
		}
		c, err := cases.Fold("0123456789abcdef", events)
		casetext.Timeline(c, events)
		if err != nil {
			return
		}
		if c.Status() == "" {
			t.Error("a case without a state")
		}
		casetext.Steps(c)
		casetext.Actions(c)
		casetext.FindingFields(c.Decided.Finding)
		i := incidents.Of(c)
		m := casetext.IncidentMessage(i, func(id string) string { return "https://casebook/cases/" + id })
		if m.Summary == "" {
			t.Error("a message without a summary")
		}
		casetext.IncidentReminder(i, incidents.OverBudget, time.Now())
		if _, err := cases.Snapshot("0123456789abcdef", events); err != nil {
			t.Errorf("it folds, and has no snapshot: %v", err)
		}
		if _, err := incidents.Fold("inc-0123456789ab-2611250930", events); err != nil {
			return
		}
	})
}
