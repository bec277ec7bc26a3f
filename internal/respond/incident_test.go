package respond_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/contraband-dev/contraband/internal/blobstore"
	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/cases/caselog"
	"github.com/contraband-dev/contraband/internal/expected"
	fakeslack "github.com/contraband-dev/contraband/internal/fake/slack"
	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/internal/incidents"
	"github.com/contraband-dev/contraband/internal/incidents/incidentlog"
	"github.com/contraband-dev/contraband/internal/policy"
	"github.com/contraband-dev/contraband/internal/respond"
	"github.com/contraband-dev/contraband/internal/web"
)

// ran is a finding about one program of one replica of a Deployment.
func ran(replica, program int, sum string, at time.Time) finding.Finding {
	pod := fmt.Sprintf("web-7d9f6c4b5-%s", suffix(replica))
	name := fmt.Sprintf("projects/1/sources/1/findings/%d-%d", replica, program)
	return finding.Finding{
		Name: name, CanonicalName: name, Category: finding.AddedBinary, State: "ACTIVE", EventTime: at,
		Project: "shop", Location: "l", Cluster: "prod", Node: "n1",
		Pod:       finding.Pod{Namespace: "shop", Name: pod, UID: "uid-" + pod, Labels: map[string]string{"pod-template-hash": "7d9f6c4b5"}},
		Container: finding.Container{ID: "c-" + pod, Name: "web", Image: "img"},
		Process:   finding.Process{Path: fmt.Sprintf("/tmp/x%d", program), SHA256: sum},
		Sensor:    &finding.Sensor{Route: "added"},
	}
}

// suffix returns five letters as Kubernetes generates them.
func suffix(n int) string {
	const safe = "bcdfghjklm"
	out := []byte("bbbbb")
	for i := len(out) - 1; i >= 0; i-- {
		out[i] = safe[n%len(safe)]
		n /= len(safe)
	}
	return string(out)
}

func unknownSum(n int) string { return fmt.Sprintf("%064x", n+1) }

// deliver delivers findings side by side as Pub/Sub does: again until each is acknowledged.
func deliver(t *testing.T, r *respond.Responder, atOnce int, findings ...finding.Finding) map[string]bool {
	t.Helper()
	var mu sync.Mutex
	found := map[string]bool{}
	limit := make(chan struct{}, atOnce)
	var wg sync.WaitGroup
	for _, f := range findings {
		limit <- struct{}{}
		wg.Go(func() {
			defer func() { <-limit }()
			for range 500 {
				o, err := r.Finding(t.Context(), f)
				if err == nil {
					mu.Lock()
					found[o.Case] = true
					mu.Unlock()
					return
				}
				if !errors.Is(err, respond.ErrBusy) && !errors.Is(err, caselog.ErrClosed) {
					t.Errorf("deliver: %v", err)
					return
				}
				time.Sleep(5 * time.Millisecond)
			}
			t.Error("busy for ever")
		})
	}
	wg.Wait()
	return found
}

// setClock stops the responder's and the log's clock at a time.
func setClock(r *respond.Responder, at time.Time) {
	r.Now = func() time.Time { return at }
	r.Log.Now = r.Now
}

