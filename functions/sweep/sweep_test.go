package sweep

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/contraband-dev/contraband/internal/funcserver/casefunc"
)

// TestWakeOfSomethingElse: a case that cannot be advanced stays due, though it will be
// woken for something else in a week.
func TestWakeOfSomethingElse(t *testing.T) {
	const id = "0123456789abcdef"
	var f Function
	away := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		// The step that failed has set the wake of the step after it.
		if err := f.Log.WakeAt(t.Context(), id, time.Now().Add(24*time.Hour)); err != nil {
			t.Error(err)
		}
		http.Error(w, "away", http.StatusServiceUnavailable)
	}))
	defer away.Close()
	base, err := New(t.Context(), casefunc.Config{Store: "mem://", AdvanceURL: away.URL}, casefunc.Parts{HTTP: http.DefaultClient})
	if err != nil {
		t.Fatal(err)
	}
	defer base.Close()
	f = base
	for _, at := range []time.Time{time.Now().Add(-time.Minute), time.Now().Add(7 * 24 * time.Hour)} {
		if err := f.Log.WakeAt(t.Context(), id, at); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := f.sweep(t.Context()); err == nil {
		t.Error("a case that could not be advanced is no error")
	}
	due, ahead, err := f.Log.Due(t.Context())
	if err != nil || len(due) != 1 || len(ahead) != 2 {
		t.Errorf("due %v, ahead %v, %v: want one and two", due, ahead, err)
	}
}
