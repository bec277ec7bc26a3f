package finding

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

func podFinding(name string, labels map[string]string) Finding {
	return Finding{Category: AddedBinary, Project: "p", Location: "l", Cluster: "c", Node: "node-1",
		Pod: Pod{Namespace: "shop", Name: name, Labels: labels}, Container: Container{Name: "app", Image: "eu.gcr.io/x/app:1"}}
}

func TestWorkloadFromTheFindingAlone(t *testing.T) {
	for name, c := range map[string]struct {
		f    Finding
		want Workload
	}{
		"deployment by label": {podFinding("web-7d9f6c4b5-x2x9k", map[string]string{"pod-template-hash": "7d9f6c4b5", "app": "shop"}),
			Workload{KindDeployment, "shop", "web"}},
		"deployment by name": {podFinding("web-7d9f6c4b5-x2x9k", nil), Workload{KindDeployment, "shop", "web"}},
		"template hash that the name lacks": {podFinding("evil", map[string]string{"pod-template-hash": "7d9f6c4b5"}),
			Workload{KindImage, "shop", "eu.gcr.io/x/app"}},
		"stateful set by label": {podFinding("db-0", map[string]string{"statefulset.kubernetes.io/pod-name": "db-0", "controller-revision-hash": "db-7c5f6"}),
			Workload{KindStatefulSet, "shop", "db"}},
		"stateful set by name": {podFinding("db-12", nil), Workload{KindStatefulSet, "shop", "db"}},
		"stateful pod name of another pod": {podFinding("x-0", map[string]string{"statefulset.kubernetes.io/pod-name": "db-0", "app": "x"}),
			Workload{KindApp, "shop", "x"}},
		"daemon set": {podFinding("logs-x2x9k", map[string]string{"controller-revision-hash": "6d8f9c7b5", "pod-template-generation": "1"}),
			Workload{KindDaemonSet, "shop", "logs"}},
		"job":                               {podFinding("migrate-x2x9k", map[string]string{"batch.kubernetes.io/job-name": "migrate"}), Workload{KindJob, "shop", "migrate"}},
		"job, old label":                    {podFinding("migrate-x2x9k", map[string]string{"job-name": "migrate"}), Workload{KindJob, "shop", "migrate"}},
		"cron job":                          {podFinding("backup-29384750-x2x9k", map[string]string{"job-name": "backup-29384750"}), Workload{KindCronJob, "shop", "backup"}},
		"cron job by name":                  {podFinding("backup-29384750-x2x9k", nil), Workload{KindCronJob, "shop", "backup"}},
		"job that ends in another number":   {podFinding("m-99999999-x2x9k", map[string]string{"job-name": "m-99999999"}), Workload{KindJob, "shop", "m-99999999"}},
		"generated name of an unknown kind": {podFinding("logs-x2x9k", nil), Workload{KindGenerated, "shop", "logs"}},
		"bare pod by its owner label":       {podFinding("ci-41", map[string]string{"app.kubernetes.io/name": "ci"}), Workload{KindApp, "shop", "ci"}},
		"bare pod by its image":             {podFinding("debug", nil), Workload{KindImage, "shop", "eu.gcr.io/x/app"}},
		"static pod":                        {podFinding("kube-proxy-node-1", nil), Workload{KindPod, "shop", "kube-proxy"}},
		"compose service": {Finding{Category: AddedBinary, Cluster: "laptop", Container: Container{ID: "c1", Image: "img",
			Labels: map[string]string{"com.docker.compose.project": "shop", "com.docker.compose.service": "web"}}}, Workload{KindCompose, "shop", "web"}},
		"container by its image":       {Finding{Category: AddedBinary, Cluster: "laptop", Container: Container{ID: "c1", Image: "redis:7@sha256:aa"}}, Workload{KindImage, "", "redis"}},
		"container of an image id":     {Finding{Category: AddedBinary, Cluster: "laptop", Container: Container{ID: "c1", Image: "sha256:" + strings.Repeat("a", 64)}}, Workload{KindContainer, "", "c1"}},
		"unattributed program":         {Finding{Category: AddedBinary, Cluster: "laptop", Node: "n1"}, Workload{KindNode, "", "n1"}},
		"finding without any place":    {Finding{Category: AddedBinary, CanonicalName: "projects/1/f"}, Workload{KindFinding, "", "projects/1/f"}},
		"detector health, not its pod": {Finding{Category: SensorBlind, Class: "SCC_ERROR", Node: "n1"}, Workload{KindDetector, "", SensorBlind + " n1"}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := c.f.Workload(); got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestRepositoryOfAnImageReference(t *testing.T) {
	for image, want := range map[string]string{
		"redis": "redis", "redis:7": "redis", "localhost:5000/a/b": "localhost:5000/a/b", "localhost:5000/a/b:1@sha256:00": "localhost:5000/a/b",
		"sha256:" + strings.Repeat("a", 64): "", strings.Repeat("a", 64): "", "": "",
	} {
		if got := Repository(image); got != want {
			t.Errorf("%q: %q, want %q", image, got, want)
		}
	}
}

func TestKeysSeparateResourcesWorkloadsAndContainers(t *testing.T) {
	base := podFinding("web-7d9f6c4b5-x2x9k", nil)
	other := func(change func(*Finding)) Finding { f := base; change(&f); return f }
	for name, c := range map[string]struct {
		f                      Finding
		sameIncident, sameCase bool
	}{
		"another program":   {other(func(f *Finding) { f.Process = Process{Path: "/tmp/b", SHA256: strings.Repeat("2", 64)} }), true, true},
		"a restart":         {other(func(f *Finding) { f.Container.ID = "c2" }), true, true},
		"another replica":   {other(func(f *Finding) { f.Pod.Name = "web-7d9f6c4b5-c4c4c" }), true, false},
		"another version":   {other(func(f *Finding) { f.Pod.Name = "web-59d4f8b77c-c4c4c" }), true, false},
		"another container": {other(func(f *Finding) { f.Container.Name = "sidecar" }), true, false},
		"another workload":  {other(func(f *Finding) { f.Pod.Name = "api-7d9f6c4b5-x2x9k" }), false, false},
		"another namespace": {other(func(f *Finding) { f.Pod.Namespace = "m" }), false, false},
		"another cluster":   {other(func(f *Finding) { f.Cluster = "d" }), false, false},
		"another project":   {other(func(f *Finding) { f.Project = "q" }), false, false},
		"another service": {other(func(f *Finding) {
			f.Cluster, f.ResourceName = "", "//run.googleapis.com/projects/p/locations/l/services/s"
		}), false, false},
	} {
		if got := c.f.IncidentKey() == base.IncidentKey(); got != c.sameIncident {
			t.Errorf("%s: same incident %v, want %v", name, got, c.sameIncident)
		}
		if got := c.f.CaseKey() == base.CaseKey(); got != c.sameCase {
			t.Errorf("%s: same case %v, want %v", name, got, c.sameCase)
		}
	}
}

// TestIncidentNeverHasTwoWorkloads generates pods of random workloads as controllers
// name them and checks that two share a key only when they are of one workload.
func TestIncidentNeverHasTwoWorkloads(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	const safe = "bcdfghjklmnpqrstvwxz2456789"
	suffix := func(n int) string {
		var b strings.Builder
		for range n {
			b.WriteByte(safe[r.IntN(len(safe))])
		}
		return b.String()
	}
	names := []string{"web", "web-api", "db", "db-0", "backup", "a-b-c"}
	owners := map[string]string{}
	for range 20_000 {
		name, ns, cluster := names[r.IntN(len(names))], fmt.Sprint("ns", r.IntN(2)), fmt.Sprint("c", r.IntN(2))
		hash, job := suffix(9), fmt.Sprintf("%s-%d", name, 29_000_000+r.IntN(100_000))
		kind, f := "", Finding{}
		switch r.IntN(4) {
		case 0:
			kind, f = "deployment", podFinding(name+"-"+hash+"-"+suffix(5), map[string]string{"pod-template-hash": hash})
		case 1:
			pod := fmt.Sprintf("%s-%d", name, r.IntN(20))
			kind, f = "statefulset", podFinding(pod, map[string]string{"statefulset.kubernetes.io/pod-name": pod, "controller-revision-hash": name + "-" + hash})
		case 2:
			kind, f = "daemonset", podFinding(name+"-"+suffix(5), map[string]string{"controller-revision-hash": hash})
		case 3:
			kind, f = "cronjob", podFinding(job+"-"+suffix(5), map[string]string{"job-name": job, "batch.kubernetes.io/job-name": job})
		}
		f.Pod.Namespace, f.Cluster = ns, cluster
		owner := strings.Join([]string{kind, cluster, ns, name}, " ")
		if was, ok := owners[f.IncidentKey()]; ok && was != owner {
			t.Fatalf("pods of %q and %q share an incident", was, owner)
		}
		owners[f.IncidentKey()] = owner
	}
	if want := 4 * 2 * 2 * len(names); len(owners) != want {
		t.Errorf("%d incidents of %d workloads", len(owners), want)
	}
}
