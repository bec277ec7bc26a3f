package contain_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/contraband-dev/contraband/internal/blobstore"
	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/cases/caselog"
	"github.com/contraband-dev/contraband/internal/contain"
	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/internal/policy/guards"
	"github.com/contraband-dev/contraband/internal/sensorapi"
	"github.com/contraband-dev/contraband/internal/sensororders"
	"github.com/contraband-dev/contraband/internal/testenv/testcluster"
)

var (
	bytesThatRan = []byte("the bytes that ran")
	hashThatRan  = func() string { s := sha256.Sum256(bytesThatRan); return hex.EncodeToString(s[:]) }()
)

// world is a real control plane with simulated nodes, a sensor's side of the
// orders on each of them, and a store.
type world struct {
	*testcluster.Cluster
	t     testing.TB
	store blobstore.Store
	log   *caselog.Store
	calls *recorder
	now   func() time.Time

	mu      sync.Mutex
	carried []string // orders, as the sensors carried them out
	reach   func(target string, inward bool) bool
	slow    time.Duration     // of the sensors
	strange string            // a container in which they have detected nothing
	unwell  string            // why they cannot say anything of a container, if they cannot
	asked   []sensorapi.Order // that they were handed
	until   time.Time         // what they say of a freeze's end, if not the truth
}

func newWorld(t testing.TB, nodes ...string) *world {
	t.Helper()
	c := testcluster.Start(t)
	c.Simulate(nodes...)
	c.Apply("manifests/sensor")
	store, err := blobstore.Open(t.Context(), "mem://")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{Cluster: c, t: t, store: store, log: &caselog.Store{Objects: store, Lease: time.Minute}, calls: &recorder{}, now: time.Now}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, n := range nodes {
		watcher, err := sensororders.New(c.Server(), c.SensorAccount(n), n, w.carry, quiet)
		if err != nil {
			t.Fatal(err)
		}
		watcher.Withdrawn, watcher.Frozen = w.withdrawn, func() ([]string, error) { return nil, nil }
		wg.Go(func() { watcher.Run(ctx) })
		c.Eventually("the sensor of "+n+" takes orders", func() error {
			if !watcher.Connected() {
				return fmt.Errorf("not connected")
			}
			return nil
		})
	}
	t.Cleanup(func() { cancel(); wg.Wait() })
	return w
}

// in is the world for a subtest: its failures are the subtest's. The sensors stay
// the first world's.
func (w *world) in(t *testing.T) *world {
	return &world{Cluster: w.Cluster.In(t), t: t, store: w.store, log: w.log, calls: w.calls, now: time.Now}
}

// carry is the node's part, below the real taking of orders: there is no kernel here.
func (w *world) carry(ctx context.Context, o sensorapi.Order) (sensorapi.OrderStatus, bool, error) {
	if err := o.Validate(); err != nil {
		return sensorapi.OrderStatus{}, true, err
	}
	w.mu.Lock()
	slow := w.slow
	w.mu.Unlock()
	time.Sleep(slow)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked = append(w.asked, o)
	if w.unwell != "" {
		return sensorapi.OrderStatus{ID: o.ID, Error: w.unwell, At: time.Now().UTC()}, false, nil
	}
	if o.ContainerID == w.strange {
		return sensorapi.OrderStatus{}, true, fmt.Errorf("refused: this sensor has detected nothing in container %q", o.ContainerID)
	}
	w.carried = append(w.carried, string(o.Action)+" "+o.ID)
	s := sensorapi.OrderStatus{ID: o.ID, Done: true, At: time.Now().UTC(), Process: 2, Until: o.Expires}
	if !w.until.IsZero() {
		s.Until, s.At = w.until, w.until
	}
	switch o.Action {
	case sensorapi.Evidence:
		if err := w.store.Create(ctx, strings.TrimPrefix(o.Upload.URL, "https://store.invalid/"), bytesThatRan); err != nil && !errors.Is(err, blobstore.ErrExists) {
			return s, false, err
		}
	case sensorapi.Inspect:
		s.Inspection = &sensorapi.Inspection{Processes: []sensorapi.ProcessInfo{{PID: 7, Exe: "/tmp/x"}}, Sockets: []sensorapi.Socket{}}
	case sensorapi.Probe:
		for _, t := range o.Targets {
			s.Reached = append(s.Reached, sensorapi.Reached{Target: t, OK: w.reach != nil && w.reach(t, false)})
		}
		for _, t := range o.Towards {
			s.Reached = append(s.Reached, sensorapi.Reached{Target: t, Inward: true, OK: w.reach != nil && w.reach(t, true)})
		}
	}
	return s, false, nil
}

// withdrawn notes which orders were taken back.
func (w *world) withdrawn(_ context.Context, order string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.carried = append(w.carried, "withdrawn "+order)
	return nil
}

func (w *world) orders(action string) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, o := range w.carried {
		if strings.HasPrefix(o, action+" ") {
			n++
		}
	}
	return n
}

// guards that let the tests' own number of containments pass.
func usualGuards() guards.Guards {
	return guards.Guards{Namespaces: []string{"kube-system"}, MaxContainmentsPerHour: 10_000, MaxAllClustersPerHour: 10_000, MaxPerWorkloadPerHour: 1000, MinHealthyReplicas: "50%"}
}

func (w *world) container(g guards.Guards) *contain.Executor {
	return &contain.Executor{
		Log: w.log, Guards: g, Clusters: w.Finder(testcluster.ContainUser, w.calls.wrap), Patience: 5 * time.Second, Now: w.now,
		Upload: func(_ context.Context, key string, max int64) (*sensorapi.Upload, error) {
			return &sensorapi.Upload{URL: "https://store.invalid/" + key, MaxBytes: max}, nil
		},
	}
}

