package contain_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/testenv/testcluster"
)

// peer is what Falco Talon was measured to do on such a machine, limited by the
// client library's five requests a second; it neither verifies nor guards.
const peer = 1.25 // actions a second

// BenchmarkContain has 200 findings in 200 pods contained at once, on a real API
// server with simulated nodes: frozen (the sensors' side of the orders is real, the
// kernel is not there), then isolated and verified, then evicted.
func BenchmarkContain(b *testing.B) {
	nodes := []string{"node-1", "node-2", "node-3", "node-4", "node-5", "node-6", "node-7", "node-8", "node-9", "node-10"}
	w := newWorld(b, nodes...)
	ns := w.Namespace("burst")
	var pods []corev1.Pod
	for i, n := range nodes {
		pods = append(pods, w.Deploy(testcluster.Deployment(ns, fmt.Sprintf("web%d", i), n, 20))...)
	}
	g := usualGuards()
	g.MinHealthyReplicas = "0"
	c := w.container(g)
	opened := make([]*kase, len(pods))
	for i, p := range pods {
		opened[i] = w.open(about(p), cases.Freeze, cases.Evidence, cases.Isolate, cases.Evict)
		opened[i].append(cases.KindClaimed, cases.Claimed{Action: cases.Evidence})
		opened[i].append(cases.KindActed, cases.Outcome{Claim: 1, Action: cases.Evidence, Done: true})
	}
	fmt.Printf("BENCH\t| %d findings in %d pods, at once | actions/s | beside the peer's 1.25/s | p50 | p99 | API calls an action |\nBENCH\t|---|---|---|---|---|---|\n", len(opened), len(pods))
	for _, action := range []string{cases.Freeze, cases.Isolate, cases.Evict} { // once: what is evicted is evicted
		burst(b, w, action, opened, func(k *kase) cases.Outcome { return k.act(c, action, "") })
	}
}

func burst(b *testing.B, w *world, action string, opened []*kase, act func(*kase) cases.Outcome) {
	b.Helper()
	before, began := w.calls.count(), time.Now()
	took := make([]time.Duration, len(opened))
	var wg sync.WaitGroup
	for i, k := range opened {
		wg.Go(func() {
			at := time.Now()
			if a := act(k); !a.Done {
				b.Errorf("%s: %+v", action, a)
			}
			took[i] = time.Since(at)
		})
	}
	wg.Wait()
	all := time.Since(began).Seconds()
	slices.Sort(took)
	rate := float64(len(opened)) / all
	fmt.Printf("BENCH\t| %s | %.0f | %.0fx | %s | %s | %.1f |\n", action, rate, rate/peer, took[len(took)/2].Round(time.Millisecond),
		took[len(took)*99/100].Round(time.Millisecond), float64(w.calls.count()-before)/float64(len(opened)))
}
