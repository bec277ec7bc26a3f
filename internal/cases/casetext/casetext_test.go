package casetext_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/cases/caselog"
	"github.com/contraband-dev/contraband/internal/cases/casetext"
	"github.com/contraband-dev/contraband/internal/testenv/samplecases"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func TestTextOfEachStateIsGolden(t *testing.T) {
	for _, s := range samplecases.States() {
		t.Run(s.Name, func(t *testing.T) {
			file := filepath.Join("testdata", s.Name+".txt")
			got := describe(s)
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("text differs from %s (go test -update rewrites it):\n%s", file, got)
			}
		})
	}
}

func describe(s samplecases.State) string {
	var b strings.Builder
	c := s.Case
	fmt.Fprintf(&b, "headline: %s\nplace: %s\nverdict: %s\nstatus: %s\n\nsteps:\n",
		casetext.Headline(c), casetext.Place(c), casetext.VerdictLine(c.Decided.Verdict), c.Status())
	for _, step := range casetext.Steps(c) {
		fmt.Fprintf(&b, "- %s\n", step)
	}
	b.WriteString("\nactions:\n")
	for _, a := range casetext.Actions(c) {
		fmt.Fprintf(&b, "- %s %q %s decision %d; confirm: %q\n", a.ID, a.Label, a.Style, a.Decision, a.Confirm)
	}
	b.WriteString("\ntimeline:\n")
	for _, e := range casetext.Timeline(c, s.Events) {
		fmt.Fprintf(&b, "%6d ms %-14s %s\n", e.At.Sub(casetext.Start(c)).Milliseconds(), e.Stage, e.Text)
	}
	return b.String()
}

func TestEveryOfferedActionHasALabel(t *testing.T) {
	for _, s := range samplecases.States() {
		for _, a := range casetext.Actions(s.Case) {
			if a.Label == "" {
				t.Errorf("state %s: action %q has no label", s.Name, a.ID)
			}
			if !cases.IsClickAction(a.ID) {
				t.Errorf("state %s: action %q is offered but not accepted", s.Name, a.ID)
			}
		}
	}
}

func TestUndecodableEventIsShownInTheTimeline(t *testing.T) {
	kinds := []string{cases.KindDecided, cases.KindJoined, cases.KindEscalated, cases.KindPaged, cases.KindClaimed,
		cases.KindActed, cases.KindClicked, cases.KindRechecked, cases.KindWorkflowStarted, cases.KindReminded,
		cases.KindLost, cases.KindReported, cases.KindOwners, cases.KindClosed}
	for _, kind := range kinds {
		e := caselog.Event{N: 7, Kind: kind, At: samplecases.At, Body: json.RawMessage(`["not an object"]`)}
		got := casetext.Timeline(cases.Case{}, []caselog.Event{e})
		if len(got) != 1 || got[0].Stage != "unreadable" || !strings.Contains(got[0].Text, kind) {
			t.Errorf("kind %s: %+v", kind, got)
		}
	}
}
