package respond_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slack-go/slack"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/contraband-dev/contraband/internal/blobstore"
	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/cases/caselog"
	"github.com/contraband-dev/contraband/internal/contain"
	"github.com/contraband-dev/contraband/internal/enrich"
	fakescc "github.com/contraband-dev/contraband/internal/fake/scc"
	fakeslack "github.com/contraband-dev/contraband/internal/fake/slack"
	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/internal/incidents"
	"github.com/contraband-dev/contraband/internal/incidents/incidentlog"
	"github.com/contraband-dev/contraband/internal/notify"
	"github.com/contraband-dev/contraband/internal/notify/pager"
	slacknotify "github.com/contraband-dev/contraband/internal/notify/slack"
	"github.com/contraband-dev/contraband/internal/policy"
	"github.com/contraband-dev/contraband/internal/respond"
	"github.com/contraband-dev/contraband/internal/scc"
	"github.com/contraband-dev/contraband/internal/sensorapi"
	"github.com/contraband-dev/contraband/internal/verdict"
)

const source = "organizations/1/sources/1/locations/global"

var program = []byte("what ran")

// life counts every write to the outside and ends at one of them: before it
// takes effect, or after, with the answer lost. Nothing works after the end.
type life struct {
	mu     sync.Mutex
	n      int
	endAt  int    // 0: never
	endOn  string // ends before the first operation of this name; "": never
	before bool
	ended  bool
	log    []string // what was done, in order
}

var errDead = errors.New("the process has died")

func (l *life) begin(what string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return errDead
	}
	l.n++
	l.log = append(l.log, what)
	if l.n == l.endAt && l.before || l.endOn != "" && strings.HasPrefix(what, l.endOn) {
		l.ended = true
		return errDead
	}
	return nil
}

func (l *life) end() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended || l.n >= l.endAt && l.endAt > 0 && !l.before {
		l.ended = true
		return errDead
	}
	return nil
}

// revive begins another life: nothing ends it.
func (l *life) revive() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended, l.endAt, l.endOn = false, 0, ""
}

// mortalStore is a store seen from a process that can die.
type mortalStore struct {
	blobstore.Store
	life *life
}

func (m mortalStore) Create(ctx context.Context, key string, body []byte) error {
	if err := m.life.begin("create " + key); err != nil {
		return err
	}
	err := m.Store.Create(ctx, key, body)
	if dead := m.life.end(); dead != nil {
		return dead
	}
	return err
}

func (m mortalStore) Read(ctx context.Context, key string) ([]byte, error) {
	if err := m.life.begin("read " + key); err != nil {
		return nil, err
	}
	return m.Store.Read(ctx, key)
}

func (m mortalStore) List(ctx context.Context, prefix string) ([]string, error) {
	if err := m.life.begin("list " + prefix); err != nil {
		return nil, err
	}
	return m.Store.List(ctx, prefix)
}

// nodeSide is a node that carries an order out once, as the sensor does.
type nodeSide struct {
	mu      sync.Mutex
	store   blobstore.Store
	orders  map[string]sensorapi.OrderStatus
	carried []string // the actions that took effect
	refuse  string
	gone    bool
	life    *life
}

func (s *nodeSide) Execute(ctx context.Context, _ string, o sensorapi.Order) (sensorapi.OrderStatus, error) {
	if err := o.Validate(); err != nil {
		return sensorapi.OrderStatus{}, err
	}
	if err := s.life.begin("order " + string(o.Action)); err != nil {
		return sensorapi.OrderStatus{}, err
	}
	s.mu.Lock()
	st, known := s.orders[o.ID]
	if !known {
		st = sensorapi.OrderStatus{ID: o.ID, Done: true, At: time.Now(), Process: 2, Until: o.Expires}
		if s.gone {
			st.Done, st.Gone, st.Error = false, true, "the container is gone"
		} else if s.refuse != "" {
			st.Done, st.Error = false, s.refuse
		} else if s.carried = append(s.carried, string(o.Action)); o.Action == sensorapi.Evidence {
			if err := s.store.Create(ctx, blobstore.UploadKey(o.ID), program); err != nil && !errors.Is(err, blobstore.ErrExists) {
				s.mu.Unlock()
				return st, err
			}
		}
		s.orders[o.ID] = st
	}
	s.mu.Unlock()
	return st, s.life.end()
}

