package casecheck_test

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/contraband-dev/contraband/internal/blobstore"
	"github.com/contraband-dev/contraband/internal/casecheck"
	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/cases/caselog"
	"github.com/contraband-dev/contraband/internal/incidents"
	"github.com/contraband-dev/contraband/internal/testenv/samplecases"
)

// stored returns a store with a sample case, and a wake for it.
func stored(t *testing.T, state string, wake bool) (blobstore.Store, string) {
	t.Helper()
	store, err := blobstore.Open(t.Context(), "mem://")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	all := samplecases.States()
	i := slices.IndexFunc(all, func(s samplecases.State) bool { return s.Name == state })
	log := &caselog.Store{Objects: store, Lease: cases.Lease, Snapshot: incidents.SnapshotAny}
	file, err := log.Read(t.Context(), all[i].Case.ID, "test")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all[i].Events {
		if _, err := file.AppendAt(t.Context(), e.At, e.Kind, e.Body); err != nil {
			t.Fatal(err)
		}
	}
	for range caselog.SnapshotEvery { // so that there is a snapshot
		if file.IsClosed() {
			break
		}
		if _, err := file.Append(t.Context(), "taken", nil); err != nil {
			t.Fatal(err)
		}
	}
	if wake {
		if err := log.WakeAt(t.Context(), file.ID, time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	return store, file.ID
}

// spoilt is a store in which one object reads otherwise.
type spoilt struct {
	blobstore.Store
	key  string
	body func(body []byte) []byte
}

func (s spoilt) Read(ctx context.Context, key string) ([]byte, error) {
	body, err := s.Store.Read(ctx, key)
	if err == nil && key == s.key {
		body = s.body(body)
	}
	return body, err
}

func check(t *testing.T, store blobstore.Store, o casecheck.Options) casecheck.Report {
	t.Helper()
	r, err := casecheck.Check(t.Context(), store, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestWholeStoreHasNoProblem(t *testing.T) {
	for _, s := range samplecases.States() {
		store, _ := stored(t, s.Name, true)
		if r := check(t, store, casecheck.Options{Evidence: true}); len(r.Problems) > 0 || r.Cases != 1 {
			t.Errorf("%s: %+v", s.Name, r)
		}
	}
}

func TestEachProblemIsFound(t *testing.T) {
	store, id := stored(t, "frozen", true)
	ctx := t.Context()
	half := func(body []byte) []byte { return body[:len(body)/2] }
	event := func(n string) string { return "events/" + id + "/00000000" + n + ".json" }
	other := func(body []byte) []byte {
		var e map[string]any
		if err := json.Unmarshal(body, &e); err != nil {
			t.Fatal(err)
		}
		e["snapshot"].(map[string]any)["case"].(map[string]any)["joined"] = 99
		out, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for key, body := range map[string][]byte{"occurrences/abcdef01-2611250930/20261125T093-k.json": []byte("{"), "evidence/" + strings.Repeat("a", 64): []byte("x"),
		"events/inc-0123456789ab-2611250930/0000000000.json": []byte("{")} {
		if err := store.Create(ctx, key, body); err != nil {
			t.Fatal(err)
		}
	}
	always := []string{"it has findings and no event", "unexpected end of JSON", "do not have the hash", "inc-0123456789ab-2611250930"}
	for name, c := range map[string]struct {
		store blobstore.Store
		want  string
	}{
		"a truncated event":        {spoilt{store, event("03"), half}, "0000000003.json\": the log is damaged"},
		"an event of another":      {spoilt{store, event("03"), func(body []byte) []byte { return []byte(strings.Replace(string(body), `"n":3`, `"n":4`, 1)) }}, "says that it is event 4"},
		"a body that is no body":   {spoilt{store, event("00"), func([]byte) []byte { return []byte(`{"n":0,"kind":"decided","at":"2026-11-25T09:30:00Z","body":[1]}`) }}, "event 0 (decided)"},
		"a snapshot that is wrong": {spoilt{store, event("32"), other}, "snapshot of event 32 differs"},
	} {
		r := check(t, c.store, casecheck.Options{Evidence: true})
		raw, err := json.Marshal(r.Problems)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range append([]string{c.want}, always...) {
			quoted, err := json.Marshal(want)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(raw), strings.Trim(string(quoted), `"`)) {
				t.Errorf("%s: no problem says %q in %s", name, want, raw)
			}
		}
	}
}

// TestCaseWithoutWakeIsRepaired: a frozen case that nobody would look at gets a wake, once.
func TestCaseWithoutWakeIsRepaired(t *testing.T) {
	store, id := stored(t, "frozen", false)
	for i, o := range []casecheck.Options{{}, {Repair: true}, {}} {
		r := check(t, store, o)
		switch {
		case i == 2 && len(r.Problems) > 0:
			t.Errorf("after the repair: %+v", r.Problems)
		case i < 2 && (len(r.Problems) != 1 || r.Problems[0].ID != id || !strings.Contains(r.Problems[0].What, "no wake") || r.Problems[0].Repaired != o.Repair):
			t.Errorf("%+v: %+v", o, r.Problems)
		}
	}
	store, _ = stored(t, "closed", false)
	if r := check(t, store, casecheck.Options{}); len(r.Problems) > 0 {
		t.Errorf("a closed case: %+v", r.Problems)
	}
}
