package respond_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/respond"
	"github.com/contraband-dev/contraband/internal/retry"
)

// withoutRole refuses writes, as SCC does while a role is missing.
type withoutRole struct {
	respond.Escalator
	missing *bool
	writes  *int
}

func (s withoutRole) Escalate(ctx context.Context, c cases.Case, at time.Time) (string, error) {
	if *s.missing {
		return "", retry.Misconfigured(errors.New("permission denied"))
	}
	*s.writes++
	return s.Escalator.Escalate(ctx, c, at)
}

func (s withoutRole) Report(ctx context.Context, c cases.Case, link string) error {
	if *s.missing {
		return retry.Misconfigured(errors.New("permission denied"))
	}
	return s.Escalator.Report(ctx, c, link)
}

// A role that is missing for a day delays the escalation; it neither drops it nor holds up
// the page and the containment.
func TestEscalationIsWrittenOnceTheRoleIsBack(t *testing.T) {
	w := newWorld(t, memory(t))
	r := w.process()
	missing, writes := true, 0
	r.SCC = withoutRole{r.SCC, &missing, &writes}
	began := time.Now()
	f := w.found("c1", began)
	w.raiseInSCC(f)
	deliver(t, r, 1, f)
	c := w.incident().Lead()
	if c.Escalated == nil || !strings.Contains(c.Escalated.Error, "permission denied") || c.Escalated.RetryAt.IsZero() || !c.Frozen() || w.incident().Paged == nil {
		t.Fatalf("escalated %+v, %q, paged %v", c.Escalated, c.Status(), w.incident().Paged)
	}
	page := func() string {
		t.Helper()
		messages, err := w.slack.Messages()
		if err != nil || len(messages) != 1 {
			t.Fatalf("%d messages, want one: %v", len(messages), err)
		}
		return string(messages[0].Blocks)
	}
	if got := page(); !strings.Contains(got, "not escalated yet, and tried again") {
		t.Errorf("the page: %s", got)
	}
	at := began
	for range 24 * 6 {
		at = at.Add(10 * time.Minute)
		sweepAt(t, r, at)
	}
	if c = w.incident().Lead(); c.Escalated.Finding != "" || c.Escalated.Tries < 5 || c.Escalated.Tries > 10 {
		t.Errorf("after a day: %+v, want five to ten tries", c.Escalated)
	}
	missing = false
	for range 7 { // the longest pause is six hours
		at = at.Add(time.Hour)
		sweepAt(t, r, at)
	}
	if c = w.incident().Lead(); c.Escalated.Finding == "" || writes != 1 || c.Reported != c.Status() || !c.ReportRetry.RetryAt.IsZero() {
		t.Errorf("with the role back: escalated %+v in %d writes, reported %q %+v", c.Escalated, writes, c.Reported, c.ReportRetry)
	}
	if got := page(); strings.Contains(got, "not escalated") {
		t.Errorf("the page still says that it is not escalated: %s", got)
	}
}

// A write that no configuration ever lets through is not tried for ever.
func TestEscalationIsGivenUpAfterTwoWeeks(t *testing.T) {
	opened := time.Now()
	tried := cases.Retry{}
	at, tries := opened, 0
	for tried = tried.Next(at, opened); !tried.RetryAt.IsZero(); tried = tried.Next(at, opened) {
		at = tried.RetryAt
		if tries++; tries > 1000 {
			t.Fatal("it is tried for ever")
		}
	}
	if after := at.Sub(opened); after < 14*24*time.Hour || tries > 70 {
		t.Errorf("given up after %s and %d tries", after, tries)
	}
}
