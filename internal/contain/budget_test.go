package contain

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/contraband-dev/contraband/internal/blobstore"
	"github.com/contraband-dev/contraband/internal/canary"
	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/cases/caselog"
	"github.com/contraband-dev/contraband/internal/policy/guards"
)

// TestDecoysDoNotSpendTheHour: unknown programs and copies of the canary, which anybody can
// make run, leave a share for known malware and for people; one cluster's leave the others'.
func TestDecoysDoNotSpendTheHour(t *testing.T) {
	store, err := blobstore.Open(t.Context(), "mem://")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	now := time.Now()
	executor := &Executor{Log: &caselog.Store{Objects: store}, Now: func() time.Time { return now },
		Guards: guards.Guards{MaxContainmentsPerHour: 5, MaxAllClustersPerHour: 7, MaxPerWorkloadPerHour: 100}}
	spend := func(pod, cluster string, change func(*task)) string {
		t.Helper()
		k := task{Executor: executor, claim: cases.Claimed{PodUID: pod}}
		k.kase.Decided.Finding.Cluster, k.kase.Decided.Verdict.Level = cluster, cases.Unknown
		change(&k)
		why, err := k.overBudget(t.Context(), cluster+"/web")
		if err != nil {
			t.Fatal(err)
		}
		return why
	}
	unknown := func(*task) {}
	spendIn := func(pod, cluster, workload string) string {
		t.Helper()
		k := task{Executor: executor, claim: cases.Claimed{PodUID: pod}}
		k.kase.Decided.Finding.Cluster = cluster
		why, err := k.overBudget(t.Context(), workload)
		if err != nil {
			t.Fatal(err)
		}
		return why
	}
	harmless := ""
	for sum := range canary.Known() {
		harmless = sum
	}
	copied := func(k *task) {
		k.kase.Decided.Verdict.Level, k.kase.Decided.Finding.Process.SHA256 = cases.Malicious, harmless
	}
	malicious := func(k *task) { k.kase.Decided.Verdict.Level = cases.Malicious }
	person := func(k *task) {
		k.kase.Clicks, k.claim.Click = []cases.Click{{ID: "a", What: cases.ActionContain}}, "a"
	}
	// The canary was run first, so that the case is about it.
	after := func(k *task) {
		copied(k)
		k.kase.Programs = []cases.Program{{SHA256: harmless, Verdict: k.kase.Decided.Verdict}, {SHA256: "malware", Verdict: k.kase.Decided.Verdict}}
	}
	for i, step := range []struct {
		pod, cluster string
		change       func(*task)
		want         string // a part of the refusal
	}{
		{"p1", "a", unknown, ""}, {"p2", "a", copied, ""}, {"p3", "a", unknown, ""}, {"p4", "a", copied, ""},
		{"p5", "a", unknown, "but for 1 that are kept for known malware"},
		{"p5", "a", copied, "max_containments_per_hour"},
		{"p1", "a", unknown, ""}, // it has its place
		{"p6", "a", after, ""}, {"p6", "a", malicious, ""},
		{"p7", "a", malicious, "5 pods of the cluster"},
		{"p8", "b", unknown, "max_all_clusters_per_hour"}, // five of seven are spent, and two are kept
		{"p8", "b", person, ""}, {"p9", "b", malicious, ""},
		{"p10", "b", malicious, "7 pods of all clusters"},
	} {
		why := spend(step.pod, step.cluster, step.change)
		if (why == "") != (step.want == "") || !strings.Contains(why, step.want) {
			t.Errorf("step %d, %s in %s: %q, want %q", i, step.pod, step.cluster, why, step.want)
		}
	}
	now = now.Add(time.Hour)
	executor.Guards.MaxPerWorkloadPerHour, executor.Guards.MaxContainmentsPerHour = 2, 3
	for i, step := range []struct {
		pod    string
		change func(*task)
		want   string
	}{{"r1", unknown, ""}, {"r2", unknown, ""}, {"r3", unknown, "max_per_workload"}} {
		if why := spend(step.pod, "c", step.change); (why == "") != (step.want == "") || !strings.Contains(why, step.want) {
			t.Errorf("workload, step %d: %q, want %q", i, why, step.want)
		}
	}
	// What the cluster's budget refuses spends none of the workload's.
	executor.Guards.MaxContainmentsPerHour = 2
	for _, pod := range []string{"s1", "s2", "s3"} {
		if why := spendIn(pod, "c", "c/other"); !strings.Contains(why, "max_containments_per_hour") {
			t.Errorf("%s: %q", pod, why)
		}
	}
	executor.Guards.MaxContainmentsPerHour = 100
	if why := spendIn("s4", "c", "c/other"); why != "" {
		t.Errorf("the workload has contained nothing: %s", why)
	}
	executor.Guards.MaxContainmentsPerHour, executor.Guards.MaxPerWorkloadPerHour = 5, 100
	now = now.Add(time.Hour)
	for i := range 4 {
		if why := spend(fmt.Sprint("q", i), "a", unknown); why != "" {
			t.Errorf("the next hour: %s", why)
		}
	}
}

func TestReserveIsAFifthOfThreeOrMore(t *testing.T) {
	for size, want := range map[guards.Budget]int{0: 0, 1: 0, 2: 0, 3: 1, 5: 1, 6: 2, 50: 10} {
		if got := size.Reserve(); got != want {
			t.Errorf("of %d: %d, want %d", size, got, want)
		}
	}
}