// about is a finding of our sensor about a pod.
func about(pod corev1.Pod) finding.Finding {
	return finding.Finding{
		Project: testcluster.Place.Project, Location: testcluster.Place.Location, Cluster: testcluster.Place.Cluster, Node: pod.Spec.NodeName,
		CanonicalName: "projects/1/sources/1/findings/" + string(pod.UID), Category: finding.AddedBinary, EventTime: time.Now(),
		Pod:       finding.Pod{Namespace: pod.Namespace, Name: pod.Name, UID: string(pod.UID)},
		Container: finding.Container{ID: string(pod.UID) + "-" + pod.Spec.Containers[0].Name, Name: pod.Spec.Containers[0].Name},
		Process:   finding.Process{Path: "/tmp/x", SHA256: hashThatRan},
	}
}

var opened atomic.Int64

// kase is a case of the log that a test writes as Respond would.
type kase struct {
	w    *world
	id   string
	file *caselog.Log
}

func (w *world) open(f finding.Finding, do ...string) *kase {
	w.t.Helper()
	return w.openWith(f, cases.Decision{Rule: "test", Do: do, HoldFor: time.Hour})
}

func (w *world) openWith(f finding.Finding, d cases.Decision) *kase {
	w.t.Helper()
	id := fmt.Sprintf("case%04d", opened.Add(1))
	file, err := w.log.Read(w.t.Context(), id, "test")
	if err != nil {
		w.t.Fatal(err)
	}
	k := &kase{w, id, file}
	k.append(cases.KindDecided, cases.Decided{Key: "k", Finding: f, Decision: d})
	return k
}

func (k *kase) append(kind string, body any) int {
	k.w.t.Helper()
	e, err := k.file.Append(k.w.t.Context(), kind, body)
	if err != nil {
		k.w.t.Fatal(err)
	}
	return e.N
}

// claim records one as Respond does; click is of who asks for it, or "".
func (k *kase) claim(action, click string) int {
	k.w.t.Helper()
	c, err := cases.Fold(k.id, k.file.Events())
	if err != nil {
		k.w.t.Fatal(err)
	}
	f := c.Decided.Finding
	return k.append(cases.KindClaimed, cases.Claimed{Action: action, ContainerID: f.Container.ID, Node: f.Node, SHA256: f.Process.SHA256, PodUID: f.Pod.UID, Click: click})
}

func (k *kase) press(what string) (click string) {
	k.w.t.Helper()
	id := fmt.Sprintf("click%d", len(k.file.Events()))
	k.append(cases.KindClicked, cases.Click{ID: id, What: what, By: "a person"})
	return id
}

// act claims an action, has it carried out, and records the outcome.
func (k *kase) act(c *contain.Executor, action, click string) cases.Outcome {
	k.w.t.Helper()
	n := k.claim(action, click)
	acted, err := c.Execute(k.w.t.Context(), k.id, n)
	if err != nil {
		k.w.t.Fatalf("%s: %v", action, err)
	}
	k.append(cases.KindActed, acted)
	return acted
}

func (w *world) pod(p corev1.Pod) *corev1.Pod {
	w.t.Helper()
	now, err := w.Admin.CoreV1().Pods(p.Namespace).Get(w.t.Context(), p.Name, metav1.GetOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return now
}

// recorder notes the requests that Contain makes, and makes them fail on demand.
type recorder struct {
	mu    sync.Mutex
	seen  []string // "verb group/resource[/sub]"
	fault func(n int, r *http.Request, send func() (*http.Response, error)) (*http.Response, error)
	n     int // of writes
}

func (r *recorder) wrap(base http.RoundTripper) http.RoundTripper {
	return roundTripper(func(req *http.Request) (*http.Response, error) {
		r.mu.Lock()
		r.seen = append(r.seen, requestOf(req))
		fault, n := r.fault, 0
		if req.Method != http.MethodGet {
			r.n++
			n = r.n
		}
		r.mu.Unlock()
		send := func() (*http.Response, error) { return base.RoundTrip(req) }
		if fault != nil && n > 0 {
			return fault(n, req, send)
		}
		return send()
	})
}

func (r *recorder) set(fault func(n int, r *http.Request, send func() (*http.Response, error)) (*http.Response, error)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fault, r.n = fault, 0
}

// of is how many requests of a kind were made.
func (r *recorder) of(kind string) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, seen := range r.seen {
		if seen == kind {
			n++
		}
	}
	return n
}

func (r *recorder) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.seen)
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// requestOf is a request as RBAC sees it.
func requestOf(r *http.Request) string {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	group := ""
	if parts[0] == "api" {
		parts = parts[2:]
	} else {
		group, parts = parts[1], parts[3:]
	}
	if parts[0] == "namespaces" && len(parts) > 2 {
		parts = parts[2:]
	}
	resource, named := parts[0], len(parts) > 1
	if len(parts) > 2 {
		resource += "/" + parts[2]
	}
	verb := map[string]string{http.MethodPost: "create", http.MethodPatch: "patch", http.MethodPut: "update", http.MethodDelete: "delete"}[r.Method]
	switch {
	case verb != "":
	case r.URL.Query().Get("watch") == "true" || r.URL.Query().Get("watch") == "1":
		verb = "watch"
	case named:
		verb = "get"
	default:
		verb = "list"
	}
	return strings.TrimSpace(verb + " " + strings.TrimPrefix(group+"/"+resource, "/"))
}

func has(items []string, text string) bool {
	return slices.ContainsFunc(items, func(s string) bool { return strings.Contains(s, text) })
}
