package cases

import (
	"encoding/json"
	"reflect"
	"testing"

	"github.com/contraband-dev/contraband/internal/cases/caselog"
)

func TestEveryKindOfEventIsDecoded(t *testing.T) {
	kinds := []string{KindDecided, KindJoined, KindEscalated, KindPaged, KindClaimed, KindActed, KindClicked, KindLost, KindWorkflowStarted,
		KindRechecked, KindReminded, KindQueued, KindReported, KindOwners, KindClosed}
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

func TestFurtherEventsAddUpToTheSameCase(t *testing.T) {
	body := func(v any) json.RawMessage {
		raw, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	decided := Decided{Key: "k0", Slot: "20261125T100", Incident: "inc-1", Verdict: Verdict{Level: Unknown}}
	decided.Finding.Process.Path = "/tmp/a"
	decided.Facts = Facts{OwnersLate: true, Missing: []string{OwnerSource + "x: late", "the pod: gone"}, Owners: []OwnerContact{{Name: "ann"}}}
	events := []caselog.Event{
		{N: 0, Kind: KindDecided, Body: body(decided)},
		{N: 1, Kind: KindClaimed, Body: body(Claimed{Action: Freeze})},
		{N: 2, Kind: KindActed, Body: body(Outcome{Claim: 1, Action: Freeze, Done: true})},
		{N: 3, Kind: KindJoined, Body: body(Joined{Keys: []string{"20261125T101-k1"}, Clicks: []string{"c"}, Through: "20261125T101",
			Programs: []Program{{Path: "/tmp/a", Count: 2}, {Path: "/tmp/b", Count: 1}}})},
		{N: 4, Kind: KindClicked, Body: body(Click{ID: "d", What: ActionRelease})},
		{N: 5, Kind: KindOwners, Body: body(OwnersFound{Owners: []OwnerContact{{Name: "team-web", Source: "label"}}, Missing: []string{OwnerSource + "x: slow"}})},
	}
	whole, err := Fold("c", events)
	if err != nil {
		t.Fatal(err)
	}
	for n := range events {
		before, err := Fold("c", events[:n])
		if err != nil {
			t.Fatal(err)
		}
		after, err := before.With(events[n:]...)
		if err != nil || !reflect.DeepEqual(after, whole) {
			t.Errorf("after %d events and %d further: %+v, want %+v: %v", n, len(events)-n, after, whole, err)
		}
		if again, err := Fold("c", events[:n]); err != nil || !reflect.DeepEqual(before, again) {
			t.Errorf("the case after %d events has changed: %+v, want %+v: %v", n, before, again, err)
		}
	}
}
