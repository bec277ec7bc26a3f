package respond_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/contraband-dev/contraband/internal/blobstore"
	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/cases/caselog"
	"github.com/contraband-dev/contraband/internal/enrich"
	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/internal/incidents"
	"github.com/contraband-dev/contraband/internal/incidents/incidentlog"
	"github.com/contraband-dev/contraband/internal/notify"
	"github.com/contraband-dev/contraband/internal/policy"
	"github.com/contraband-dev/contraband/internal/respond"
	"github.com/contraband-dev/contraband/internal/workflowlang"
	deployed "github.com/contraband-dev/contraband/workflows"
)

var (
	yearCases = flag.Int("year.cases", unlessRace(40, 8), "cases of the simulated year")
	yearSeed  = flag.Uint64("year.seed", 1, "seed of the simulated year; 0: another one each time")
	yearFrom  = flag.Int("year.from", 0, "the first case of the simulated year: a long one can be lived through in parts")
	yearCase  = flag.Int("year.case", -1, "the one case of the simulated year to live through; -1: all")
)

// unlessRace returns the size of a test: small under the race detector.
func unlessRace(whole, small int) int {
	if raceEnabled {
		return small
	}
	return whole
}

// TestYear lets cases live for a year of virtual time: people press what they like,
// twice, or nothing; every part fails and restarts; the deployed workflow drives
// each case until it dies. Whatever happened, the case comes to rest, in a legal
// state, and nothing that was to be looked at is forgotten.
func TestYear(t *testing.T) {
	seed := *yearSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	fmt.Printf("simulated year: %d cases, -year.seed=%d\n", *yearCases, seed)
	definition, err := workflowlang.Parse(deployed.Case)
	if err != nil {
		t.Fatal(err)
	}
	rules, err := policy.Parse([]byte(yearPolicy)) // once: CEL's parser may not be used side by side
	if err != nil {
		t.Fatal(err)
	}
	ends, events, pressed, died, wakes, deaths := map[string]int{}, 0, 0, 0, 0, 0
	moves := map[string]bool{} // from one state to another, as the diagram draws them
	var mu sync.Mutex
	var g errgroup.Group
	g.SetLimit(runtime.NumCPU())
	for i := range *yearCases {
		if *yearCase >= 0 && i != *yearCase || i < *yearFrom {
			continue
		}
		g.Go(func() error {
			y := newYear(t, definition, rules, rand.New(rand.NewPCG(seed, uint64(i))))
			y.which = fmt.Sprintf("-year.seed=%d -year.case=%d", seed, i)
			y.live()
			c := y.check(y.which)
			mu.Lock()
			defer mu.Unlock()
			ends[c.Status()]++
			events += y.events
			pressed += len(c.Clicks)
			if y.flowDied {
				died++
			}
			wakes += len(y.plain.fired)
			deaths += int(y.deaths.Load())
			maps.Copy(moves, y.moves)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	fmt.Printf("%d invocations, %d of which died; %d presses taken in, %d wakes answered, %d workflows died; ends: %v\n", events, deaths, pressed, wakes, died, ends)
	drawn := diagram(t)
	for _, move := range slices.Sorted(maps.Keys(moves)) {
		if !drawn[move] {
			t.Errorf("docs/cases.md does not draw %s", move)
		}
	}
	if *yearCases-*yearFrom < 10_000 {
		return // some moves come once in thousands of cases
	}
	for _, move := range slices.Sorted(maps.Keys(drawn)) {
		if !moves[move] && !strings.HasSuffix(move, " --> [*]") { // the end of a case is the end of its log
			t.Errorf("docs/cases.md draws %s, which never happened", move)
		}
	}
}

// diagram are the moves that docs/cases.md draws.
func diagram(t *testing.T) map[string]bool {
	t.Helper()
	page, err := os.ReadFile("../../docs/cases.md")
	if err != nil {
		t.Fatal(err)
	}
	_, drawing, _ := strings.Cut(string(page), "stateDiagram-v2")
	drawing, _, _ = strings.Cut(drawing, "```")
	out := map[string]bool{}
	for line := range strings.Lines(drawing) {
		if from, to, ok := strings.Cut(line, " --> "); ok {
			to, _, _ = strings.Cut(to, ":")
			out[strings.TrimSpace(from)+" --> "+strings.TrimSpace(to)] = true
		}
	}
	if len(out) < 10 {
		t.Fatalf("docs/cases.md draws %v", out)
	}
	return out
}

// stateOf is where the diagram has a case.
func stateOf(c cases.Case) string {
	status := c.Status()
	for prefix, state := range map[string]string{
		"closed: ": "closed", "pod does not go": "pod_does_not_go", "pod removed": "pod_removed", "freeze lost": "freeze_lost", "released": "released",
		"freeze expired": "freeze_expired", "waiting for approval": "waiting_for_approval", "open": "open", "expected": "expected",
	} {
		if strings.HasPrefix(status, prefix) {
			return state
		}
	}
	return "held"
}

const yearPolicy = `
rules:
  - name: asked
    when: process.path == "/asked"
    do: [escalate, page, freeze, evidence, isolate]
    ask: true
    for: 48h
  - name: acted
    when: process.path == "/acted"
    do: [escalate, page, freeze, evidence, isolate, cordon]
    otherwise: [evict]
    for: 24h
  - name: brief
    when: process.path == "/brief"
    do: [page, freeze, isolate]
    for: 10m
  - name: escalating
    when: process.path == "/escalating"
    do: [page, evidence, isolate]
    otherwise: [evict]
    at_end: otherwise
    for: 12h
  - name: graver than was thought
    when: verdict.level == "malicious"
    do: [page, freeze, evidence]
    ask: true
  - name: told
    do: [page]
`

// year is one case, and the world around it.
type year struct {
	t         *testing.T
	r         *rand.Rand // of the plan of the year, made by one
	dice      *dice      // of what happens in it
	def       *workflowlang.Definition
	now       time.Time
	end       time.Time
	store     *flakyStore
	plain     *plainStore
	policy    *policy.Policy
	deaths    atomic.Int64 // of invocations
	auditor   *respond.Responder
	alone     bool   // no workflow drives cases: the sweep must suffice
	which     string // the flags that repeat it
	forgotten bool
	late      map[string]time.Time // what is due, since when it was seen so
	moves     map[string]bool
	queue     []happening // by time
	caseID    string
	events    int

	flows    int
	flowDied bool
	waiting  map[string]bool // callbacks that are awaited, and whether a request is not yet read
	pages    int
	reminded map[string]bool
	acts     map[string]cases.Outcome // by claim: done once
	removed  bool
	holds    map[string]bool // what holds in the world: freeze, isolate, cordon
}

type happening struct {
	at time.Time
	do func()
}

// plainStore is a Store of one process: a year has many millions of operations.
type plainStore struct {
	mu     sync.Mutex
	values map[string][]byte
	keys   []string       // sorted
	made   map[string]int // wakes, by key
	fired  map[string]int // those that were answered

	created map[string]time.Time
	now     func() time.Time
	early   []string // that were answered before their time
}

func (s *plainStore) Create(_ context.Context, key string, body []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, taken := slices.BinarySearch(s.keys, key)
	if taken {
		return blobstore.ErrExists
	}
	s.keys, s.values[key], s.created[key] = slices.Insert(s.keys, i, key), slices.Clone(body), s.now()
	if strings.HasPrefix(key, "wakes/") {
		s.made[key]++
	}
	return nil
}

func (s *plainStore) Read(_ context.Context, key string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	body, ok := s.values[key]
	if !ok {
		return nil, blobstore.ErrNotExist
	}
	return body, nil
}

func (s *plainStore) Created(_ context.Context, key string) (time.Time, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, ok := s.created[key]
	if !ok {
		return at, blobstore.ErrNotExist
	}
	return at, nil
}

func (s *plainStore) List(_ context.Context, prefix string) (out []string, _ error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, _ := slices.BinarySearch(s.keys, prefix); i < len(s.keys) && strings.HasPrefix(s.keys[i], prefix); i++ {
		out = append(out, s.keys[i])
	}
	return out, nil
}

func (s *plainStore) Delete(_ context.Context, key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i, ok := slices.BinarySearch(s.keys, key); ok {
		s.keys = slices.Delete(s.keys, i, i+1)
		delete(s.values, key)
		delete(s.created, key)
		if strings.HasPrefix(key, "wakes/") {
			s.fired[key]++
			if strings.Split(key, "/")[1] > s.now().UTC().Format("2006-01-02T15:04:05") {
				s.early = append(s.early, key)
			}
		}
	}
	return nil
}

func (s *plainStore) Close() error { return nil }

// dice returns chances by what they are about: the steps of a case run side by side,
// and a seed is to mean the same all the same.
type dice struct {
	seed uint64
	calm bool // nothing fails: what is due is taken at once
	mu   sync.Mutex
	n    map[string]uint64
}

// faults are chances of what never happens in a calm year. (That a press reaches nobody
// is none of them: it has a wake.)
var faults = []string{"contain", "answer", "drive", "driven twice", "post", "edit", "remind", "step"}

func (d *dice) chance(about string, p float64) bool {
	if d.calm && slices.Contains(faults, about) {
		return false
	}
	d.mu.Lock()
	d.n[about]++
	n := d.n[about]
	d.mu.Unlock()
	h := fnv.New64a()
	fmt.Fprintf(h, "%d %s %d", d.seed, about, n)
	return rand.New(rand.NewPCG(h.Sum64(), d.seed)).Float64() < p
}

// flakyStore fails a few operations, before or after they take effect.
type flakyStore struct {
	blobstore.Store
	dice  *dice
	rate  float64
	quiet atomic.Bool
}

var errFlaky = errors.New("the store does not answer")

func (s *flakyStore) fails(about string) bool {
	return !s.quiet.Load() && s.dice.chance(about, s.rate)
}

func (s *flakyStore) Create(ctx context.Context, key string, body []byte) error {
	if s.fails("create " + key) {
		return errFlaky
	}
	err := s.Store.Create(ctx, key, body)
	if s.fails("created " + key) {
		return errFlaky
	}
	return err
}

func (s *flakyStore) Read(ctx context.Context, key string) ([]byte, error) {
	if s.fails("read " + key) {
		return nil, errFlaky
	}
	return s.Store.Read(ctx, key)
}

// invocation is one life of a function's process, which can end at any of its operations
// on the store: then nothing that it does takes effect any more, and its lease stays.
type invocation struct {
	*flakyStore
	y    *year
	dead atomic.Bool
}

var errDied = errors.New("the process has died")

func (i *invocation) dies(about string) bool {
	if !i.dead.Load() && !i.quiet.Load() && i.dice.chance("dies "+about, 0.002) {
		i.dead.Store(true)
		i.y.deaths.Add(1)
	}
	return i.dead.Load()
}

func (i *invocation) Create(ctx context.Context, key string, body []byte) error {
	if i.dies("before creating " + key) {
		return errDied
	}
	err := i.flakyStore.Create(ctx, key, body)
	if i.dies("after creating " + key) {
		return errDied
	}
	return err
}

func (i *invocation) Read(ctx context.Context, key string) ([]byte, error) {
	if i.dies("reading " + key) {
		return nil, errDied
	}
	return i.flakyStore.Read(ctx, key)
}

func (i *invocation) List(ctx context.Context, prefix string) ([]string, error) {
	if i.dies("listing " + prefix) {
		return nil, errDied
	}
	return i.flakyStore.List(ctx, prefix)
}

func (i *invocation) Delete(ctx context.Context, key string) error {
	if i.dies("deleting " + key) {
		return errDied
	}
	return i.flakyStore.Delete(ctx, key)
}

func newYear(t *testing.T, def *workflowlang.Definition, rules *policy.Policy, r *rand.Rand) *year {
	t.Helper()
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	d := &dice{seed: r.Uint64(), calm: r.IntN(4) == 0, n: map[string]uint64{}}
	plain := &plainStore{values: map[string][]byte{}, made: map[string]int{}, fired: map[string]int{}, created: map[string]time.Time{}}
	y := &year{t: t, r: r, dice: d, def: def, now: start, end: start.AddDate(1, 0, 0), policy: rules, plain: plain, alone: r.IntN(3) == 0,
		store: &flakyStore{Store: plain, dice: d, rate: 0.01}, acts: map[string]cases.Outcome{}, holds: map[string]bool{},
		late: map[string]time.Time{}, moves: map[string]bool{}, waiting: map[string]bool{}, reminded: map[string]bool{}}
	plain.now = func() time.Time { return y.now }
	y.store.quiet.Store(d.calm)
	return y
}

func (y *year) after(d time.Duration, do func()) {
	y.queue = append(y.queue, happening{y.now.Add(d), do})
	slices.SortStableFunc(y.queue, func(a, b happening) int { return a.at.Compare(b.at) })
}

// between returns a time between two, more often near the first.
func (y *year) between(from, to time.Duration) time.Duration {
	return from + time.Duration(y.r.Float64()*y.r.Float64()*float64(to-from))
}

// responder is one invocation: it holds the case under a name of its own, and
// nobody knows whether it lives but by its lease.
func (y *year) responder() *respond.Responder {
	y.events++
	life := &invocation{flakyStore: y.store, y: y}
	log := &caselog.Store{Objects: life, Lease: cases.Lease, Snapshot: incidents.SnapshotAny, Now: func() time.Time { return y.now }}
	n := 0
	rs := &respond.Responder{
		Log: log, Facts: enrich.Enricher{}, Verdicts: y, Policy: y.policy, Notifier: &yearPager{y, life},
		Contain: func(ctx context.Context, caseID string, n int) (cases.Outcome, error) {
			if life.dead.Load() {
				return cases.Outcome{}, errDied
			}
			return y.act(ctx, caseID, n)
		},
		Sources: finding.Sources{Ours: source}, Link: func(string) string { return "" }, Now: func() time.Time { return y.now },
		LeaseOwner:   func() string { n++; return fmt.Sprintf("h%d-%d", y.events, n) },
		HasContainer: func(context.Context, cases.Case, string) (bool, error) { return y.dice.chance("has", 0.8), nil },
		CheckHolds: func(_ context.Context, c cases.Case) cases.Lost {
			switch {
			case c.Removed() != nil:
				if c.RemovalStuck == "" && y.dice.chance("stays", 0.2) {
					return cases.Lost{Action: cases.Evict, Why: "its node does not answer"}
				}
			case c.InForce(cases.Freeze) && (y.removed || !y.holds[cases.Freeze]):
				return cases.Lost{Why: "the kubelet has restarted the container"}
			case c.InForce(cases.Isolate) && c.IsolationBroken == "" && y.dice.chance("opened", 0.002):
				return cases.Lost{Action: cases.Isolate, Why: "somebody has taken the label off"}
			}
			return cases.Lost{}
		},
	}
	if !y.alone {
		rs.StartWorkflow = func(ctx context.Context, caseID string) (string, error) {
			if life.dead.Load() {
				return "", errDied
			}
			return y.drive(ctx, caseID)
		}
	}
	return rs
}

// Judge knows nothing of the bytes, or learns of them later.
func (y *year) Finding(_ context.Context, f finding.Finding) cases.Verdict {
	if f.Process.Path == "/told" && y.dice.chance("graver", 0.1) {
		return cases.Verdict{Level: cases.Malicious}
	}
	return cases.Verdict{Level: cases.Unknown}
}

// yearPager is the channel: it counts, and fails now and then.
type yearPager struct {
	*year
	life *invocation
}

func (p *yearPager) Post(context.Context, incidents.Incident, bool) (cases.Paged, error) {
	if p.life.dead.Load() || p.dice.chance("post", 0.05) {
		return cases.Paged{}, errors.New("slack does not answer")
	}
	p.pages++
	return cases.Paged{Channel: "c", Timestamp: "1"}, nil
}
func (p *yearPager) Edit(_ context.Context, i incidents.Incident) (cases.Paged, error) {
	if p.life.dead.Load() || p.dice.chance("edit", 0.05) {
		return cases.Paged{}, errors.New("slack does not answer")
	}
	paged := *i.Paged
	paged.Digest = p.Digest(i)
	return paged, nil
}
func (p *yearPager) Remind(_ context.Context, i incidents.Incident, why incidents.Reason) (string, error) {
	if p.life.dead.Load() || p.dice.chance("remind", 0.1) {
		return "", errors.New("slack does not answer")
	}
	p.reminded[fmt.Sprint(i.ID, i.Lead().ID, i.Lead().DecisionN(), why == incidents.Worse)] = true // Slack's messages show it: it is posted once
	return "2", nil
}
func (p *yearPager) Escalate(_ context.Context, i incidents.Incident, _ notify.Target) (cases.Paged, error) {
	return *i.Paged, nil
}

func (p *yearPager) PostDigest(context.Context, string, []incidents.Incident, bool) (cases.Paged, error) {
	return cases.Paged{}, nil
}
func (p *yearPager) Digest(i incidents.Incident) string {
	clicks := 0
	for _, c := range i.Cases {
		clicks += len(c.Clicks)
	}
	return i.Status() + fmt.Sprint(clicks)
}

// act is Contain and the world behind it: refused, put off, not enforced, failing
// before or after it took effect; the same claim again is the same act.
func (y *year) act(ctx context.Context, caseID string, n int) (cases.Outcome, error) {
	if y.dice.chance("contain", 0.1) {
		return cases.Outcome{}, errors.New("contain does not answer")
	}
	log := &caselog.Store{Objects: y.store.Store, Lease: cases.Lease}
	f, err := log.Read(ctx, caseID, "contain")
	if err != nil {
		return cases.Outcome{}, err
	}
	c, err := cases.Fold(caseID, f.Events())
	if err != nil {
		return cases.Outcome{}, err
	}
	i := slices.IndexFunc(c.Claims, func(k cases.Claim) bool { return k.N == n })
	action := c.Claims[i].Action
	key := fmt.Sprint(caseID, n)
	a, known := y.acts[key]
	if !known {
		a = cases.Outcome{Claim: n, Action: action, At: y.now}
		switch undone := cases.UndoneBy(action); {
		case y.dice.chance("refused "+action, 0.05):
			a.Error = "refused"
			if y.dice.chance("for now", 0.5) { // as by a sensor that is away
				a.RetryAt = y.now.Add(time.Minute)
			}
		case cases.Destroys(action) && y.dice.chance("not yet", 0.4):
			a.Error, a.RetryAt = "not yet", y.now.Add(time.Minute)
		case undone != "":
			a.Done = true
			y.holds[undone] = false
		default:
			a.Done = true
			y.holds[action] = true
			y.removed = y.removed || cases.Destroys(action)
			if action == cases.Freeze || action == cases.Isolate {
				a.Until = y.now.Add(c.Decided.Decision.HoldDuration())
			}
			if action == cases.Isolate && y.dice.chance("not enforced", 0.2) {
				a.NotEnforced = "nothing enforces"
			}
			if action == cases.Freeze && y.dice.chance("restarts", 0.2) { // its liveness probe ends it
				a.RestartsAt = y.now.Add(30 * time.Second)
				y.after(31*time.Second, func() { y.holds[cases.Freeze] = false })
			}
		}
		y.acts[key] = a
	}
	if y.dice.chance("answer", 0.1) {
		return cases.Outcome{}, errors.New("contain's answer was lost")
	}
	return a, nil
}

// drive starts the deployed workflow, when it comes to be run.
func (y *year) drive(_ context.Context, caseID string) (string, error) {
	if y.dice.chance("drive", 0.1) {
		return "", errors.New("workflows does not answer")
	}
	y.flows++
	name := fmt.Sprint("execution", y.flows)
	y.after(time.Second, func() { y.runFlow(name, caseID) })
	if y.dice.chance("driven twice", 0.2) { // the answer was lost, and it was started again
		y.after(time.Minute, func() { y.runFlow(name+"-again", caseID) })
	}
	return name, nil
}

// runFlow runs the workflow; while it waits, other things happen. One that waits may be
// below it on the stack.
func (y *year) runFlow(name, caseID string) {
	f := &flow{y: y, name: name}
	defer func() { delete(y.waiting, f.callback) }()
	_, err := y.def.Run(y.t.Context(), f, map[string]any{"case": caseID}, func(string) error {
		if y.dice.chance("step", 0.002) {
			return errors.New("the execution is gone")
		}
		return nil
	})
	if err != nil {
		y.flowDied = true
	}
}

type flow struct {
	y        *year
	name     string
	callback string
}

func (f *flow) Getenv(name string) (string, bool) {
	if name == "GOOGLE_CLOUD_WORKFLOW_EXECUTION_ID" {
		return f.name, true
	}
	return "https://advance", true
}

func (f *flow) Sleep(_ context.Context, d time.Duration) error {
	f.y.until(f.y.now.Add(d), func() bool { return false })
	return f.y.over()
}

func (f *flow) CreateCallback(context.Context, string) (map[string]any, error) {
	delete(f.y.waiting, f.callback)
	f.callback = fmt.Sprintf("callback-%s-%d", f.name, f.y.events)
	f.y.waiting[f.callback] = false
	return map[string]any{"url": f.callback}, nil
}

func (f *flow) AwaitCallback(_ context.Context, _ map[string]any, d time.Duration) (map[string]any, error) {
	if f.y.until(f.y.now.Add(d), func() bool { return f.y.waiting[f.callback] }) {
		f.y.waiting[f.callback] = false
		return map[string]any{}, nil
	}
	if err := f.y.over(); err != nil {
		return nil, err
	}
	return nil, workflowlang.Raise("TimeoutError", "time has passed", 0)
}

func (f *flow) Post(ctx context.Context, args map[string]any) (map[string]any, error) {
	body := args["body"].(map[string]any)
	wait, err := f.y.responder().AdvanceFor(ctx, body["case"].(string), body["execution"].(string), body["callback"].(string))
	if err != nil {
		return nil, &workflowlang.Error{Value: map[string]any{"tags": []any{"HttpError"}, "code": int64(503), "message": err.Error()}}
	}
	return map[string]any{"code": int64(200), "body": map[string]any{"done": wait.Done, "waitSeconds": int64(wait.For.Seconds()), "why": wait.Why}}, nil
}

var errYearOver = errors.New("the year is over")

func (y *year) over() error {
	if y.now.Before(y.end) {
		return nil
	}
	return errYearOver
}

// until lets the world go on to a time, or to when stop is true, which it answers.
func (y *year) until(to time.Time, stop func() bool) bool {
	if to.After(y.end) {
		to = y.end
	}
	for !stop() {
		at := to
		if len(y.queue) > 0 && y.queue[0].at.Before(at) {
			at = y.queue[0].at
		}
		if w := y.nextWake(); !w.IsZero() && w.Before(at) {
			at = w
		}
		if at.After(y.now) {
			y.now = at
		}
		switch {
		case len(y.queue) > 0 && !y.queue[0].at.After(y.now):
			h := y.queue[0]
			y.queue = y.queue[1:]
			h.do()
		case y.sweep():
		case !y.now.Before(to):
			return stop()
		}
	}
	return true
}

// nextWake is when the sweep next has something to do: it runs every minute.
func (y *year) nextWake() time.Time {
	keys, err := y.store.Store.List(y.t.Context(), "wakes/")
	if err != nil || len(keys) == 0 {
		return time.Time{}
	}
	at, err := time.Parse("2006-01-02T15:04:05", strings.Split(keys[0], "/")[1])
	if err != nil {
		y.t.Fatal(err)
	}
	at = at.Truncate(time.Minute).Add(time.Minute)
	if at.Before(y.now) {
		at = y.now.Truncate(time.Minute).Add(time.Minute) // one that failed is for the next sweep
	}
	return at
}

// sweep is what functions.Sweep does, when a minute begins; it reports whether
// anything was due.
func (y *year) sweep() bool {
	if !y.now.Equal(y.now.Truncate(time.Minute)) {
		return false
	}
	r := y.responder()
	due, before, err := r.Log.Due(y.t.Context())
	if err != nil || len(due) == 0 {
		return false
	}
	done := map[string]bool{} // each case once
	for _, w := range due {
		if _, tried := done[w.Case]; !tried {
			done[w.Case] = r.Advance(y.t.Context(), w.Case) == nil
			if !done[w.Case] {
				if _, ahead, err := r.Log.Due(y.t.Context()); err == nil {
					soon := y.now.Add(cases.LongestRetry + time.Minute)
					done[w.Case] = slices.ContainsFunc(ahead, func(a caselog.Wake) bool { return a.Case == w.Case && !slices.Contains(before, a) && a.At.Before(soon) })
				}
			}
		}
		if done[w.Case] {
			r.Log.DeleteWake(y.t.Context(), w)
		}
	}
	y.now = y.now.Add(time.Second) // a sweep takes its time
	return true
}

// deliver brings a finding until it is acknowledged, as Pub/Sub does.
func (y *year) deliver(f finding.Finding) {
	o, err := y.responder().Finding(y.t.Context(), f)
	if err != nil {
		y.after(y.between(time.Second, 10*time.Minute), func() { y.deliver(f) })
		return
	}
	if y.caseID == "" {
		y.caseID = o.Case
	}
}

// press is a person: the click is on record, or he presses again; then the
// workflow is resumed, or Advance is called, or neither can be reached.
func (y *year) press(what, name string) {
	if y.caseID == "" {
		return
	}
	id := y.latest()
	if !y.click(what, name) {
		y.after(time.Minute, func() { y.press(what, name) })
		return
	}
	url, err := y.responder().Log.Callback(y.t.Context(), id)
	_, waits := y.waiting[url]
	switch {
	case y.dice.chance("unreached", 0.3): // nobody is reached: the wake stands by
	case err == nil && waits:
		y.waiting[url] = true
	default:
		y.responder().Advance(y.t.Context(), id)
	}
}

// click records a click; it reports whether that is done.
func (y *year) click(what, name string) bool {
	body, err := json.Marshal(cases.Click{ID: name, What: what, By: "a person", At: y.now})
	if err == nil {
		err = y.responder().Log.Click(y.t.Context(), y.latest(), name, body)
	}
	return err == nil
}

// clickAll puts a click on record in every case that is open.
func (y *year) clickAll(what, name string) {
	log := &caselog.Store{Objects: y.store.Store, Now: func() time.Time { return y.now }}
	ids, err := log.Cases(y.t.Context())
	if err != nil {
		y.t.Error(err)
	}
	for _, id := range ids {
		f, err := log.Read(y.t.Context(), id, "click")
		if err != nil || f.IsClosed() {
			continue
		}
		body, err := json.Marshal(cases.Click{ID: name, What: what, By: "a person", At: y.now})
		if err == nil {
			err = log.Click(y.t.Context(), id, name, body)
		}
		if err != nil {
			y.t.Error(err)
		}
	}
}

// latest is the last episode of the case.
func (y *year) latest() string {
	ids, err := (&caselog.Store{Objects: y.store.Store}).Cases(y.t.Context())
	if err != nil || len(ids) == 0 {
		return y.caseID
	}
	return slices.MaxFunc(ids, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
}

func (y *year) live() {
	paths := []string{"/asked", "/acted", "/brief", "/escalating", "/told"}
	f := finding.Finding{
		CanonicalName: "projects/1/sources/1/findings/f", Category: finding.AddedBinary, State: "ACTIVE", EventTime: y.now, Project: "p", Cluster: "c", Node: "n",
		Pod: finding.Pod{Namespace: "shop", Name: "web", UID: "u"}, Container: finding.Container{ID: "c1"},
		Process: finding.Process{Path: paths[y.r.IntN(len(paths))], SHA256: strings.Repeat("a", 64)},
	}
	for range 1 + y.r.IntN(3) { // at least once
		y.after(y.between(0, time.Hour), func() { y.deliver(f) })
	}
	for i := range y.r.IntN(4) { // it runs again
		again := f
		again.EventTime = f.EventTime.Add(time.Duration(i+1) * time.Hour)
		if y.r.IntN(3) == 0 { // in a new container of the pod
			again.Container.ID = fmt.Sprint("c", i+2)
		}
		from, to := time.Hour, 30*24*time.Hour
		if y.r.IntN(2) == 0 { // within the same burst, as a rule
			from, to = time.Minute, time.Hour
		}
		y.after(y.between(from, to), func() { y.deliver(again) })
	}
	buttons := []string{cases.ActionContain, cases.ActionApprove, cases.ActionDeny, cases.ActionRelease, cases.ActionExtend, cases.ActionEvict, cases.ActionExpected, cases.ActionRemediated}
	for i := range y.r.IntN(8) {
		what, id := buttons[y.r.IntN(len(buttons))], fmt.Sprint("click", i)
		at := y.between(time.Minute, 60*24*time.Hour)
		for range 1 + y.r.IntN(2) { // twice, now and then
			y.after(at+y.between(0, time.Minute), func() { y.press(what, id) })
		}
	}
	y.after(y.end.Add(-30*24*time.Hour).Sub(y.now), func() {
		// In the last month nothing fails any more, and somebody settles the matter.
		y.store.quiet.Store(true)
		for i := range 40 {
			// It reaches nobody: a case that was forgotten is not woken by it.
			y.after(time.Duration(2*i)*time.Hour, func() { y.clickAll(cases.ActionRelease, fmt.Sprint("last-release", i)) })
			y.after(time.Duration(2*i+1)*time.Hour, func() { y.clickAll(cases.ActionRemediated, fmt.Sprint("last", i)) })
		}
	})
	y.auditor = y.responder()
	y.after(y.nextAudit(), y.audit)
	y.until(y.end, func() bool { return false })
}

// How late somebody may come to what is due: what keeps failing is tried hourly, and a lease
// ends in minutes; where nothing fails the next sweep comes within a minute.
const (
	latest     = 2 * time.Hour
	latestCalm = 3 * time.Minute
)

// nextAudit: often while much happens.
func (y *year) nextAudit() time.Duration {
	age := y.now.Sub(y.end.AddDate(-1, 0, 0))
	switch {
	case y.dice.calm && age < 24*time.Hour:
		return 5 * time.Minute
	case age < 75*24*time.Hour:
		return 6 * time.Hour
	}
	return 24 * time.Hour
}

// audit sees that nothing is due, and nobody comes: no event is added meanwhile.
func (y *year) audit() {
	seen := map[string]time.Time{}
	limit := latest
	if y.dice.calm {
		limit = latestCalm
	}
	due := func(id string, events int, what string) {
		key := fmt.Sprintf("%s after event %d: %s", id, events-1, what)
		if seen[key] = y.now; !y.late[key].IsZero() {
			seen[key] = y.late[key]
		}
		if y.now.Sub(seen[key]) > limit && !y.forgotten {
			y.forgotten = true // once is enough
			y.t.Errorf("%s: %s is due since %s, and nobody has come by %s", y.which, key, seen[key].Format(time.DateTime), y.now.Format(time.DateTime))
		}
	}
	log := &caselog.Store{Objects: y.store.Store, Lease: cases.Lease, Now: func() time.Time { return y.now }}
	ids, err := log.Cases(y.t.Context())
	if err != nil {
		y.t.Error(err)
	}
	for _, id := range ids {
		f, err := log.Read(y.t.Context(), id, "audit")
		if err != nil || f.IsClosed() {
			continue
		}
		c, err := cases.Fold(id, f.Events())
		if err != nil {
			y.t.Errorf("%s: %v", id, err)
			continue
		}
		for _, step := range y.auditor.DueNow(c) {
			due(id, len(f.Events()), step)
		}
		clicks, err := log.Clicks(y.t.Context(), id, c.Handled)
		occurrences, err2 := log.Occurrences(y.t.Context(), id, c.HandledThrough(), c.HandledFinding)
		if err := errors.Join(err, err2); err != nil {
			y.t.Error(err)
		}
		for _, entry := range slices.Concat(clicks, occurrences) {
			due(id, len(f.Events()), "taking in "+entry.Name)
		}
	}
	told, err := log.Incidents(y.t.Context())
	if err != nil {
		y.t.Error(err)
	}
	for _, id := range told {
		i, err := incidentlog.Read(y.t.Context(), log, id)
		if err != nil {
			y.t.Errorf("%s: %v", id, err)
			continue
		}
		for _, notice := range y.auditor.NoticesDue(i) {
			due(id, int(i.Updated.Unix()), notice)
		}
	}
	y.late = seen
	y.after(y.nextAudit(), y.audit)
}

// check holds every episode to what a case must be at the end.
func (y *year) check(which string) (last cases.Case) {
	y.t.Helper()
	log := &caselog.Store{Objects: y.store.Store, Lease: cases.Lease, Now: func() time.Time { return y.now }}
	ids, err := log.Cases(y.t.Context())
	if err != nil || len(ids) == 0 {
		y.t.Fatalf("%s: no case, %v", which, err)
	}
	decisions := 0
	for _, id := range ids {
		f, err := log.ReadAll(y.t.Context(), id, "check")
		if err != nil {
			y.t.Fatalf("%s: %v", which, err)
		}
		for _, e := range f.Events() {
			if e.Kind == cases.KindDecided {
				decisions++
			}
		}
		c, _, err := incidentlog.Case(y.t.Context(), log, id)
		if err != nil {
			y.t.Fatalf("%s: %v", which, err)
		}
		fail := func(format string, args ...any) {
			y.t.Errorf("%s, %s: %s\n%s", which, id, fmt.Sprintf(format, args...), dump(f.Events()))
		}
		if c.Closed == nil {
			fail("it never ended: %s", c.Status())
		}
		if len(c.Holds()) > 0 {
			fail("it ended, and still holds %v", c.Holds())
		}
		for _, claim := range c.Claims {
			if claim.Outcome == nil && cases.UndoneBy(claim.Action) == "" && c.Closed != nil && !slices.ContainsFunc(c.Claims, func(u cases.Claim) bool {
				return u.Action == cases.UndoOf(claim.Action) && u.N > claim.N
			}) {
				fail("%s was claimed and has no end", claim.Action)
			}
			if !c.Approved() && claim.Action != cases.Evict && cases.UndoneBy(claim.Action) == "" {
				fail("%s was claimed, and nobody approved", claim.Action)
			}
		}
		if c.Paged == nil && c.Expected() == "" {
			fail("nobody was told")
		}
		y.moved(f)
		occurrences, err := log.Occurrences(y.t.Context(), id, c.HandledThrough(), c.HandledFinding)
		if err != nil || len(occurrences) > 0 {
			fail("%d findings joined and were never taken in (%v)", len(occurrences), err)
		}
		last = c
	}
	if due, _, err := log.Due(y.t.Context()); err != nil || len(due) > 0 {
		y.t.Errorf("%s: %d wakes were never answered (%v)", which, len(due), err)
	}
	if len(y.plain.early) > 0 {
		y.t.Errorf("%s: answered before their time: %q", which, y.plain.early)
	}
	for key, fired := range y.plain.fired {
		if fired > y.plain.made[key] {
			y.t.Errorf("%s: %q was made %d times and answered %d times", which, key, y.plain.made[key], fired)
		}
	}
	if y.removed && y.holds[cases.Cordon] || !y.removed && (y.holds[cases.Isolate] || y.holds[cases.Cordon]) {
		y.t.Errorf("%s: the world still holds %v", which, y.holds)
	}
	worse := 0
	for key := range y.reminded {
		if strings.HasSuffix(key, "true") {
			worse++
		}
	}
	// A verdict can become worse twice, and each decision can ask for approval.
	if asked := len(y.reminded) - worse; worse > 2*len(ids) || asked > decisions {
		y.t.Errorf("%s: in %d episodes with %d decisions people were notified %d times of a worse verdict, and reminded %d times", which, len(ids), decisions, worse, asked)
	}
	return last
}

// moved notes by which ways a case went.
func (y *year) moved(f *caselog.Log) {
	y.t.Helper()
	was := "[*]"
	for n := range f.Events() {
		c, err := cases.Fold(f.ID, f.Events()[:n+1])
		if err != nil {
			y.t.Fatal(err)
		}
		if is := stateOf(c); is != was {
			y.moves[was+" --> "+is] = true
			was = is
		}
	}
}

func dump(events []caselog.Event) string {
	var b strings.Builder
	for _, e := range events[max(0, len(events)-40):] {
		fmt.Fprintf(&b, "  %d %s %s %.200s\n", e.N, e.At.Format(time.DateTime), e.Kind, e.Body)
	}
	return b.String()
}
