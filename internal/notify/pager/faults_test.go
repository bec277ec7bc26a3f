package pager_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/slack-go/slack"

	"github.com/contraband-dev/contraband/internal/blobstore"
	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/cases/caselog"
	fakepagerduty "github.com/contraband-dev/contraband/internal/fake/pagerduty"
	fakeslack "github.com/contraband-dev/contraband/internal/fake/slack"
	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/internal/notify"
	"github.com/contraband-dev/contraband/internal/notify/channels"
	"github.com/contraband-dev/contraband/internal/notify/pager"
	slacknotify "github.com/contraband-dev/contraband/internal/notify/slack"
	"github.com/contraband-dev/contraband/internal/policy"
	"github.com/contraband-dev/contraband/internal/respond"
)

var pages = flag.Int("pages", 24, "findings for each row of the table of faults")

// A child of this test is a function instance: it takes findings over HTTP and pages.
const (
	envStore     = "PAGES_TEST_STORE"
	envSlack     = "PAGES_TEST_SLACK"
	envPagerDuty = "PAGES_TEST_PAGERDUTY"
)

func TestMain(m *testing.M) {
	if store := os.Getenv(envStore); store != "" {
		if err := serveInstance(store); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// serveInstance is a function instance; it prints its address and serves until SIGTERM.
func serveInstance(dir string) error {
	r, err := newResponder(dir)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println("http://" + l.Addr().String())
	mux := http.NewServeMux()
	mux.HandleFunc("POST /finding", func(w http.ResponseWriter, req *http.Request) {
		var f finding.Finding
		if err := json.NewDecoder(req.Body).Decode(&f); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if _, err := r.Finding(req.Context(), f); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
	return http.Serve(l, mux) //nolint:gosec // a test on loopback
}

func newResponder(dir string) (*respond.Responder, error) {
	store, err := blobstore.Open(context.Background(), "dir://"+dir)
	if err != nil {
		return nil, err
	}
	rules, err := policy.Parse([]byte("rules: [{name: all, do: [page]}]"))
	if err != nil {
		return nil, err
	}
	me := fmt.Sprint(os.Getpid(), "/")
	cfg := channels.Config{PagerDuty: map[string]string{"security": "key"}, PagerDutyEndpoint: os.Getenv(envPagerDuty)}
	registry := &channels.Registry{Config: cfg, Slack: &slacknotify.Workspace{
		API: slack.New("xoxb-test", slack.OptionAPIURL(os.Getenv(envSlack)+"/api/"))}}
	p := &pager.Pager{Open: registry.Open, Security: notify.Target{Kind: notify.Slack, Name: fakeslack.Channel}, Timeout: 3 * time.Second}
	if cfg.PagerDutyEndpoint != "" {
		p.Fallback = []notify.Target{{Kind: notify.PagerDuty, Name: "security"}}
	}
	var n atomic.Int64
	return &respond.Responder{
		Log:   &caselog.Store{Objects: store, Lease: cases.Lease, Alive: func(holder string) bool { return strings.HasPrefix(holder, me) }},
		Facts: noFacts{}, Verdicts: unknown{}, Policy: rules, Notifier: p, Link: func(id string) string { return "https://casebook.example/cases/" + id },
		LeaseOwner: func() string { return fmt.Sprint(me, n.Add(1)) }, Now: time.Now,
		Contain: func(context.Context, string, int) (cases.Outcome, error) {
			return cases.Outcome{}, errors.New("nothing is contained")
		},
	}, nil
}

type noFacts struct{}

func (noFacts) Facts(context.Context, finding.Finding) cases.Facts { return cases.Facts{} }

type unknown struct{}

func (unknown) Finding(context.Context, finding.Finding) cases.Verdict {
	return cases.Verdict{Level: cases.Unknown, At: time.Now()}
}

// sink is Slack and PagerDuty, and what is wrong with them.
type sink struct {
	slack     *fakeslack.Server
	pagerduty fakepagerduty.Server
	slackURL  string
	pdURL     string
	down      atomic.Bool // connections are cut
	hung      atomic.Bool // no answer comes
	closed    chan struct{}
}

func newSink(t *testing.T) *sink {
	t.Helper()
	s := &sink{pagerduty: fakepagerduty.Server{Keys: []string{"key"}}, closed: make(chan struct{})}
	var err error
	if s.slack, err = fakeslack.OpenTemporary(filepath.Join(t.TempDir(), "slack.db")); err != nil {
		t.Fatal(err)
	}
	s.slack.Token = "xoxb-test"
	handler := s.slack.Handler()
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.down.Load() {
			panic(http.ErrAbortHandler)
		}
		if s.hung.Load() {
			select {
			case <-r.Context().Done():
			case <-s.closed:
			}
			return
		}
		handler.ServeHTTP(w, r)
	}))
	web.Config.ErrorLog = nil
	pd := httptest.NewServer(s.pagerduty.Handler())
	s.slackURL, s.pdURL = web.URL, pd.URL
	t.Cleanup(func() {
		close(s.closed)
		web.Close()
		pd.Close()
		if err := s.slack.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// told returns how often people were notified of each case, by whatever channel.
func (s *sink) told(t *testing.T) map[string]int {
	t.Helper()
	out := map[string]int{}
	all, err := s.slack.Messages()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range all {
		var metadata struct {
			Payload struct{ Case string } `json:"event_payload"`
		}
		if err := json.Unmarshal(m.Metadata, &metadata); err != nil {
			t.Fatalf("message %s has no metadata: %v", m.Timestamp, err)
		}
		out[metadata.Payload.Case]++
	}
	for _, a := range s.pagerduty.Alerts() {
		out[a.Key] += a.Triggers
	}
	return out
}

// instance is a running child.
type instance struct {
	cmd *exec.Cmd
	url string
}

func startInstance(t *testing.T, dir string, s *sink, fallback bool) *instance {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self) //nolint:noctx // ended by stop
	cmd.Env = append(os.Environ(), envStore+"="+dir, envSlack+"="+s.slackURL)
	if fallback {
		cmd.Env = append(cmd.Env, envPagerDuty+"="+s.pdURL)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 64)
	n, err := out.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()
	return &instance{cmd: cmd, url: strings.TrimSpace(string(line[:n]))}
}

func (i *instance) stop(signal syscall.Signal) {
	_ = i.cmd.Process.Signal(signal)
	_ = i.cmd.Wait()
}

// subscription delivers findings and repeats each until it is acknowledged.
type subscription struct {
	mu  sync.Mutex
	url string
}

func (s *subscription) set(address string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.url = address
}

func (s *subscription) deliver(ctx context.Context, f finding.Finding) error {
	body, err := json.Marshal(f)
	if err != nil {
		return err
	}
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		s.mu.Lock()
		address := s.url
		s.mu.Unlock()
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, address+"/finding", bytes.NewReader(body))
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

func findingNumber(i int) finding.Finding {
	name := fmt.Sprintf("projects/1/sources/2/findings/%d", i)
	return finding.Finding{
		Name: name, CanonicalName: name, Category: finding.AddedBinary, State: "ACTIVE", Severity: "LOW", EventTime: time.Unix(1795599000, 0).UTC(),
		Project: "shop", Location: "europe-west1", Cluster: "prod", Node: "n1",
		Pod: finding.Pod{Namespace: "load", Name: fmt.Sprintf("job-%d", i), UID: fmt.Sprintf("uid-%d", i),
			Labels: map[string]string{"app": fmt.Sprintf("job-%d", i)}}, // a workload of its own: one page each
		Container: finding.Container{ID: fmt.Sprintf("c%063d", i), Name: "main", Image: "img"},
		Process:   finding.Process{Path: fmt.Sprintf("/tmp/x%d", i), SHA256: fmt.Sprintf("%064d", i)},
	}
}

type fault struct {
	name     string
	fallback bool
	set      func(s *sink)                                             // before the load
	during   func(t *testing.T, s *sink, restart func(syscall.Signal)) // beside it
	findings int                                                       // distinct; 0: all are
}

// mend repairs the sink after a while.
func mend(repair func(s *sink)) func(*testing.T, *sink, func(syscall.Signal)) {
	return func(_ *testing.T, s *sink, _ func(syscall.Signal)) {
		time.Sleep(4 * time.Second)
		repair(s)
	}
}

func every(n int64, code int, before bool) func(s *sink) {
	return func(s *sink) {
		var calls atomic.Int64
		s.slack.Fault = func(method string, applied bool) int {
			if method == "chat.postMessage" && applied != before && calls.Add(1)%n == 0 {
				return code
			}
			return 0
		}
	}
}

// some is every how many calls are limited: about 40 in all, each of which costs seconds.
func some() int64 { return int64(max(3, *pages/40)) }

func kill(signal syscall.Signal) func(*testing.T, *sink, func(syscall.Signal)) {
	return func(_ *testing.T, _ *sink, restart func(syscall.Signal)) {
		for range 3 {
			time.Sleep(time.Second)
			restart(signal)
		}
	}
}

var faults = []fault{
	{name: "none"},
	{name: "Slack answers 500 to every third", set: every(3, 500, true)},
	{name: "answers lost: 500 after every third", set: every(3, 500, false)},
	{name: "429 with Retry-After; some", set: func(s *sink) { every(some(), 429, true)(s) }},
	{name: "429 without Retry-After; some", set: func(s *sink) { s.slack.HideRetryAfter = true; every(some(), 429, true)(s) }},
	{name: "down for 4 s", set: func(s *sink) { s.down.Store(true) }, during: mend(func(s *sink) { s.down.Store(false) })},
	{name: "hung for 4 s", set: func(s *sink) { s.hung.Store(true) }, during: mend(func(s *sink) { s.hung.Store(false) })},
	{name: "30% flaky before and after", set: func(s *sink) {
		s.slack.Fault = func(method string, applied bool) int {
			if method == "chat.postMessage" && rand.Float64() < 0.15 { // asked twice a call
				return 503
			}
			return 0
		}
	}},
	{name: "token revoked; PagerDuty is the fallback", fallback: true, set: func(s *sink) {
		s.slack.Answer = func(string, url.Values) string { return "token_revoked" }
	}},
	{name: "channel archived; PagerDuty is the fallback", fallback: true, set: func(s *sink) { s.slack.Archive(fakeslack.Channel) }},
	{name: "SIGTERM three times", during: kill(syscall.SIGTERM)},
	{name: "SIGKILL three times", during: kill(syscall.SIGKILL)},
	{name: "duplicates of 10 findings", findings: 10},
}

// TestNoPageIsLostAndNoCaseIsPagedTwice prints a table; make bench-pages runs it with 2,000
// findings a row.
func TestNoPageIsLostAndNoCaseIsPagedTwice(t *testing.T) {
	var table strings.Builder
	fmt.Fprintf(&table, "%-44s %9s %6s %6s %6s %9s\n", "fault", "findings", "paged", "lost", "twice", "seconds")
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			began := time.Now()
			told := runFault(t, f)
			want := f.findings
			if want == 0 {
				want = *pages
			}
			twice := 0
			for _, n := range told {
				if n > 1 {
					twice++
				}
			}
			fmt.Fprintf(&table, "%-44s %9d %6d %6d %6d %9.1f\n", f.name, *pages, len(told), want-len(told), twice, time.Since(began).Seconds())
			if len(told) != want || twice > 0 {
				t.Errorf("%d of %d cases were paged, %d of them twice", len(told), want, twice)
			}
		})
	}
	t.Log("\n" + table.String())
}

func runFault(t *testing.T, f fault) map[string]int {
	t.Helper()
	dir, s := t.TempDir(), newSink(t)
	if f.set != nil {
		f.set(s)
	}
	in := startInstance(t, dir, s, f.fallback)
	sub := &subscription{url: in.url}
	restart := func(signal syscall.Signal) {
		in.stop(signal)
		in = startInstance(t, dir, s, f.fallback)
		sub.set(in.url)
	}
	defer func() { in.stop(syscall.SIGKILL) }()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	var beside sync.WaitGroup
	if f.during != nil {
		beside.Go(func() { f.during(t, s, restart) })
	}
	deliverAll(ctx, t, sub, f.findings)
	beside.Wait()
	return s.told(t)
}

// deliverAll delivers the findings, 32 at a time.
func deliverAll(ctx context.Context, t *testing.T, sub *subscription, distinct int) {
	t.Helper()
	var wg sync.WaitGroup
	slots := make(chan struct{}, 32)
	for i := range *pages {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			n := i
			if distinct > 0 {
				n = i % distinct
			}
			if err := sub.deliver(ctx, findingNumber(n)); err != nil {
				t.Errorf("finding %d was never acknowledged: %v", n, err)
			}
		})
	}
	wg.Wait()
}