// world is everything outside of the process: it outlives its deaths.
type world struct {
	t     *testing.T
	store blobstore.Store
	scc   *fakescc.Server
	slack *fakeslack.Server
	web   *httptest.Server
	node  *nodeSide
	life  *life
	yaml  string
	// countMessages: check expects one message for each thing that people are notified of.
	countMessages bool
	// sccFault is asked before and after each call of SCC's takes effect; nil: never.
	sccFault func(method string, applied bool) error
}

const actingPolicy = `
rules:
  - name: known malware
    when: verdict.level == "malicious"
    do: [escalate, page, freeze, evidence]
  - name: everything else
    do: [page]
`

func newWorld(t *testing.T, store blobstore.Store) *world {
	t.Helper()
	w := &world{t: t, store: store, life: &life{}, yaml: actingPolicy, countMessages: true}
	dir := t.TempDir()
	var err error
	w.scc, err = fakescc.Start(fakescc.Config{
		File: filepath.Join(dir, "scc.db"), Source: source, ProjectNumber: "1", Notify: func(context.Context, []byte) error { return nil },
		Fault: func(method string, applied bool) error {
			if w.sccFault != nil {
				if err := w.sccFault(method, applied); err != nil {
					return err
				}
			}
			if applied && w.life.end() != nil || !applied && w.life.begin("scc "+method) != nil {
				return status.Error(codes.Aborted, errDead.Error())
			}
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if w.slack, err = fakeslack.Open(filepath.Join(dir, "slack.db")); err != nil {
		t.Fatal(err)
	}
	w.slack.Token = "xoxb-test"
	w.slack.Fault = func(method string, applied bool) int {
		if !strings.HasPrefix(method, "chat.") || method == "chat.getPermalink" {
			return 0
		}
		if applied && w.life.end() != nil || !applied && w.life.begin("slack "+method) != nil {
			return 500
		}
		return 0
	}
	w.web = httptest.NewServer(w.slack.Handler())
	w.node = &nodeSide{store: store, orders: map[string]sensorapi.OrderStatus{}, life: w.life}
	t.Cleanup(func() {
		w.web.Close()
		if err := errors.Join(w.scc.Close(), w.slack.Close()); err != nil {
			t.Error(err)
		}
	})
	return w
}

var incarnations int

// process is one life of the function's process.
func (w *world) process() *respond.Responder {
	w.t.Helper()
	incarnations++
	me := fmt.Sprint("p", incarnations)
	ctx := w.t.Context()
	scc, err := scc.NewClient(ctx, source, option.WithEndpoint(w.scc.Addr), option.WithoutAuthentication(),
		option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { scc.Close() })
	rules, err := policy.Parse([]byte(w.yaml))
	if err != nil {
		w.t.Fatal(err)
	}
	store := mortalStore{w.store, w.life}
	log := &caselog.Store{Objects: store, Lease: cases.Lease, Snapshot: incidents.SnapshotAny, Alive: func(h string) bool { return strings.HasPrefix(h, me+"/") }}
	box := &contain.Executor{Log: log, Guards: rules.Guards, Orders: w.node, Now: time.Now,
		Upload: func(_ context.Context, key string, max int64) (*sensorapi.Upload, error) {
			return &sensorapi.Upload{URL: "http://127.0.0.1/" + key, MaxBytes: max}, nil
		}}
	n := 0
	var mu sync.Mutex
	list := verdict.BuiltIn()
	link := func(id string) string { return "http://casebook/cases/" + id }
	return &respond.Responder{
		Log: log, Facts: enrich.Enricher{Fallback: "#security"}, Verdicts: verdict.Lookup{Sources: []verdict.Source{list, bad{}}}, Policy: rules,
		Notifier: w.pager(link),
		SCC:      scc, Contain: box.Execute, Sources: finding.Sources{Ours: source}, Link: link, Now: time.Now,
		LeaseOwner: func() string {
			mu.Lock()
			defer mu.Unlock()
			n++
			return fmt.Sprintf("%s/%d", me, n)
		},
	}
}

// bad knows the hash of program.
type bad struct{}

func (bad) Name() string { return "test list" }
func (bad) Lookup(_ context.Context, sum string) (cases.Verdict, error) {
	if sum == hash() {
		return cases.Verdict{Level: cases.Malicious, Label: "miner.test"}, nil
	}
	return cases.Verdict{}, verdict.ErrUnknown
}

func hash() string { s := sha256.Sum256(program); return hex.EncodeToString(s[:]) }

// found raises a finding in SCC, as Raise does, and returns it as a notification carries it.
func (w *world) found(container string, at time.Time) finding.Finding {
	w.t.Helper()
	d := sensorapi.Detection{Time: at, Route: sensorapi.Added, Node: "n1", Process: sensorapi.Process{Path: "/tmp/x", PID: 7}, File: sensorapi.File{SHA256: hash(), Size: 8},
		Container: sensorapi.Container{ID: container, Image: "img"}}
	_, f, err := scc.FromDetection(d, finding.Place{Project: "p", Location: "l", Cluster: "c"}, source, time.Now())
	if err != nil {
		w.t.Fatal(err)
	}
	f.CanonicalName = strings.Replace(f.Name, "organizations/1", "projects/1", 1)
	body, err := scc.Notification("", f, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	all, err := finding.Decode(body)
	if err != nil {
		w.t.Fatal(err)
	}
	return all[0]
}

// raiseInSCC makes the finding exist, so that it can be reported to.
func (w *world) raiseInSCC(f finding.Finding) {
	w.t.Helper()
	endAt := w.life.endAt
	w.life.endAt = 0
	client, err := scc.NewClient(w.t.Context(), source, option.WithEndpoint(w.scc.Addr), option.WithoutAuthentication(),
		option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())))
	if err != nil {
		w.t.Fatal(err)
	}
	defer client.Close()
	_, made, err := scc.FromDetection(sensorapi.Detection{Time: f.EventTime, Route: sensorapi.Added, Node: "n1", Process: sensorapi.Process{Path: "/tmp/x", PID: 7},
		File: sensorapi.File{SHA256: hash(), Size: 8}, Container: sensorapi.Container{ID: f.Container.ID, Image: "img"}}, finding.Place{Project: "p", Location: "l", Cluster: "c"}, source, time.Now())
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := client.Upsert(w.t.Context(), made); err != nil {
		w.t.Fatal(err)
	}
	w.life.n, w.life.endAt, w.life.log = 0, endAt, nil
}

// check holds the world to one page, one escalation, one of each action.
func (w *world) check(caseID string) cases.Case {
	w.t.Helper()
	messages, err := w.slack.Messages()
	told := 1
	if w.read(caseID).WorseReminder != nil {
		told = 2 // the page, and that the verdict is worse
	}
	if err != nil || w.countMessages && len(messages) != told {
		w.t.Errorf("%d Slack messages, want %d (%v)", len(messages), told, err)
	}
	all, err := w.scc.Findings()
	if err != nil {
		w.t.Fatal(err)
	}
	escalations := 0
	for _, f := range all {
		if f.Category == finding.AddedMaliciousBinary {
			escalations++
		}
	}
	if escalations != 1 {
		w.t.Errorf("%d escalations, want 1", escalations)
	}
	if got := strings.Join(w.node.carried, " "); got != "freeze evidence" {
		w.t.Errorf("the node did %q, want freeze then evidence, each once", got)
	}
	c := w.read(caseID)
	if !c.Frozen() || c.Done(cases.Evidence) == nil || c.Done(cases.Evidence).SHA256 != hash() {
		w.t.Errorf("the case says frozen %v, evidence %+v", c.Frozen(), c.Done(cases.Evidence))
	}
	return c
}

func (w *world) read(caseID string) cases.Case {
	w.t.Helper()
	c, _, err := incidentlog.Case(w.t.Context(), &caselog.Store{Objects: w.store, Lease: cases.Lease}, caseID)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

func memory(t *testing.T) blobstore.Store {
	t.Helper()
	s, err := blobstore.Open(t.Context(), "mem://")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestKnownMalwareIsPagedEscalatedFrozenAndKept(t *testing.T) {
	w := newWorld(t, memory(t))
	f := w.found("c1", time.Now())
	w.raiseInSCC(f)
	r := w.process()
	o, err := r.Finding(t.Context(), f)
	if err != nil || o.Case == "" {
		t.Fatalf("%+v, %v", o, err)
	}
	c := w.check(o.Case)
	if c.Reported != "frozen" || c.Paged.Error != "" {
		t.Errorf("reported %q, paged %+v", c.Reported, c.Paged)
	}
	// The same again, by another message, any number of times: nothing happens.
	before := w.life.n
	for range 3 {
		if again, err := r.Finding(t.Context(), f); err != nil || again != o {
			t.Errorf("again: %+v, %v", again, err)
		}
	}
	w.check(o.Case)
	for _, op := range w.life.log[before:] {
		if strings.HasPrefix(op, "slack") || strings.HasPrefix(op, "scc") || strings.HasPrefix(op, "order") {
			t.Errorf("a redelivery caused %q", op)
		}
	}
}

// TestPageLeavesAfterFiveSequentialBucketOperations measures the fast path against a store
// whose every operation takes as long: operations side by side count once.
func TestPageLeavesAfterFiveSequentialBucketOperations(t *testing.T) {
	const each = 400 * time.Millisecond // the machine may be busy: what it adds must be less than one operation
	w := newWorld(t, slowStore{memory(t), each})
	w.yaml = "rules: [{name: all, do: [page]}]"
	var took time.Duration
	began := time.Now()
	inner := w.slack.Fault
	w.slack.Fault = func(method string, applied bool) int {
		if method == "chat.postMessage" && took == 0 {
			took = time.Since(began)
		}
		return inner(method, applied)
	}
	if _, err := w.process().Finding(t.Context(), w.found("c1", time.Now())); err != nil {
		t.Fatal(err)
	}
	if took == 0 || took >= 6*each {
		t.Errorf("the page left after %s, %.1f sequential bucket operations; want five at most", took, float64(took)/float64(each))
	}
	t.Logf("%.1f sequential bucket operations before the page", float64(took)/float64(each))
}

// slowStore takes its time for each operation.
type slowStore struct {
	blobstore.Store
	each time.Duration
}

func (s slowStore) Create(ctx context.Context, key string, body []byte) error {
	time.Sleep(s.each)
	return s.Store.Create(ctx, key, body)
}

func (s slowStore) Read(ctx context.Context, key string) ([]byte, error) {
	time.Sleep(s.each)
	return s.Store.Read(ctx, key)
}

func (s slowStore) List(ctx context.Context, prefix string) ([]string, error) {
	time.Sleep(s.each)
	return s.Store.List(ctx, prefix)
}

// TestDeathAtEveryWrite ends the process before and after each of its writes in
// turn, starts another, and delivers the finding again, as Pub/Sub does.
func TestDeathAtEveryWrite(t *testing.T) {
	for _, before := range []bool{true, false} {
		for k := 1; ; k++ {
			name := fmt.Sprintf("after write %d", k)
			if before {
				name = fmt.Sprintf("before write %d", k)
			}
			survived := false
			t.Run(name, func(t *testing.T) {
				w := newWorld(t, memory(t))
				w.life.endAt, w.life.before = k, before
				f := w.found("c1", time.Now())
				w.raiseInSCC(f)
				_, err := w.process().Finding(t.Context(), f)
				last := w.life.log[len(w.life.log)-1]
				if survived = err == nil && !w.life.ended; survived {
					return
				}
				w.life.revive()
				// Two deliveries at once: the direct copy and SCC's notification.
				r := w.process()
				var wg sync.WaitGroup
				var outcomes [2]respond.Result
				for i := range outcomes {
					wg.Go(func() {
						for range 500 {
							o, err := r.Finding(t.Context(), f)
							if err == nil {
								outcomes[i] = o
								return
							}
							if !errors.Is(err, respond.ErrBusy) {
								t.Errorf("died at %q; then: %v", last, err)
								return
							}
							time.Sleep(2 * time.Millisecond)
						}
						t.Errorf("died at %q; then busy for ever", last)
					})
				}
				wg.Wait()
				if outcomes[0] != outcomes[1] {
					t.Errorf("two deliveries of one finding: %+v", outcomes)
				}
				w.check(outcomes[0].Case)
				if t.Failed() {
					t.Logf("died at %q", last)
				}
			})
			if survived || t.Failed() || k > 200 {
				t.Logf("before=%v: %d writes", before, k-1)
				break
			}
		}
	}
}

func TestFindingsOfOneContainerJoinOneCase(t *testing.T) {
	w := newWorld(t, memory(t))
	r := w.process()
	first := w.found("c1", time.Now().Add(-time.Minute))
	w.raiseInSCC(first)
	o, err := r.Finding(t.Context(), first)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 8 { // racing, as instances of a function do
		wg.Go(func() {
			f := w.found("c1", time.Now().Add(-time.Duration(i)*time.Second))
			for range 100 {
				again, err := r.Finding(t.Context(), f)
				if err == nil {
					if again != o {
						t.Errorf("joined %+v, want %+v", again, o)
					}
					return
				}
				if !errors.Is(err, respond.ErrBusy) {
					t.Errorf("join: %v", err)
					return
				}
				time.Sleep(5 * time.Millisecond)
			}
			t.Error("busy for ever")
		})
	}
	wg.Wait()
	// The first joins at once; the others count, and are joined a minute later.
	r.Now = func() time.Time { return time.Now().Add(2 * time.Minute) }
	r.Log.Now = r.Now
	if err := r.Advance(t.Context(), o.Case); err != nil {
		t.Fatal(err)
	}
	if c := w.check(o.Case); c.Joined != 8 {
		t.Errorf("%d joined, want 8", c.Joined)
	}
	other, err := r.Finding(t.Context(), w.found("c2", time.Now()))
	if err != nil || other.Case == o.Case {
		t.Errorf("another container: %+v, %v", other, err)
	}
}

func press(t *testing.T, w *world, caseID, what string) {
	t.Helper()
	id := fmt.Sprint(what, time.Now().UnixNano())
	body, err := json.Marshal(cases.Click{ID: id, What: what, By: "ann@example.com", At: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	if err := (&caselog.Store{Objects: w.store}).Click(t.Context(), caseID, id, body); err != nil {
		t.Fatal(err)
	}
}

func TestReleaseThawsAndCloses(t *testing.T) {
	w := newWorld(t, memory(t))
	r := w.process()
	f := w.found("c1", time.Now())
	w.raiseInSCC(f)
	o, err := r.Finding(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	press(t, w, o.Case, cases.ActionClose) // refused: it is frozen
	press(t, w, o.Case, cases.ActionRelease)
	for range 2 {
		if err := r.Advance(t.Context(), o.Case); err != nil {
			t.Fatal(err)
		}
	}
	c := w.read(o.Case)
	if got := strings.Join(w.node.carried, " "); got != "freeze evidence thaw" || c.Status() != "closed: released" {
		t.Errorf("the node did %q, the case is %q", got, c.Status())
	}
	refused := slices.ContainsFunc(c.Clicks, func(k cases.Click) bool { return k.What == cases.ActionClose && k.Refused != "" })
	if !refused { // releases are handled first, whatever their order
		t.Errorf("a frozen case was closed under the freeze: %+v", c.Clicks)
	}
	messages, err := w.slack.Messages()
	if err != nil || len(messages) != 1 || !strings.Contains(string(messages[0].Blocks), "closed as released by ann@") {
		t.Errorf("the page does not show the end: %d messages, %s, %v", len(messages), messages[0].Blocks, err)
	}
	next := w.found("c1", time.Now())
	again, err := r.Finding(t.Context(), next)
	if err != nil || again.Case != o.Case+"-2" {
		t.Errorf("the next occurrence: %+v, %v; want the next episode", again, err)
	}
}

func TestFindingsThatAreNotPaged(t *testing.T) {
	w := newWorld(t, memory(t))
	r := w.process()
	active := w.found("c1", time.Now())
	for name, change := range map[string]func(f *finding.Finding){
		"our own escalation": func(f *finding.Finding) { f.Category = finding.AddedMaliciousBinary },
		"another category":   func(f *finding.Finding) { f.Category = "OPEN_FIREWALL" },
		"inactive":           func(f *finding.Finding) { f.State = "INACTIVE" },
		"deleted":            func(f *finding.Finding) { f.Deleted = true },
		"muted":              func(f *finding.Finding) { f.Mute = "MUTED" },
	} {
		f := active
		change(&f)
		if o, err := r.Finding(t.Context(), f); err != nil || o.Acknowledged == "" {
			t.Errorf("%s: %+v, %v; want it acknowledged", name, o, err)
		}
	}
	if messages, err := w.slack.Messages(); err != nil || len(messages) != 0 {
		t.Errorf("%d pages, %v", len(messages), err)
	}
	// CTD's own malicious finding, in its own source, is no escalation of ours.
	f := active
	f.Category, f.Parent = finding.AddedMaliciousBinary, "organizations/1/sources/9"
	if o, err := r.Finding(t.Context(), f); err != nil || o.Case == "" {
		t.Errorf("another detector's malicious finding: %+v, %v", o, err)
	}
}

func TestInactiveClosesTheCase(t *testing.T) {
	w := newWorld(t, memory(t))
	w.yaml = "rules: [{name: all, do: [page]}]"
	r := w.process()
	f := w.found("c1", time.Now())
	w.raiseInSCC(f)
	o, err := r.Finding(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	f.State = "INACTIVE"
	if again, err := r.Finding(t.Context(), f); err != nil || again != o {
		t.Fatalf("%+v, %v", again, err)
	}
	if c := w.read(o.Case); c.Closed == nil || !strings.Contains(c.Closed.By, "Security Command Center") {
		t.Errorf("the case is %q", c.Status())
	}
}

func TestRefusedActionsArePaged(t *testing.T) {
	for name, set := range map[string]func(w *world){
		"dry run":         func(w *world) { w.yaml += "guards: {dry_run: true}\n" },
		"the node cannot": func(w *world) { w.node.refuse = "a process of it is stuck in the kernel" },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, memory(t))
			set(w)
			f := w.found("c1", time.Now())
			w.raiseInSCC(f)
			o, err := w.process().Finding(t.Context(), f)
			if err != nil {
				t.Fatal(err)
			}
			c := w.read(o.Case)
			if c.Frozen() || c.Claim(cases.Freeze).Outcome.Error == "" {
				t.Errorf("freeze: %+v", c.Claim(cases.Freeze).Outcome)
			}
			messages, err := w.slack.Messages()
			if err != nil || len(messages) != 1 || !strings.Contains(string(messages[0].Blocks), "freeze NOT done") {
				t.Errorf("the page does not say that nothing was frozen: %s (%v)", messages[0].Blocks, err)
			}
		})
	}
}

// TestBudget: the sixth containment of an hour pages and does not freeze.
func TestBudget(t *testing.T) {
	w := newWorld(t, memory(t))
	r := w.process()
	frozen := 0
	for i := range 7 {
		o, err := r.Finding(t.Context(), w.found(fmt.Sprint("c", i), time.Now()))
		if err != nil {
			t.Fatal(err)
		}
		if w.read(o.Case).Frozen() {
			frozen++
		}
	}
	if frozen != 5 {
		t.Errorf("%d frozen, want 5", frozen)
	}
}

func TestTimesNest(t *testing.T) {
	times := []time.Duration{cases.StepDeadline, cases.FunctionTimeout, cases.Lease, cases.AckDeadline}
	if !slices.IsSorted(times) || len(slices.Compact(slices.Clone(times))) != len(times) {
		t.Errorf("step < function < lease < ack deadline does not hold: %v", times)
	}
}

func (w *world) pager(link func(string) string) *pager.Pager {
	workspace := &slacknotify.Workspace{API: slack.New("xoxb-test", slack.OptionAPIURL(w.web.URL+"/api/")), SearchInterval: time.Millisecond}
	return &pager.Pager{
		Open:     func(t notify.Target) (notify.Channel, error) { return workspace.Channel(t.Name), nil },
		Security: notify.Target{Kind: notify.Slack, Name: fakeslack.Channel}, Link: link,
	}
}