// sweepAt advances whatever has a wake by then.
func sweepAt(t *testing.T, r *respond.Responder, at time.Time) {
	t.Helper()
	setClock(r, at)
	for range 3 {
		due, _, err := r.Log.Due(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, wake := range due {
			if err := r.Advance(t.Context(), wake.Case); err != nil {
				t.Fatalf("advance %s: %v", wake.Case, err)
			}
			if err := r.Log.DeleteWake(t.Context(), wake); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func (w *world) incident() incidents.Incident {
	w.t.Helper()
	log := &caselog.Store{Objects: w.store, Lease: cases.Lease}
	ids, err := log.Incidents(w.t.Context())
	if err != nil || len(ids) != 1 {
		w.t.Fatalf("%d incidents, want one: %v", len(ids), err)
	}
	i, err := incidentlog.Read(w.t.Context(), log, ids[0])
	if err != nil {
		w.t.Fatal(err)
	}
	return i
}

const pageOnly = "rules: [{name: all, do: [page]}]"

func TestReplicasOfOneWorkloadAreOnePage(t *testing.T) {
	w := newWorld(t, memory(t))
	w.yaml = pageOnly
	r := w.process()
	var all []finding.Finding
	for replica := range 20 {
		all = append(all, ran(replica, 0, unknownSum(0), time.Now()))
	}
	if got := deliver(t, r, 4, all...); len(got) != 20 {
		t.Errorf("%d cases of 20 pods", len(got))
	}
	sweepAt(t, r, time.Now().Add(2*time.Minute))
	messages, err := w.slack.Messages()
	if err != nil || len(messages) != 1 {
		t.Fatalf("%d messages, want one: %v", len(messages), err)
	}
	i := w.incident()
	if len(i.Cases) != 20 || i.Workload.Name != "web" || i.Workload.Kind != finding.KindDeployment {
		t.Errorf("%d cases of %+v", len(i.Cases), i.Workload)
	}
	if text := string(messages[0].Blocks); !strings.Contains(text, "20 or more pods") || !strings.Contains(text, "shop/web (Deployment)") {
		t.Errorf("the message does not name the workload and its pods: %s", text)
	}
}

func TestHundredProgramsOfOneContainerAreOneCaseAndOnePage(t *testing.T) {
	w := newWorld(t, memory(t))
	w.yaml = pageOnly
	r := w.process()
	var all []finding.Finding
	for n := range 100 {
		all = append(all, ran(0, n, unknownSum(n), time.Now()))
	}
	got := deliver(t, r, 8, all...)
	sweepAt(t, r, time.Now().Add(2*time.Minute))
	if len(got) != 1 {
		t.Fatalf("%d cases of one container", len(got))
	}
	i := w.incident()
	if c := i.Lead(); len(c.Programs) != 100 || c.Joined != 99 {
		t.Errorf("%d programs, %d joined", len(c.Programs), c.Joined)
	}
	messages, err := w.slack.Messages()
	if err != nil || len(messages) != 1 || !strings.Contains(string(messages[0].Blocks), "100") {
		t.Errorf("%d messages: %v", len(messages), err)
	}
	if edits := w.slack.Calls("chat.update"); edits > 5 {
		t.Errorf("%d edits of the message", edits)
	}
}

func TestFindingsThatOnlyCountCauseNoEdit(t *testing.T) {
	w := newWorld(t, memory(t))
	w.yaml = pageOnly
	r := w.process()
	now := time.Now()
	for n := range 30 {
		sweepAt(t, r, now.Add(time.Duration(n)*20*time.Second))
		deliver(t, r, 1, ran(0, 0, unknownSum(0), r.Now()))
	}
	sweepAt(t, r, now.Add(12*time.Minute))
	if c := w.incident().Lead(); c.Joined != 29 || len(c.Programs) != 1 || c.Programs[0].Count != 30 {
		t.Errorf("%d joined, programs %+v", c.Joined, c.Programs)
	}
	if edits := w.slack.Calls("chat.update"); edits > 1 { // the first shows the end of the page's own steps
		t.Errorf("%d edits", edits)
	}
}

func TestMalwareAmongUnknownProgramsIsToldAnewAndContained(t *testing.T) {
	w := newWorld(t, memory(t))
	r := w.process()
	r.SCC = nil
	deliver(t, r, 1, ran(0, 1, unknownSum(1), time.Now()))
	if i := w.incident(); i.Told != cases.Unknown || len(i.Lead().Claims) != 0 {
		t.Fatalf("told %q, claims %+v", i.Told, i.Lead().Claims)
	}
	deliver(t, r, 1, ran(0, 2, hash(), time.Now()))
	i := w.incident()
	c := i.Lead()
	if i.Told != cases.Malicious || !c.Frozen() || c.Decided.Finding.Process.SHA256 != hash() || len(c.Programs) != 2 || c.Programs[0].SHA256 != hash() {
		t.Errorf("told %q, %q, programs %+v", i.Told, c.Status(), c.Programs)
	}
	messages, err := w.slack.Messages()
	if err != nil || len(messages) != 2 || !strings.Contains(messages[1].Text, "Severity raised") {
		t.Errorf("%d messages, %v", len(messages), err)
	}
}

func TestProgramWhoseRuleContainsIsContainedThoughItsVerdictIsNoWorse(t *testing.T) {
	w := newWorld(t, memory(t))
	w.yaml = `
rules:
  - {name: shell, when: 'process.path == "/tmp/x7"', do: [page, freeze]}
  - {name: else, do: [page]}
`
	r := w.process()
	deliver(t, r, 1, ran(0, 1, unknownSum(1), time.Now()))
	deliver(t, r, 1, ran(0, 7, unknownSum(7), time.Now()))
	c := w.incident().Lead()
	if !c.Frozen() || c.Joined != 1 || len(c.Programs) != 2 || c.Programs[0].Count != 1 || c.Programs[1].Count != 1 {
		t.Errorf("%q, %d joined, programs %+v", c.Status(), c.Joined, c.Programs)
	}
}

func TestFloodDoesNotDelayTheMalwaresPage(t *testing.T) {
	w := newWorld(t, memory(t))
	w.slack.PostInterval = time.Second // Slack's documented limit for one channel
	r := w.process()
	r.SCC = nil
	posted := sync.Map{}
	inner := w.slack.Fault
	w.slack.Fault = func(method string, applied bool) int {
		if method == "chat.postMessage" && applied {
			posted.Store(time.Now(), true)
		}
		return inner(method, applied)
	}
	var flood []finding.Finding
	for n := range unlessRace(300, 60) {
		flood = append(flood, ran(0, n, unknownSum(n), time.Now()))
	}
	for n := range unlessRace(60, 20) { // decoys in other replicas
		flood = append(flood, ran(1+n%6, 1000+n, unknownSum(1000+n), time.Now()))
	}
	var wg sync.WaitGroup
	wg.Go(func() { deliver(t, r, 8, flood...) })
	time.Sleep(500 * time.Millisecond)
	began := time.Now()
	deliver(t, r, 1, ran(0, 999, hash(), time.Now()))
	wg.Wait()
	messages, err := w.slack.Messages()
	if err != nil || len(messages) > 3 {
		t.Errorf("%d messages, want three at most: %v", len(messages), err)
	}
	first := time.Duration(-1)
	posted.Range(func(at, _ any) bool {
		if d := at.(time.Time).Sub(began); d > 0 && (first < 0 || d < first) {
			first = d
		}
		return true
	})
	told := slices.ContainsFunc(messages, func(m fakeslack.Message) bool { return strings.Contains(m.Text+string(m.Blocks), "Malicious") })
	limit := 2 * time.Second
	if raceEnabled { // its figures say nothing
		limit = time.Minute
	}
	if !told || first < 0 || first > limit {
		t.Errorf("told of the malware: %v, %s after its finding", told, first)
	}
	t.Logf("the malware's page left %s after its finding, %d messages, %d edits", first, len(messages), w.slack.Calls("chat.update"))
}

func TestContainmentDoesNotWaitForThePage(t *testing.T) {
	w := newWorld(t, memory(t))
	release := make(chan struct{})
	frozen := make(chan struct{})
	inner := w.slack.Fault
	w.slack.Fault = func(method string, applied bool) int {
		if method == "chat.postMessage" && !applied {
			<-release
		}
		return inner(method, applied)
	}
	r := w.process()
	contain := r.Contain
	var once sync.Once
	r.Contain = func(ctx context.Context, id string, n int) (cases.Outcome, error) {
		o, err := contain(ctx, id, n)
		if o.Action == cases.Evidence {
			once.Do(func() { close(frozen) })
		}
		return o, err
	}
	done := make(chan struct{})
	go func() { defer close(done); deliver(t, r, 1, w.found("c1", time.Now())) }()
	select {
	case <-frozen:
	case <-time.After(10 * time.Second):
		t.Error("nothing is frozen and saved while Slack hangs")
	}
	close(release)
	<-done
}

func TestPageDoesNotWaitForContainment(t *testing.T) {
	w := newWorld(t, memory(t))
	r := w.process()
	r.SCC = nil
	busy, release := make(chan struct{}), make(chan struct{})
	contain := r.Contain
	var first atomic.Bool
	r.Contain = func(ctx context.Context, id string, n int) (cases.Outcome, error) {
		if first.CompareAndSwap(false, true) {
			close(busy)
			<-release
		}
		return contain(ctx, id, n)
	}
	w.yaml = ""
	done := make(chan struct{})
	r.Policy = mustParse(t, `
rules:
  - {name: known malware, when: 'verdict.level == "malicious"', do: [page, freeze, evidence]}
  - {name: else, do: [page, freeze]}
`)
	go func() { defer close(done); deliver(t, r, 1, ran(0, 1, unknownSum(1), time.Now())) }()
	<-busy // the case is held by an invocation that contains
	if _, err := r.Finding(t.Context(), ran(0, 2, hash(), time.Now())); err != nil {
		t.Errorf("the malware's finding: %v", err)
	}
	// A new message says so; where the first was delayed until now, it does itself.
	told := func() bool {
		messages, err := w.slack.Messages()
		return err == nil && slices.ContainsFunc(messages, func(m fakeslack.Message) bool { return strings.Contains(m.Text+string(m.Blocks), "/tmp/x2") })
	}
	end := time.Now().Add(20 * time.Second)
	for !told() && time.Now().Before(end) {
		time.Sleep(10 * time.Millisecond)
	}
	if !told() {
		t.Error("nobody is notified of the malware while the containment goes on")
	}
	close(release)
	<-done
	if c := w.incident().Lead(); c.Decided.Verdict.Level != cases.Malicious || c.Done(cases.Evidence) == nil {
		t.Errorf("in the end: %s, %q", c.Decided.Verdict.Level, c.Status())
	}
}

func TestEvidenceOfEachProgramIsBounded(t *testing.T) {
	w := newWorld(t, memory(t))
	w.yaml = "rules: [{name: all, do: [page, evidence]}]"
	r := w.process()
	var all []finding.Finding
	for n := range 20 {
		all = append(all, ran(0, n, unknownSum(n), time.Now()))
	}
	deliver(t, r, 1, all...)
	sweepAt(t, r, time.Now().Add(2*time.Minute))
	sums := map[string]int{}
	for _, k := range w.incident().Lead().Claims {
		sums[k.SHA256]++
	}
	if len(sums) != 5 {
		t.Errorf("evidence of %d programs, want five: %v", len(sums), sums)
	}
	for sum, n := range sums {
		if n != 1 {
			t.Errorf("%d claims of %s", n, sum)
		}
	}
}

func TestQuietWorkloadOpensItsNextIncident(t *testing.T) {
	w := newWorld(t, memory(t))
	w.yaml = pageOnly
	r := w.process()
	now := time.Now()
	for n, at := range []time.Duration{0, 10 * time.Minute, 20 * time.Minute, 40 * time.Minute} {
		r.Now = func() time.Time { return now.Add(at) }
		r.Log.Now = r.Now
		deliver(t, r, 1, ran(0, n, unknownSum(n), now.Add(at)))
	}
	if ids, err := r.Log.Incidents(t.Context()); err != nil || len(ids) != 2 {
		t.Errorf("%d incidents, want two: %v", len(ids), err)
	}
}

func TestIncidentLastsADayAtMost(t *testing.T) {
	w := newWorld(t, memory(t))
	w.yaml = pageOnly
	r := w.process()
	now := time.Now()
	for n := range 26 * 6 {
		at := now.Add(time.Duration(n) * 10 * time.Minute)
		r.Now = func() time.Time { return at }
		r.Log.Now = r.Now
		deliver(t, r, 1, ran(0, 0, unknownSum(0), at))
	}
	if ids, err := r.Log.Incidents(t.Context()); err != nil || len(ids) != 2 {
		t.Errorf("%d incidents in 26 hours, want two: %v", len(ids), err)
	}
}

func TestClickOnAnIncidentActsOnAllItsCases(t *testing.T) {
	w := newWorld(t, memory(t))
	w.yaml = "rules: [{name: all, do: [page, freeze], ask: true}]"
	r := w.process()
	for replica := range 3 {
		deliver(t, r, 1, ran(replica, 0, unknownSum(0), time.Now()))
	}
	i := w.incident()
	shown := i.ShownAt()
	body, err := json.Marshal(cases.Click{ID: "k1", What: cases.ActionApprove, By: "ann", At: time.Now(), Decision: &shown})
	if err == nil {
		err = r.Log.Click(t.Context(), i.ID, "k1", body)
	}
	if err == nil {
		err = r.Advance(t.Context(), i.ID)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range w.incident().Cases {
		if !c.Frozen() {
			t.Errorf("case %s is %q", c.ID, c.Status())
		}
	}
	// A replica that is decided later was not shown: the same click does not approve it.
	time.Sleep(2 * time.Millisecond)
	deliver(t, r, 1, ran(9, 0, unknownSum(0), time.Now()))
	body, err = json.Marshal(cases.Click{ID: "k2", What: cases.ActionApprove, By: "ann", At: time.Now(), Decision: &shown})
	if err == nil {
		err = r.Log.Click(t.Context(), i.ID, "k2", body)
	}
	if err == nil {
		err = r.Advance(t.Context(), i.ID)
	}
	if err != nil {
		t.Fatal(err)
	}
	asking := 0
	for _, c := range w.incident().Cases {
		if c.Asking() {
			asking++
		}
	}
	if asking != 1 {
		t.Errorf("%d cases wait for approval, want the one that was not shown", asking)
	}
}

// A form that was opened before the verdict became worse excuses nothing.
func TestExpectedIsAboutWhatThePersonHasSeen(t *testing.T) {
	for _, onCase := range []bool{true, false} {
		w := newWorld(t, memory(t))
		w.yaml = pageOnly
		r := w.process()
		deliver(t, r, 1, ran(0, 0, unknownSum(0), time.Now()))
		i := w.incident()
		id, shown := i.ID, i.ShownAt()
		if onCase {
			id, shown = i.Lead().ID, i.Lead().DecisionN()
		}
		time.Sleep(2 * time.Millisecond)
		deliver(t, r, 1, ran(0, 1, hash(), time.Now())) // malware, in the same container
		body, err := json.Marshal(cases.Click{ID: "k1", What: cases.ActionExpected, By: "ann", At: time.Now(), Decision: &shown, Reason: "build"})
		if err == nil {
			err = r.Log.Click(t.Context(), id, "k1", body)
		}
		if err == nil {
			err = r.Advance(t.Context(), id)
		}
		if err != nil {
			t.Fatal(err)
		}
		declared, err := expected.Read(t.Context(), r.Log.Objects, "")
		if c := w.incident().Lead(); err != nil || c.Closed != nil || len(declared) != 0 {
			t.Errorf("on the case: %v: %q, declared %+v, %v", onCase, c.Status(), declared, err)
		}
	}
}

func TestIncidentIsResolvedWithItsCasesAndToldAnewAfterwards(t *testing.T) {
	w := newWorld(t, memory(t))
	w.yaml = pageOnly
	r := w.process()
	got := deliver(t, r, 1, ran(0, 0, unknownSum(0), time.Now()))
	for id := range got {
		press(t, w, id, cases.ActionRemediated)
		if err := r.Advance(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	if i := w.incident(); i.Round != 1 {
		t.Errorf("round %d after its case was closed", i.Round)
	}
	deliver(t, r, 1, ran(1, 0, unknownSum(0), time.Now()))
	if messages, err := w.slack.Messages(); err != nil || len(messages) != 2 {
		t.Errorf("%d messages, want one for each round: %v", len(messages), err)
	}
}

func TestDamagedCaseDoesNotSwallowItsFindings(t *testing.T) {
	store := memory(t)
	w := newWorld(t, damaged{store, "events/"})
	w.yaml = pageOnly
	good := newWorld(t, store)
	good.yaml = pageOnly
	r := good.process()
	var id string
	for got := range deliver(t, r, 1, ran(0, 0, unknownSum(0), time.Now())) {
		id = got
	}
	broken := w.process()
	broken.Log.Objects = damaged{store, "events/" + id + "/0000000000.json"}
	o, err := broken.Finding(t.Context(), ran(0, 1, unknownSum(1), time.Now()))
	if err != nil || o.Case != id+"-2" {
		t.Errorf("%+v, %v: want the next case", o, err)
	}
}

// damaged is a store in which one object was cut short.
type damaged struct {
	blobstore.Store
	prefix string
}

func (d damaged) Read(ctx context.Context, key string) ([]byte, error) {
	body, err := d.Store.Read(ctx, key)
	if err == nil && strings.HasPrefix(key, d.prefix) {
		body = body[:len(body)/2]
	}
	return body, err
}

// countingStore counts operations.
type countingStore struct {
	blobstore.Store
	n *atomic.Int64
}

func (s countingStore) Create(ctx context.Context, key string, body []byte) error {
	s.n.Add(1)
	return s.Store.Create(ctx, key, body)
}

func (s countingStore) Read(ctx context.Context, key string) ([]byte, error) {
	s.n.Add(1)
	return s.Store.Read(ctx, key)
}

func (s countingStore) List(ctx context.Context, prefix string) ([]string, error) {
	s.n.Add(1)
	return s.Store.List(ctx, prefix)
}

func TestReadingIsAConstantNumberOfOperations(t *testing.T) {
	store := &plainStore{values: map[string][]byte{}, made: map[string]int{}, fired: map[string]int{}, created: map[string]time.Time{}, now: time.Now}
	w := newWorld(t, store)
	w.yaml = pageOnly
	r := w.process()
	began := time.Now()
	delivered := 0
	most := map[string]int64{}
	sizes := []int{10, 1000, 10_000}
	if raceEnabled {
		t.Log("10,000 findings are NOT RUN under the race detector; `make test` runs them without it")
		sizes = sizes[:2]
	}
	for _, until := range sizes {
		for ; delivered < until; delivered++ {
			at := began.Add(time.Duration(delivered) * 5 * time.Second) // in 14 hours
			r.Now = func() time.Time { return at }
			r.Log.Now = r.Now
			if _, err := r.Finding(t.Context(), ran(0, delivered%3, unknownSum(delivered%3), at)); err != nil {
				t.Fatal(err)
			}
			if delivered%100 == 99 {
				sweepAt(t, r, at)
			}
		}
		sweepAt(t, r, r.Now().Add(2*time.Minute))
		i := w.incident()
		count := func(name string, read func(log *caselog.Store) error) {
			n := new(atomic.Int64)
			if err := read(&caselog.Store{Objects: countingStore{w.store, n}, Lease: cases.Lease}); err != nil {
				t.Fatal(err)
			}
			t.Logf("%6d findings: %s takes %d operations", until, name, n.Load())
			if limit := int64(1 + caselog.SnapshotEvery); n.Load() > limit && name == "reading the case" {
				t.Errorf("%d findings: %d operations, want %d at most", until, n.Load(), limit)
			}
			most[name] = max(most[name], n.Load())
		}
		count("reading the case", func(log *caselog.Store) error {
			_, err := log.Read(t.Context(), i.Lead().ID, "r")
			return err
		})
		count("reading the incident with its case", func(log *caselog.Store) error {
			_, err := incidentlog.Read(t.Context(), log, i.ID)
			return err
		})
	}
	if limit := int64(3 + 2*caselog.SnapshotEvery); most["reading the incident with its case"] > limit {
		t.Errorf("%d operations for an incident, want %d at most", most["reading the incident with its case"], limit)
	}
	if c, want := w.incident().Lead(), delivered-1; c.Joined != want {
		t.Errorf("%d joined, want %d", c.Joined, want)
	}
}

func TestSnapshotContinuesTheCase(t *testing.T) {
	w := newWorld(t, memory(t))
	w.yaml = "rules: [{name: all, do: [page, freeze, evidence], ask: true}]"
	r := w.process()
	now := time.Now()
	for n := range 40 {
		sweepAt(t, r, now.Add(time.Duration(n)*2*time.Minute))
		deliver(t, r, 1, ran(0, n%5, unknownSum(n%5), r.Now()))
	}
	log := &caselog.Store{Objects: w.store, Lease: cases.Lease}
	id := w.incident().Lead().ID
	whole, err := log.ReadAll(t.Context(), id, "r")
	if err != nil {
		t.Fatal(err)
	}
	short, err := log.Read(t.Context(), id, "r")
	if err != nil {
		t.Fatal(err)
	}
	if len(short.Events()) >= len(whole.Events()) || len(whole.Events()) < 64 {
		t.Fatalf("%d events from the snapshot on, of %d", len(short.Events()), len(whole.Events()))
	}
	a, err := cases.Fold(id, whole.Events())
	if err != nil {
		t.Fatal(err)
	}
	b, err := cases.Fold(id, short.Events())
	if err != nil {
		t.Fatal(err)
	}
	rawA, _ := cases.Snapshot(id, whole.Events())
	rawB, _ := cases.Snapshot(id, short.Events())
	if string(rawA) != string(rawB) || a.Asking() != b.Asking() || a.DecisionN() != b.DecisionN() {
		t.Errorf("from the start:\n%s\nfrom the snapshot:\n%s", rawA, rawB)
	}
}

func TestCasesOfTheEarlierVersionAreWorkedOnAsTheyAre(t *testing.T) {
	raw, err := os.ReadFile("testdata/store-before-incidents.json")
	if err != nil {
		t.Fatal(err)
	}
	var objects map[string]string
	if err := json.Unmarshal(raw, &objects); err != nil {
		t.Fatal(err)
	}
	store := memory(t)
	for key, body := range objects {
		if err := store.Create(t.Context(), key, []byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	w := newWorld(t, store)
	w.yaml = askingPolicy
	for id, want := range map[string]string{"b83815fce4c2a0a6": "open", "aa9a346502b962dd": "closed: benign", "df3b122559d90e58": "frozen", "ad3c099a4a562f22": "waiting for approval"} {
		if c := w.read(id); c.Status() != want || c.Paged == nil {
			t.Errorf("%s: %q, paged %v; want %q", id, c.Status(), c.Paged, want)
		}
	}
	// The one that waits is approved, released and closed; nobody is paged a second time.
	c := w.click("ad3c099a4a562f22", cases.ActionApprove, "a")
	if !c.Frozen() || c.Done(cases.Evidence) == nil {
		t.Errorf("approved: %q", c.Status())
	}
	if c = w.click("ad3c099a4a562f22", cases.ActionRelease, "b"); c.Status() != "closed: released" {
		t.Errorf("released: %q", c.Status())
	}
	// Its finding again is acknowledged as the old case's; a new one is a case of today.
	if ids, err := w.process().Log.Incidents(t.Context()); err != nil || len(ids) != 0 {
		t.Errorf("%d incidents of old cases: %v", len(ids), err)
	}
	o, err := w.process().Finding(t.Context(), w.found("container-new", time.Now()))
	if err != nil || o.Case == "b83815fce4c2a0a6" || w.read(o.Case).Incident == "" {
		t.Errorf("a new finding: %+v, %v", o, err)
	}
	before, err := w.slack.Messages()
	if err != nil {
		t.Fatal(err)
	}
	over := w.found("container-paged", time.Date(2026, 11, 20, 9, 0, 0, 0, time.UTC))
	over.State = "INACTIVE"
	if _, err := w.process().Finding(t.Context(), over); err != nil || w.read("b83815fce4c2a0a6").Closed == nil {
		t.Errorf("the finding of the old case is over: %v, %q", err, w.read("b83815fce4c2a0a6").Status())
	}
	// The old message is not known to this Slack, and is posted anew, once.
	if after, err := w.slack.Messages(); err != nil || len(after) > len(before)+1 {
		t.Errorf("%d messages after %d: %v", len(after), len(before), err)
	}
}

func mustParse(t *testing.T, yaml string) *policy.Policy {
	t.Helper()
	p, err := policy.Parse([]byte(yaml))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestClosedAsExpectedIsNotPagedAgain(t *testing.T) {
	w := newWorld(t, memory(t))
	w.yaml = "rules: [{name: all, do: [page, freeze], ask: true}]"
	r := w.process()
	for id := range deliver(t, r, 1, ran(0, 1, unknownSum(1), time.Now())) {
		press(t, w, id, cases.ActionExpected)
		if err := r.Advance(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	messages := func() int {
		t.Helper()
		all, err := w.slack.Messages()
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	if messages() != 1 {
		t.Fatalf("%d messages at first", messages())
	}
	var last string
	for _, at := range []time.Duration{time.Minute, time.Hour, 48 * time.Hour} { // in any replica, soon or later
		r.Now = func() time.Time { return time.Now().Add(at) }
		r.Log.Now = r.Now
		for id := range deliver(t, r, 1, ran(3, 1, unknownSum(1), r.Now())) {
			last = id
		}
	}
	c := w.read(last)
	if messages() != 1 || c.Asking() || len(c.Claims) != 0 || c.Programs[0].Expected == "" {
		t.Errorf("%d messages, asking %v, programs %+v", messages(), c.Asking(), c.Programs)
	}
	// Another program of the same container is no exception.
	deliver(t, r, 1, ran(3, 2, unknownSum(2), r.Now()))
	if c = w.read(last); messages() != 2 || !c.Asking() || c.Decided.Finding.Process.SHA256 != unknownSum(2) {
		t.Errorf("%d messages, asking %v about %s", messages(), c.Asking(), c.Decided.Finding.Process.Path)
	}
	// Revoked, it is reported again.
	all, err := expected.Read(t.Context(), r.Log.Objects, "")
	if err != nil || len(all) != 1 {
		t.Fatalf("%+v, %v", all, err)
	}
	if err := expected.Revoke(t.Context(), r.Log.Objects, all[0], "bob"); err != nil {
		t.Fatal(err)
	}
	r.Now = func() time.Time { return time.Now().Add(100 * time.Hour) }
	r.Log.Now = r.Now
	deliver(t, r, 1, ran(4, 1, unknownSum(1), r.Now()))
	if messages() != 3 {
		t.Errorf("%d messages after the exception was revoked", messages())
	}
}

func TestExceptionOfThePolicyFileSuppressesThePage(t *testing.T) {
	w := newWorld(t, memory(t))
	w.yaml = pageOnly + `
exceptions:
  - {path: /tmp/x1, workload: web, owner: ci@example.com, reason: built in place, until: 2999-01-31}
  - {path: /tmp/x2, workload: web, owner: ci@example.com, reason: built in place, until: 2020-01-31}`
	r := w.process()
	count := func() int {
		t.Helper()
		all, err := w.slack.Messages()
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	for id := range deliver(t, r, 1, ran(0, 1, unknownSum(1), time.Now())) {
		if c := w.read(id); count() != 0 || !strings.Contains(c.Expected(), "ci@example.com") || !strings.Contains(c.Decided.Decision.Why, "built in place") {
			t.Errorf("%d messages, expected by %q", count(), c.Expected())
		}
	}
	for id := range deliver(t, r, 1, ran(1, 2, unknownSum(2), time.Now())) {
		if c := w.read(id); count() != 1 || c.Expected() != "" || !strings.Contains(c.Decided.Decision.Why, "expired") {
			t.Errorf("%d messages under an expired exception, and the case says %q", count(), c.Decided.Decision.Why)
		}
	}
	// The same path with bytes that are known to be bad.
	deliver(t, r, 1, ran(2, 1, hash(), time.Now()))
	if i := w.incident(); i.Told != cases.Malicious {
		t.Errorf("people know of %q", i.Told)
	}
}

func TestBytesThatAreExpectedAtOnePathAreNotExpectedAtAnother(t *testing.T) {
	for name, order := range map[string][]int{"expected first": {1, 2}, "expected last": {2, 1}} {
		w := newWorld(t, memory(t))
		w.yaml = pageOnly + "\nexceptions: [{path: /tmp/x1, workload: web, owner: ci@example.com, reason: built in place, until: 2999-01-31}]"
		r := w.process()
		for _, path := range order {
			deliver(t, r, 1, ran(0, path, unknownSum(1), time.Now()))
		}
		messages, err := w.slack.Messages()
		if err != nil || len(messages) != 1 || w.incident().Lead().Expected() != "" {
			t.Errorf("%s: %d messages, programs %+v: %v", name, len(messages), w.incident().Lead().Programs, err)
		}
	}
}

func TestMorePagesThanTheLimitAreOneDigest(t *testing.T) {
	w := newWorld(t, memory(t))
	w.yaml = pageOnly
	r := w.process()
	r.PagesPerWindow = 3
	workload := func(n int, sum string) finding.Finding {
		f := ran(n, n, sum, time.Now())
		f.Pod.Namespace = fmt.Sprint("team-", n)
		return f
	}
	for n := range 10 {
		deliver(t, r, 1, workload(n, unknownSum(n)))
	}
	messages, err := w.slack.Messages()
	if err != nil || len(messages) != 3 {
		t.Fatalf("%d messages of ten workloads, want three: %v", len(messages), err)
	}
	var queued string
	for id := range deliver(t, r, 1, workload(11, unknownSum(11))) {
		queued = id
	}
	if c := w.read(queued); c.Queued == nil || c.Paged != nil {
		t.Errorf("queued %+v, paged %+v", c.Queued, c.Paged)
	}
	deliver(t, r, 1, workload(12, hash())) // malware does not wait
	deliver(t, r, 1, workload(5, hash()))  // nor where its workload waits for the digest
	if messages, err = w.slack.Messages(); err != nil || len(messages) != 5 {
		t.Fatalf("%d messages with malware in two workloads, want five: %v", len(messages), err)
	}
	sweepAt(t, r, time.Now().Add(11*time.Minute))
	messages, err = w.slack.Messages()
	if err != nil || len(messages) != 6 {
		t.Fatalf("%d messages with the digest, want six: %v", len(messages), err)
	}
	digest := string(messages[5].Blocks)
	if !strings.Contains(digest, "7 more incidents") || !strings.Contains(digest, "team-9/web") || strings.Contains(digest, "team-5/web") {
		t.Errorf("the digest: %s", digest)
	}
	sweepAt(t, r, time.Now().Add(40*time.Minute))
	if messages, err = w.slack.Messages(); err != nil || len(messages) != 6 {
		t.Errorf("%d messages later: %v", len(messages), err)
	}
}

func TestManyRefusedClicksDelayNoRelease(t *testing.T) {
	w := newWorld(t, memory(t))
	r := w.process()
	_, id := w.open(r, "c1")
	for n := range 2000 {
		body, err := json.Marshal(cases.Click{ID: fmt.Sprint("approve-", n), What: cases.ActionApprove, By: "eve", At: time.Now().Add(-time.Hour)})
		if err == nil {
			err = r.Log.Click(t.Context(), id, fmt.Sprint("approve-", n), body)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	press(t, w, id, cases.ActionRelease)
	began := time.Now()
	advance(t, r, id)
	c := w.read(id)
	if c.Frozen() || len(c.Clicks) > 21 || c.Clicks[0].What != cases.ActionRelease {
		t.Errorf("%q, %d clicks kept, the first is %+v", c.Status(), len(c.Clicks), c.Clicks[0])
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the release took %s", took)
	}
}

func TestLookUpThatFailsDoesNotUseUpThePlan(t *testing.T) {
	w := newWorld(t, memory(t))
	w.yaml = pageOnly
	r := w.process()
	source := &failing{fails: 3, now: func() time.Time { return r.Now() }}
	r.Verdicts = source
	began := time.Now()
	deliver(t, r, 1, ran(0, 0, unknownSum(0), began))
	for at := time.Duration(0); at < 8*24*time.Hour; at += time.Minute {
		if at > 30*time.Minute && at%time.Hour != time.Minute {
			continue
		}
		sweepAt(t, r, began.Add(at))
	}
	c := w.incident().Lead()
	// The first and two more fail within minutes; an answer comes, then those of the plan.
	if c.Rechecks != 3 || c.Decided.Verdict.Level != cases.Unknown || c.Decided.Verdict.Why != "" || source.asked != 7 {
		t.Errorf("%d look-ups of the plan, %d in all, verdict %+v", c.Rechecks, source.asked, c.Decided.Verdict)
	}
	if source.answered.IsZero() || source.answered.Sub(began) > 15*time.Minute {
		t.Errorf("answered after %s", source.answered.Sub(began))
	}
}

// failing is a source that fails a few times before it answers.
type failing struct {
	fails, asked int
	answered     time.Time
	now          func() time.Time
}

func (f *failing) Finding(context.Context, finding.Finding) cases.Verdict {
	if f.asked++; f.asked <= f.fails {
		return cases.Verdict{Level: cases.Unknown, Why: "VirusTotal: HTTP 503"}
	}
	if f.answered.IsZero() {
		f.answered = f.now()
	}
	return cases.Verdict{Level: cases.Unknown}
}

// byProgram gives a verdict by the last digit of the hash.
type byProgram struct{}

func (byProgram) Finding(_ context.Context, f finding.Finding) cases.Verdict {
	switch f.Process.SHA256[63] {
	case 'f':
		return cases.Verdict{Level: cases.Malicious}
	case 'e':
		return cases.Verdict{Level: cases.Suspicious}
	}
	return cases.Verdict{Level: cases.Unknown}
}

// TestAnyOrderDuplicationAndDelayOfFindings delivers random findings of several workloads,
// some twice, some days late, several at once.
func TestAnyOrderDuplicationAndDelayOfFindings(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			w := newWorld(t, memory(t))
			w.yaml = pageOnly + `
exceptions:
  - {path: /tmp/x3, namespace: "team-*", owner: ci@example.com, reason: a build tool, until: 2999-01-31}`
			r := w.process()
			r.Verdicts = byProgram{}
			now := time.Now()
			all := map[string]finding.Finding{}
			for range 6 {
				now = now.Add(time.Duration(rnd.IntN(40)) * time.Minute)
				sweepAt(t, r, now)
				var batch []finding.Finding
				for range 1 + rnd.IntN(12) {
					f := ran(rnd.IntN(3), rnd.IntN(20), unknownSum(rnd.IntN(20)), now.Add(-time.Duration(rnd.IntN(3000))*time.Minute))
					f.Pod.Namespace = fmt.Sprint("team-", rnd.IntN(3))
					f.Pod.UID += f.Pod.Namespace
					f.CanonicalName = f.Pod.Namespace + f.CanonicalName
					all[f.Key()] = f
					for range 1 + rnd.IntN(2) {
						batch = append(batch, f)
					}
				}
				deliver(t, r, 4, batch...)
			}
			sweepAt(t, r, now.Add(5*time.Minute))
			checkEachFindingIsTold(t, r, all)
			checkMessages(t, w, r.Log)
		})
	}
}

// checkEachFindingIsTold checks that each finding is in a case of its workload, and that
// the case was paged unless exceptions that it names match all that ran.
func checkEachFindingIsTold(t *testing.T, r *respond.Responder, all map[string]finding.Finding) {
	t.Helper()
	unexpected := map[string]bool{} // cases
	for key, f := range all {
		id, err := r.Log.CaseOf(t.Context(), key)
		if err != nil {
			t.Fatalf("a finding without a case: %v", err)
		}
		matches := r.Policy.Expected(f, byProgram{}.Finding(t.Context(), f), time.Now()) != nil
		unexpected[id] = unexpected[id] || !matches
	}
	for key, f := range all {
		id, err := r.Log.CaseOf(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		c, _, err := incidentlog.Case(t.Context(), r.Log, id)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := c.Program(f.Process.SHA256); !ok {
			t.Errorf("case %s does not have the program of %s", id, f.CanonicalName)
		}
		switch {
		case unexpected[id] && c.Paged == nil:
			t.Errorf("case %s was not paged, and %s is not expected: %+v", id, f.CanonicalName, c.Programs)
		case !unexpected[id] && !strings.Contains(c.Expected(), "ci@example.com"):
			t.Errorf("case %s names no exception: %+v", id, c.Programs)
		}
		if c.Decided.Finding.IncidentKey() != f.IncidentKey() || c.Decided.Finding.Pod.UID != f.Pod.UID {
			t.Errorf("case %s is of pod %s, and has a finding of pod %s", id, c.Decided.Finding.Pod.UID, f.Pod.UID)
		}
	}
}

func checkMessages(t *testing.T, w *world, log *caselog.Store) {
	t.Helper()
	ids, err := log.Incidents(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	most, told := 0, 0
	for _, id := range ids {
		i, err := incidentlog.Read(t.Context(), log, id)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range i.Cases {
			if c.Decided.Finding.Workload() != i.Workload {
				t.Errorf("incident %s of %s has a case of %s", id, i.Workload, c.Decided.Finding.Workload())
			}
		}
		if i.Told != i.Level() {
			t.Errorf("incident %s is %s, and people know of %s", id, i.Level(), i.Told)
		}
		if i.Paged != nil {
			told++
		}
		most += 3 // the page, suspicious, malicious
	}
	messages, err := w.slack.Messages()
	if err != nil || len(messages) < told || len(messages) > most {
		t.Errorf("%d messages of %d incidents: %v", len(messages), len(ids), err)
	}
}

// hangingSCC does not answer until it is released.
type hangingSCC struct {
	respond.Escalator
	release chan struct{}
}

func (h hangingSCC) Escalate(ctx context.Context, c cases.Case, at time.Time) (string, error) {
	<-h.release
	return h.Escalator.Escalate(ctx, c, at)
}

func TestContainmentDoesNotWaitForSCC(t *testing.T) {
	w := newWorld(t, memory(t))
	r := w.process()
	f := w.found("c1", time.Now())
	w.raiseInSCC(f)
	scc := hangingSCC{r.SCC, make(chan struct{})}
	r.SCC = scc
	saved := make(chan struct{})
	contain := r.Contain
	r.Contain = func(ctx context.Context, id string, n int) (cases.Outcome, error) {
		o, err := contain(ctx, id, n)
		if o.Action == cases.Evidence {
			close(saved)
		}
		return o, err
	}
	done := make(chan struct{})
	go func() { defer close(done); deliver(t, r, 1, f) }()
	select {
	case <-saved:
	case <-time.After(10 * time.Second):
		t.Error("nothing is frozen and saved while SCC hangs")
	}
	close(scc.release)
	<-done
	if c := w.incident().Lead(); c.Escalated == nil || c.Escalated.Error != "" {
		t.Errorf("escalated: %+v", c.Escalated)
	}
}

// TestDamagedIncidentIsReplaced: where the log of an incident cannot be read, people are
// notified anew, by another log that shows the same cases; each is notified once.
func TestDamagedIncidentIsReplaced(t *testing.T) {
	store := memory(t)
	w := newWorld(t, store)
	w.yaml = "rules: [{name: all, do: [page, freeze]}]"
	id := ""
	for got := range deliver(t, w.process(), 1, ran(0, 0, unknownSum(0), time.Now())) {
		id = got
	}
	incident := w.incident().ID
	broken := w.process()
	broken.Log.Objects = damaged{store, "events/" + incident + "/0000000001.json"}
	// A click on the message that the damaged log has posted still counts.
	click, err := json.Marshal(cases.Click{ID: "old-page", What: cases.ActionExtend, By: "ann", At: time.Now()})
	if err == nil {
		err = broken.Log.Click(t.Context(), incident, "old-page", click)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := broken.Finding(t.Context(), ran(1, 1, unknownSum(1), time.Now())); err != nil {
		t.Fatal(err)
	}
	for range 2 { // a release of what is frozen, whose case is whole
		press(t, w, id, cases.ActionRelease)
		for _, each := range []string{id, incident} {
			if err := broken.Advance(t.Context(), each); err != nil {
				t.Fatal(err)
			}
		}
	}
	c := w.read(id)
	if c.Closed == nil || !slices.ContainsFunc(c.Clicks, func(k cases.Click) bool { return k.What == cases.ActionExtend }) {
		t.Errorf("the case is %q, clicks %+v", c.Status(), c.Clicks)
	}
	messages, err := w.slack.Messages()
	if err != nil || len(messages) != 2 {
		t.Fatalf("%d messages, want the first and that of the new log: %v", len(messages), err)
	}
	if blocks := string(messages[1].Blocks); !strings.Contains(blocks, "notified anew") {
		t.Errorf("the new message does not say why: %s", blocks)
	}
	i, err := incidentlog.Read(t.Context(), broken.Log, incident)
	if err != nil || i.ID != incident+"-2" || i.Replaces != incident || len(i.Cases) != 2 {
		t.Errorf("%+v, %v", i, err)
	}
}

// TestDamagedLogsAreShownAsFarAsTheyCanBeRead: lists and pages show the rest, and say what
// is wrong.
func TestDamagedLogsAreShownAsFarAsTheyCanBeRead(t *testing.T) {
	store := memory(t)
	w := newWorld(t, store)
	f := w.found("c1", time.Now())
	w.raiseInSCC(f)
	o, err := w.process().Finding(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	whole := w.read(o.Case)
	for n, want := range map[int]bool{0: false, 1: true, 3: true} { // whether the program is known
		key := fmt.Sprintf("events/%s/%010d.json", o.Case, n)
		log := &caselog.Store{Objects: damaged{store, key}, Lease: cases.Lease}
		c, events, err := incidentlog.Case(t.Context(), log, o.Case)
		if err != nil || !strings.Contains(c.Damaged, key) || c.Status() != "log damaged" || len(events) == 0 {
			t.Errorf("event %d: %+v, %v", n, c, err)
		}
		if known := c.Decided.Finding.Process.Path == whole.Decided.Finding.Process.Path; known != want {
			t.Errorf("event %d: the program is known: %v, want %v", n, known, want)
		}
	}
	page := httptest.NewServer(web.Handler(&caselog.Store{Objects: damaged{store, "events/" + o.Case}}, web.Visitors{}, func(context.Context, string) {}))
	t.Cleanup(page.Close)
	for path, want := range map[string]int{"/": 200, "/cases/" + o.Case: 200, "/api/cases": 200, "/cases/%00": 400, "/cases/0123456789abcdef": 404} {
		resp, err := http.Get(page.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != want || want == 200 && !strings.Contains(strings.ToLower(string(body)), "damaged") {
			t.Errorf("%s: %s %s", path, resp.Status, body)
		}
	}
}

// misshapen is a store in which the body of one event is none of its kind.
type misshapen struct {
	blobstore.Store
	key string
}

func (m misshapen) Read(ctx context.Context, key string) ([]byte, error) {
	body, err := m.Store.Read(ctx, key)
	if err != nil || key != m.key {
		return body, err
	}
	var e caselog.Event
	if err := json.Unmarshal(body, &e); err != nil {
		return nil, err
	}
	e.Body = json.RawMessage(`[1]`)
	return json.Marshal(e)
}

// TestIncidentWithAMisshapenEventIsReplaced: an event that is JSON, and not what it says it
// is, damages a log as well.
func TestIncidentWithAMisshapenEventIsReplaced(t *testing.T) {
	store := memory(t)
	w := newWorld(t, store)
	w.yaml = pageOnly
	deliver(t, w.process(), 1, ran(0, 0, unknownSum(0), time.Now()))
	incident := w.incident().ID
	r := w.process()
	r.Log.Objects = misshapen{store, "events/" + incident + "/0000000000.json"}
	if _, err := r.Finding(t.Context(), ran(1, 1, unknownSum(1), time.Now())); err != nil {
		t.Fatal(err)
	}
	messages, err := w.slack.Messages()
	if err != nil || len(messages) != 2 || !strings.Contains(string(messages[1].Blocks), "notified anew") {
		t.Errorf("%d messages: %v", len(messages), err)
	}
}
