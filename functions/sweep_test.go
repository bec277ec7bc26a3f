package functions_test

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/finding"
)

// TestSweep: a case that cannot go on keeps no other from it, is tried once a sweep
// however often it was woken, and later each time.
func TestSweep(t *testing.T) {
	s, _, _ := start(t, nil)
	tried := 0
	contain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		tried++
		http.Error(w, "away", http.StatusServiceUnavailable)
	}))
	t.Cleanup(contain.Close)
	advance := httptest.NewServer(http.HandlerFunc(s.Advance))
	t.Cleanup(advance.Close)
	s.Config.ContainURL, s.Base.Config.AdvanceURL = contain.URL, advance.URL
	began := time.Now()
	now := began
	s.Log.Now = func() time.Time { return now }
	s.Responder.Now = s.Log.Now
	open := func(id string, do ...string) {
		t.Helper()
		f, err := s.Log.Read(t.Context(), id, "test")
		if err == nil {
			_, err = f.Append(t.Context(), cases.KindDecided, cases.Decided{Key: id, Decision: cases.Decision{Do: do},
				Finding: finding.Finding{Container: finding.Container{ID: "c"}, Node: "n", EventTime: now}})
		}
		if err == nil {
			err = f.Release(t.Context())
		}
		for i := range 3 {
			if err == nil {
				err = s.Log.WakeAt(t.Context(), id, now.Add(-time.Duration(i+1)*time.Minute))
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	open("aaaaaaaaaaaaaaaa", cases.Freeze)
	open("bbbbbbbbbbbbbbbb")
	sweep := func() int {
		w := httptest.NewRecorder()
		s.Sweep(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", nil))
		return w.Code
	}
	if code := sweep(); code != http.StatusServiceUnavailable || tried != 1 {
		t.Errorf("%d, %d tries", code, tried)
	}
	due, ahead, err := s.Log.Due(t.Context())
	if err != nil || len(due) != 0 || len(ahead) != 1 || ahead[0].Case != "aaaaaaaaaaaaaaaa" {
		t.Errorf("left due %v, ahead %v, %v", due, ahead, err)
	}
	for range 10 * 60 { // for ten hours
		now = now.Add(time.Minute)
		if due, _, err := s.Log.Due(t.Context()); err != nil || len(due) > 1 {
			t.Fatalf("wakes %v, %v", due, err)
		}
		sweep() // its error is Contain's
	}
	if tried < 10 || tried > 20 {
		t.Errorf("tried %d times in ten hours", tried)
	}
	now = began.Add(25 * time.Hour)
	sweep()
	now = now.Add(time.Hour)
	sweep()
	c, err := s.Log.Read(t.Context(), "aaaaaaaaaaaaaaaa", "test")
	if err != nil {
		t.Fatal(err)
	}
	k, err := cases.Fold("aaaaaaaaaaaaaaaa", c.Events())
	if err != nil || k.Claim(cases.Freeze).Outcome == nil {
		t.Errorf("it is tried for ever: %+v, %v", k.Claims, err)
	}
}
