package respond_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/contraband-dev/contraband/internal/deadletter"
)

// TestPageThatNoChannelTakesIsDeadLetteredAndSentLater: with a revoked token nobody can be
// told in Slack; the operators are, once, and people are when the token is mended.
func TestPageThatNoChannelTakesIsDeadLetteredAndSentLater(t *testing.T) {
	w := newWorld(t, memory(t))
	w.yaml = pageOnly
	w.slack.Token = "another"
	r := w.timed()
	now := time.Now()
	r.Now = func() time.Time { return now }
	r.Log.Now = r.Now
	var parked []map[string]string
	down := errors.New("the topic is down")
	r.DeadLetter = func(_ context.Context, l deadletter.Letter) error {
		if down != nil {
			return down
		}
		var b map[string]string
		if err := json.Unmarshal(l.Data, &b); err != nil || !strings.Contains(l.Reason, "invalid_auth") || l.Kind != deadletter.Page {
			t.Errorf("parked %+v (%v)", l, err)
		}
		parked = append(parked, b)
		return nil
	}
	f := ran(0, 0, unknownSum(0), now)
	if _, err := r.Finding(t.Context(), f); !errors.Is(err, down) {
		t.Fatalf("nobody is notified, and the delivery ends with %v", err)
	}
	down = nil
	id := take(t, r, f)
	if len(parked) != 1 || parked[0]["case"] != id || !strings.Contains(parked[0]["summary"], "/tmp/x0") {
		t.Fatalf("parked %v", parked)
	}
	sweepAt(t, r, now.Add(2*time.Minute))
	if len(parked) != 1 {
		t.Errorf("parked again: %v", parked)
	}
	w.slack.Token = "xoxb-test"
	sweepAt(t, r, now.Add(20*time.Minute))
	if messages, err := w.slack.Messages(); err != nil || len(messages) != 1 {
		t.Errorf("%d messages after the token was mended, %v", len(messages), err)
	}
}
