package respond_test

import (
	"context"
	"testing"
	"time"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/finding"
)

// learning is a source that knows nothing at first.
type learning struct {
	asked int
	knows bool
}

func (l *learning) Finding(context.Context, finding.Finding) cases.Verdict {
	l.asked++
	if l.knows {
		return cases.Verdict{Level: cases.Malicious, Label: "learnt since"}
	}
	return cases.Verdict{Level: cases.Unknown}
}

// TestUnknownHashIsLookedUpAgain: bytes that nobody knew are asked about after an hour, a day and a
// week, and what is learnt then is acted on.
func TestUnknownHashIsLookedUpAgain(t *testing.T) {
	for name, learnt := range map[string]int{"never known": 9, "known within a day": 2} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, memory(t))
			source := &learning{}
			f := w.found("c1", time.Now())
			w.raiseInSCC(f)
			r := w.process()
			r.Verdicts = source
			o, err := r.Finding(t.Context(), f)
			if err != nil {
				t.Fatal(err)
			}
			opened := w.read(o.Case).Opened
			for i, after := range []time.Duration{time.Hour, 24 * time.Hour, 7 * 24 * time.Hour, 30 * 24 * time.Hour} {
				source.knows = i+1 >= learnt
				r := w.process()
				r.Verdicts, r.Now = source, func() time.Time { return opened.Add(after + time.Minute) }
				r.Log.Now = r.Now
				due, _, err := r.Log.Due(t.Context())
				if err != nil || i < 3 && len(due) == 0 {
					t.Fatalf("after %s nobody would ask: %v, %v", after, due, err)
				}
				for _, wake := range due {
					if err := r.Advance(t.Context(), wake.Case); err != nil {
						t.Fatal(err)
					}
					if err := r.Log.DeleteWake(t.Context(), wake); err != nil {
						t.Fatal(err)
					}
				}
			}
			c := w.read(o.Case)
			if learnt > 4 {
				if c.Decided.Verdict.Level != cases.Unknown || source.asked != 4 || c.Rechecks != 3 || len(c.Claims) != 0 {
					t.Errorf("verdict %s, asked %d times, %d on record, claims %v", c.Decided.Verdict.Level, source.asked, c.Rechecks, c.Claims)
				}
				return
			}
			if c.Decided.Verdict.Level != cases.Malicious || source.asked != 3 || len(c.Claims) == 0 || c.Escalated == nil {
				t.Errorf("verdict %s, asked %d times, claims %v, escalated %v", c.Decided.Verdict.Level, source.asked, c.Claims, c.Escalated)
			}
		})
	}
}
