package respond_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/contraband-dev/contraband/internal/cases"
)

// TestSpentBudgetIsToldAtOnce: that something is not contained because the hour's budget is
// spent notifies people, once an incident; the next hour contains it.
func TestSpentBudgetIsToldAtOnce(t *testing.T) {
	w := newWorld(t, memory(t))
	w.yaml = "rules: [{name: all, do: [page, freeze]}]"
	now := time.Now()
	r := w.process()
	setClock(r, now)
	contain := r.Contain
	r.Contain = func(_ context.Context, _ string, n int) (cases.Outcome, error) {
		return cases.Outcome{Claim: n, Action: cases.Freeze, Error: "refused: 5 pods of the cluster were contained in this hour already", OverBudget: true,
			At: r.Now(), RetryAt: r.Now().Add(20 * time.Minute)}, nil
	}
	f := w.found("c1", now)
	w.raiseInSCC(f)
	out, err := r.Finding(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	sweepAt(t, r, now.Add(time.Second))
	sweepAt(t, r, now.Add(25*time.Minute)) // and it is spent again
	sweepAt(t, r, now.Add(26*time.Minute))
	messages, err := w.slack.Messages()
	if err != nil {
		t.Fatal(err)
	}
	told := 0
	for _, m := range messages {
		if m.Broadcast && strings.Contains(m.Text, "NOT CONTAINED until") && strings.Contains(m.Text, "5 pods of the cluster") {
			told++
		}
	}
	if told != 1 {
		t.Errorf("told %d times, want once: %+v", told, messages)
	}
	r.Contain = contain
	sweepAt(t, r, now.Add(50*time.Minute))
	if c := w.read(out.Case); !c.Frozen() || c.OverBudget() != nil {
		t.Errorf("in the next hour: %q, %d claims", c.Status(), len(c.Claims))
	}
}
