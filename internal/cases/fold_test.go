package cases

import (
	"testing"

	"github.com/contraband-dev/contraband/internal/cases/caselog"
)

func TestEveryKindOfEventIsDecoded(t *testing.T) {
	kinds := []string{KindDecided, KindJoined, KindEscalated, KindPaged, KindClaimed, KindActed, KindClicked, KindLost, KindWorkflowStarted,
		KindRechecked, KindReminded, KindQueued, KindReported, KindClosed}
	for _, kind := range kinds {
		body, err := Decode(caselog.Event{Kind: kind, Body: []byte("{}")})
		if err != nil || body == nil {
			t.Errorf("kind %q: %v, %v", kind, body, err)
		}
		if _, err := Decode(caselog.Event{Kind: kind, Body: []byte("[")}); err == nil {
			t.Errorf("kind %q: a damaged body is not an error", kind)
		}
	}
	if len(kinds)+1 != len(bodies) { // and KindExpired, which has no body
		t.Errorf("%d kinds are tested, %d are decoded", len(kinds), len(bodies)-1)
	}
}
