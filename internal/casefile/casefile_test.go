package casefile

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cloud.google.com/go/storage"
	"github.com/fsouza/fake-gcs-server/fakestorage"
	"gocloud.dev/blob/gcsblob"
	"gocloud.dev/gcp"
	"google.golang.org/api/option"
	"net/http"
)

// gcs is a Store that speaks the real protocol to a server of its own.
func gcs(t *testing.T, url string) Store {
	t.Helper()
	b, err := gcsblob.OpenBucket(t.Context(), &gcp.HTTPClient{Client: *http.DefaultClient}, "cases",
		&gcsblob.Options{ClientOptions: []option.ClientOption{option.WithEndpoint(url + "/storage/v1/"), option.WithoutAuthentication(), storage.WithJSONReads()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return FromBucket(b)
}

func startGCS(t *testing.T) string {
	t.Helper()
	s, err := fakestorage.NewServerWithOptions(fakestorage.Options{Scheme: "http", Host: "127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	s.CreateBucketWithOpts(fakestorage.CreateBucketOpts{Name: "cases"})
	return s.URL()
}

func open(t *testing.T, address string) Store {
	t.Helper()
	s, err := Open(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func eachStore(t *testing.T, f func(t *testing.T, s Store)) {
	t.Run("memory", func(t *testing.T) { f(t, open(t, "mem://")) })
	t.Run("directory", func(t *testing.T) { f(t, open(t, "dir://"+t.TempDir())) })
	t.Run("gcs", func(t *testing.T) { f(t, gcs(t, startGCS(t))) })
}

// TestOneWinnerAmongGoroutines races for one key, many times over.
func TestOneWinnerAmongGoroutines(t *testing.T) {
	eachStore(t, func(t *testing.T, s Store) {
		for round := range 10 {
			key := fmt.Sprintf("events/c/%d", round)
			var won atomic.Int32
			var winner atomic.Value
			var wg sync.WaitGroup
			start := make(chan struct{})
			for i := range 32 {
				wg.Go(func() {
					<-start
					me := fmt.Sprintf("claimant %d", i)
					switch err := s.Create(t.Context(), key, []byte(me)); {
					case err == nil:
						won.Add(1)
						winner.Store(me)
					case !errors.Is(err, ErrExists):
						t.Errorf("%s: %v", me, err)
					}
				})
			}
			close(start)
			wg.Wait()
			body, err := s.Read(t.Context(), key)
			if won.Load() != 1 || err != nil || string(body) != winner.Load() {
				t.Fatalf("round %d: %d winners, the key holds %q, the winner is %v (%v)", round, won.Load(), body, winner.Load(), err)
			}
		}
	})
}

// claimVariable makes the test binary a claimant: it creates keys 0..n-1 and
// prints those that it won.
const claimVariable = "CASEFILE_TEST_CLAIM"

func TestMain(m *testing.M) {
	if spec := os.Getenv(claimVariable); spec != "" {
		claim(spec)
		return
	}
	os.Exit(m.Run())
}

const rounds = 40

func claim(spec string) {
	ctx := context.Background()
	kind, at, _ := strings.Cut(spec, "=")
	var s Store
	var err error
	if kind == "gcs" {
		b, e := gcsblob.OpenBucket(ctx, &gcp.HTTPClient{Client: *http.DefaultClient}, "cases",
			&gcsblob.Options{ClientOptions: []option.ClientOption{option.WithEndpoint(at + "/storage/v1/"), option.WithoutAuthentication(), storage.WithJSONReads()}})
		s, err = FromBucket(b), e
	} else {
		s, err = Open(ctx, at)
	}
	if err != nil {
		fmt.Println("error", err)
		return
	}
	fmt.Println("ready")
	fmt.Scanln() // all begin at once
	for i := range rounds {
		switch err := s.Create(ctx, fmt.Sprintf("race/%d", i), fmt.Appendf(nil, "%d", os.Getpid())); {
		case err == nil:
			fmt.Println("won", i)
		case !errors.Is(err, ErrExists):
			fmt.Println("error", err)
		}
	}
}

// TestOneWinnerAmongProcesses is the same between processes.
func TestOneWinnerAmongProcesses(t *testing.T) {
	for _, c := range []struct {
		name, spec string
		read       func(t *testing.T, spec string) Store
	}{
		{"directory", "dir=dir://" + t.TempDir(), func(t *testing.T, spec string) Store { return open(t, strings.TrimPrefix(spec, "dir=")) }},
		{"gcs", "gcs=" + startGCS(t), func(t *testing.T, spec string) Store { return gcs(t, strings.TrimPrefix(spec, "gcs=")) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			type claimant struct {
				cmd *exec.Cmd
				in  *os.File
				out *strings.Builder
			}
			var all []claimant
			for range 6 {
				r, w, err := os.Pipe()
				if err != nil {
					t.Fatal(err)
				}
				p := claimant{exec.Command(os.Args[0]), w, &strings.Builder{}}
				p.cmd.Env = append(os.Environ(), claimVariable+"="+c.spec)
				p.cmd.Stdin, p.cmd.Stdout = r, p.out
				if err := p.cmd.Start(); err != nil {
					t.Fatal(err)
				}
				r.Close()
				all = append(all, p)
			}
			for _, p := range all {
				p.in.Close() // end of input lets all of them go
			}
			won := map[string]int{}
			for _, p := range all {
				if err := p.cmd.Wait(); err != nil {
					t.Fatal(err)
				}
				for line := range strings.Lines(p.out.String()) {
					line = strings.TrimSpace(line)
					if strings.HasPrefix(line, "error") {
						t.Error(line)
					}
					if strings.HasPrefix(line, "won") {
						won[line]++
					}
				}
			}
			for i := range rounds {
				if n := won[fmt.Sprintf("won %d", i)]; n != 1 {
					t.Errorf("key %d has %d winners", i, n)
				}
				if body, err := c.read(t, c.spec).Read(t.Context(), fmt.Sprintf("race/%d", i)); err != nil || len(body) == 0 {
					t.Errorf("key %d: %q, %v", i, body, err)
				}
			}
		})
	}
}

func TestStoreContract(t *testing.T) {
	eachStore(t, func(t *testing.T, s Store) {
		ctx := t.Context()
		if _, err := s.Read(ctx, "absent"); !errors.Is(err, ErrNotExist) {
			t.Errorf("read of an absent key: %v", err)
		}
		for _, key := range []string{"events/a/1", "events/a/0", "events/ab/0", "clicks/a/x"} {
			if err := s.Create(ctx, key, []byte(key)); err != nil {
				t.Fatal(err)
			}
		}
		for prefix, want := range map[string]string{
			"events/a": "events/a/0 events/a/1 events/ab/0", "events/a/": "events/a/0 events/a/1", "": "clicks/a/x events/a/0 events/a/1 events/ab/0", "none/": "",
		} {
			keys, err := s.List(ctx, prefix)
			if got := strings.Join(keys, " "); err != nil || got != want {
				t.Errorf("list %q: %q, %v; want %q", prefix, got, err, want)
			}
		}
		for range 2 {
			if err := s.Delete(ctx, "clicks/a/x"); err != nil {
				t.Errorf("delete: %v", err)
			}
		}
	})
	for _, key := range []string{"", "../x", "a/../../b", "/abs", "a//b", ".tmp/x"} {
		if err := open(t, "dir://"+t.TempDir()).Create(t.Context(), key, nil); err == nil {
			t.Errorf("the directory takes the key %q", key)
		}
	}
}

func newLog(t *testing.T, s Store, now *time.Time) *Log {
	t.Helper()
	return &Log{Store: s, Lease: time.Minute, Now: func() time.Time { return *now }}
}

func TestAppendIsWonByOne(t *testing.T) {
	eachStore(t, func(t *testing.T, s Store) {
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
		if err := b.Reload(t.Context()); err != nil || !b.HeldByOther() {
			t.Fatalf("after reading again: held by other %v, %v", b.HeldByOther(), err)
		}
		now = now.Add(2 * time.Minute) // the lease ends
		if b.HeldByOther() {
			t.Error("a lease that has ended holds")
		}
		now = now.Add(-2 * time.Minute)
		log.Alive = func(holder string) bool { return holder != "a" }
		if b.HeldByOther() {
			t.Error("a dead holder holds")
		}
		if err := a.Yield(t.Context()); err != nil {
			t.Fatal(err)
		}
		log.Alive = nil
		if err := b.Reload(t.Context()); err != nil || b.HeldByOther() || len(b.Events()) != 2 {
			t.Errorf("after it was given back: held %v, %d events, %v", b.HeldByOther(), len(b.Events()), err)
		}
	})
}

// lostAnswer applies a create and loses the answer.
type lostAnswer struct {
	Store
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
	log := newLog(t, open(t, "mem://"), &now)
	ctx := t.Context()
	f, err := log.Latest(ctx, "0123456789abcdef", "h", nil)
	if err != nil || f.ID != "0123456789abcdef" {
		t.Fatalf("%v %v", f, err)
	}
	for _, key := range []string{"f1", "f1"} {
		if id, err := log.Name(ctx, key, f.ID); err != nil || id != f.ID {
			t.Errorf("name %s: %q %v", key, id, err)
		}
	}
	if _, err := f.Close(ctx, nil); err != nil {
		t.Fatal(err)
	}
	g, err := log.Latest(ctx, "0123456789abcdef", "h", nil)
	if err != nil || g.ID != "0123456789abcdef-2" || len(g.Events()) != 0 {
		t.Fatalf("after the close: %q, %v", g.ID, err)
	}
	if id, err := log.Name(ctx, "f1", g.ID); err != nil || id != f.ID {
		t.Errorf("a redelivered finding joins %q (%v), not its own case", id, err)
	}
}

func TestWakes(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	log := newLog(t, open(t, "mem://"), &now)
	for _, in := range []time.Duration{0, time.Hour} {
		if err := log.WakeAt(t.Context(), fmt.Sprint("c", in), now.Add(in)); err != nil {
			t.Fatal(err)
		}
	}
	due, _, err := log.Due(t.Context())
	if err != nil || len(due) != 1 || due[0].Case != "c0s" {
		t.Fatalf("due %v, %v", due, err)
	}
	if err := log.Woken(t.Context(), due[0]); err != nil {
		t.Fatal(err)
	}
	now = now.Add(2 * time.Hour)
	if due, _, err = log.Due(t.Context()); err != nil || len(due) != 1 || due[0].Case != "c1h0m0s" {
		t.Errorf("later due %v, %v", due, err)
	}
	// What no calendar knows keeps no case from its turn.
	if err := log.Store.Create(t.Context(), "wakes/10000-01-01T00:00:00/c9", nil); err != nil {
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
	s := &lostAnswer{Store: open(t, "mem://")}
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
