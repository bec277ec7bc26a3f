package cases_test

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/contraband-dev/contraband/internal/cases"
)

// TestStatesAreDocumented: docs/cases.md has every state that a case can say, and
// no other.
func TestStatesAreDocumented(t *testing.T) {
	said := map[string]bool{}
	held := []string{cases.Freeze, cases.Isolate, cases.Cordon}
	for bits := range 1 << 11 {
		on := func(n int) bool { return bits>>n&1 == 1 }
		var c cases.Case
		claim := func(action string) {
			c.Claims = append(c.Claims, cases.Claim{N: len(c.Claims), Claimed: cases.Claimed{Action: action}, Outcome: &cases.Outcome{Done: true}})
		}
		for i, action := range held {
			if on(i) {
				claim(action)
			}
		}
		for i, action := range held {
			if on(3 + i) {
				claim(cases.UndoOf(action))
			}
		}
		if on(6) {
			claim(cases.Evict)
		}
		if on(7) {
			c.FreezeLostReason = "restarted"
		}
		c.Expired = on(8)
		if on(10) {
			c.RemovalStuck = "its node does not answer"
		}
		if on(9) {
			c.Decided.Decision = cases.Decision{RequireApproval: true, Do: []string{cases.Freeze}}
		}
		for _, word := range strings.Split(c.Status(), ", ") {
			said[word] = true
		}
	}
	for _, button := range []string{cases.ActionClose, cases.ActionExpected, cases.ActionRemediated} {
		said[cases.Case{Closed: &cases.Closed{Resolution: cases.Resolution(button)}}.Status()] = true
	}
	said[cases.Case{Programs: []cases.Program{{Expected: "an exception"}}}.Status()] = true
	said[cases.Case{Damaged: "event 3 cannot be read"}.Status()] = true
	said["closed: released"], said["held"] = true, true

	page, err := os.ReadFile("../../docs/cases.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]bool{}
	_, table, _ := strings.Cut(string(page), "| state | it says |")
	table, _, _ = strings.Cut(table, "\n\n")
	for _, row := range strings.Split(table, "\n")[1:] {
		cells := strings.Split(row, "|")
		if len(cells) < 3 {
			continue
		}
		for _, cell := range cells[1:3] {
			for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cell, -1) {
				documented[m[1]] = true
			}
		}
	}
	if want, got := slices.Sorted(maps.Keys(said)), slices.Sorted(maps.Keys(documented)); !slices.Equal(want, got) {
		t.Errorf("the code says %q\nthe page has %q", want, got)
	}
}
