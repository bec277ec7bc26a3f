package blobstore_test

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

	"net/http"

	"cloud.google.com/go/storage"
	"gocloud.dev/blob/gcsblob"
	"gocloud.dev/gcp"
	"google.golang.org/api/option"

	"github.com/contraband-dev/contraband/internal/blobstore"
	"github.com/contraband-dev/contraband/internal/blobstore/blobstoretest"
)

func TestOneWinnerAmongGoroutines(t *testing.T) {
	blobstoretest.Each(t, func(t *testing.T, s blobstore.Store) {
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
					case !errors.Is(err, blobstore.ErrExists):
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
	var s blobstore.Store
	var err error
	if kind == "gcs" {
		b, e := gcsblob.OpenBucket(ctx, &gcp.HTTPClient{Client: *http.DefaultClient}, "cases",
			&gcsblob.Options{ClientOptions: []option.ClientOption{option.WithEndpoint(at + "/storage/v1/"), option.WithoutAuthentication(), storage.WithJSONReads()}})
		s, err = blobstore.FromBucket(b), e
	} else {
		s, err = blobstore.Open(ctx, at)
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
		case !errors.Is(err, blobstore.ErrExists):
			fmt.Println("error", err)
		}
	}
}

// TestOneWinnerAmongProcesses is the same between processes.
func TestOneWinnerAmongProcesses(t *testing.T) {
	for _, c := range []struct {
		name, spec string
		read       func(t *testing.T, spec string) blobstore.Store
	}{
		{"directory", "dir=dir://" + t.TempDir(), func(t *testing.T, spec string) blobstore.Store {
			return blobstoretest.Open(t, strings.TrimPrefix(spec, "dir="))
		}},
		{"gcs", "gcs=" + blobstoretest.StartGCS(t), func(t *testing.T, spec string) blobstore.Store {
			return blobstoretest.GCS(t, strings.TrimPrefix(spec, "gcs="))
		}},
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
	blobstoretest.Each(t, func(t *testing.T, s blobstore.Store) {
		ctx := t.Context()
		if _, err := s.Read(ctx, "absent"); !errors.Is(err, blobstore.ErrNotExist) {
			t.Errorf("read of an absent key: %v", err)
		}
		for _, key := range []string{"events/a/1", "events/a/0", "events/ab/0", "clicks/a/x"} {
			if err := s.Create(ctx, key, []byte(key)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := s.Created(ctx, "absent"); !errors.Is(err, blobstore.ErrNotExist) {
			t.Errorf("creation of an absent key: %v", err)
		}
		if at, err := s.Created(ctx, "events/a/1"); err != nil || time.Since(at).Abs() > time.Minute {
			t.Errorf("created at %s, %v", at, err)
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
		if err := blobstoretest.Open(t, "dir://"+t.TempDir()).Create(t.Context(), key, nil); err == nil {
			t.Errorf("the directory takes the key %q", key)
		}
	}
}
