package caselog

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/contraband-dev/contraband/internal/blobstore"
	"github.com/contraband-dev/contraband/internal/blobstore/blobstoretest"
)

func newLog(t *testing.T, s blobstore.Store, now *time.Time) *Store {
	t.Helper()
	return &Store{Objects: s, Lease: time.Minute, Now: func() time.Time { return *now }}
}

func TestAppendIsWonByOne(t *testing.T) {
	blobstoretest.Each(t, func(t *testing.T, s blobstore.Store) {
		now := time.Now()
		log := newLog(t, s, &now)
		a, err := log.Read(t.Context(), "c1", "a")
		if err != nil {
			t.Fatal(err)
		}
		b, err := log.Read(t.Context(), "c1", "b")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.Append(t.Context(), "x", 1); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Append(t.Context(), "x", 2); !errors.Is(err, ErrConflict) {
			t.Fatalf("the loser is told %v", err)
		}
		if err := b.Reload(t.Context()); err != nil || !b.LeasedByOther() {
			t.Fatalf("after reading again: held by other %v, %v", b.LeasedByOther(), err)
		}
		now = now.Add(2 * time.Minute) // the lease ends
		if b.LeasedByOther() {
			t.Error("a lease that has ended holds")
		}
		now = now.Add(-2 * time.Minute)
		log.Alive = func(holder string) bool { return holder != "a" }
		if b.LeasedByOther() {
			t.Error("a dead holder holds")
		}
		if err := a.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
		log.Alive = nil
		if err := b.Reload(t.Context()); err != nil || b.LeasedByOther() || len(b.Events()) != 2 {
			t.Errorf("after it was given back: held %v, %d events, %v", b.LeasedByOther(), len(b.Events()), err)
		}
	})
}

// TestLeaseOfAnInstanceWhoseClockIsAheadEndsByTheStoresClock: one that is two hours ahead
// and dies holds a case for as long as any other.
func TestLeaseOfAnInstanceWhoseClockIsAheadEndsByTheStoresClock(t *testing.T) {
	blobstoretest.Each(t, func(t *testing.T, s blobstore.Store) {
		ahead, right := time.Now().Add(2*time.Hour), time.Now()
		a, err := newLog(t, s, &ahead).Read(t.Context(), "c1", "a")
		if err == nil {
			_, err = a.Append(t.Context(), "x", 1)
		}
		if err != nil {
			t.Fatal(err)
		}
		store := newLog(t, s, &right)
		b, err := store.Read(t.Context(), "c1", "b")
		if err != nil || !b.LeasedByOther() {
			t.Fatalf("while the lease lasts: held by another %v, %v", err == nil && b.LeasedByOther(), err)
		}
		right = right.Add(store.Lease + time.Second)
		if b.LeasedByOther() {
			t.Errorf("held until %s, and it is %s", b.LeasedUntil(), right)
		}
	})
}

// lostAnswer applies a create and loses the answer.
type lostAnswer struct {
	blobstore.Store
	lose bool
}

func (l *lostAnswer) Create(ctx context.Context, key string, body []byte) error {
	err := l.Store.Create(ctx, key, body)
	if l.lose {
		l.lose = false
		return errors.New("connection reset")
	}
	return err
}

func TestEpisodesAndNames(t *testing.T) {
	now := time.Now()
	log := newLog(t, blobstoretest.Open(t, "mem://"), &now)
	ctx := t.Context()
	f, err := log.Latest(ctx, "0123456789abcdef", "h", nil)
	if err != nil || f.ID != "0123456789abcdef" {
		t.Fatalf("%v %v", f, err)
	}
	for _, key := range []string{"f1", "f1"} {
		if a, _, err := log.AssignCase(ctx, key, Assignment{Case: f.ID}); err != nil || a.Case != f.ID {
			t.Errorf("name %s: %q %v", key, a.Case, err)
		}
	}
	if _, err := f.Close(ctx, nil); err != nil {
		t.Fatal(err)
	}
	g, err := log.Latest(ctx, "0123456789abcdef", "h", nil)
	if err != nil || g.ID != "0123456789abcdef-2" || len(g.Events()) != 0 {
		t.Fatalf("after the close: %q, %v", g.ID, err)
	}
	if a, fresh, err := log.AssignCase(ctx, "f1", Assignment{Case: g.ID}); err != nil || fresh || a.Case != f.ID {
		t.Errorf("a redelivered finding joins %q (%v), not its own case", a.Case, err)
	}
}

func TestWakes(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	log := newLog(t, blobstoretest.Open(t, "mem://"), &now)
	for _, in := range []time.Duration{0, time.Hour} {
		if err := log.WakeAt(t.Context(), fmt.Sprint("c", in), now.Add(in)); err != nil {
			t.Fatal(err)
		}
	}
	due, _, err := log.Due(t.Context())
	if err != nil || len(due) != 1 || due[0].Case != "c0s" {
		t.Fatalf("due %v, %v", due, err)
	}
	if err := log.DeleteWake(t.Context(), due[0]); err != nil {
		t.Fatal(err)
	}
	now = now.Add(2 * time.Hour)
	if due, _, err = log.Due(t.Context()); err != nil || len(due) != 1 || due[0].Case != "c1h0m0s" {
		t.Errorf("later due %v, %v", due, err)
	}
	// What no calendar knows keeps no case from its turn.
	if err := log.Objects.Create(t.Context(), "wakes/10000-01-01T00:00:00/c9", nil); err != nil {
		t.Fatal(err)
	}
	if due, _, err = log.Due(t.Context()); err != nil || len(due) != 1 {
		t.Errorf("beside a key that is no wake: due %v, %v", due, err)
	}
	now = now.Add(-2 * time.Hour)
	for until, want := range map[time.Duration]bool{time.Minute: false, 59 * time.Minute: false, time.Hour: true, 3 * time.Hour: true} {
		if got, err := log.WakesWithin(t.Context(), "c1h0m0s", now, now.Add(until)); err != nil || got != want {
			t.Errorf("a wake within %s: %v, %v", until, got, err)
		}
	}
	if got, err := log.WakesWithin(t.Context(), "c1h0m0s", now.Add(time.Hour), now.Add(3*time.Hour)); err != nil || got {
		t.Errorf("one that has come is not ahead: %v, %v", got, err)
	}
}

func TestAppendWhoseAnswerWasLost(t *testing.T) {
	now := time.Now()
	s := &lostAnswer{Store: blobstoretest.Open(t, "mem://")}
	log := newLog(t, s, &now)
	f, err := log.Read(t.Context(), "c", "h")
	if err != nil {
		t.Fatal(err)
	}
	s.lose = true
	if _, err := f.Append(t.Context(), "x", nil); err == nil {
		t.Fatal("the lost answer is not told")
	}
	if _, err := f.Append(t.Context(), "x", nil); err != nil { // the same event at the same instant: it is ours
		t.Errorf("our own event is taken for another's: %v", err)
	}
	if got := f.Events(); len(got) != 1 {
		t.Errorf("%d events, want 1", len(got))
	}
}
