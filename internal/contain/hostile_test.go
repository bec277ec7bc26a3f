package contain_test

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/contain/cluster"
	"github.com/contraband-dev/contraband/internal/enrich"
	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/internal/sensorapi"
	"github.com/contraband-dev/contraband/internal/testenv/testcluster"
)

// label writes labels on a pod as its owner may.
func label(t *testing.T, w *world, pod corev1.Pod, labels string) {
	t.Helper()
	patch(t, w, pod, `{"metadata":{"labels":`+labels+`}}`)
}

func patch(t *testing.T, w *world, pod corev1.Pod, body string) {
	t.Helper()
	if _, err := w.Admin.CoreV1().Pods(pod.Namespace).Patch(t.Context(), pod.Name, types.MergePatchType, []byte(body), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
}

// notBelieved: whoever may edit a pod can write our marks on it.
func notBelieved(t *testing.T, w *world) {
	ns := w.Namespace("unbelieved")
	pods := w.Deploy(testcluster.Deployment(ns, "web", "node-1", 4))
	c := w.container(usualGuards())
	forged := `{"metadata":{"labels":{"contraband.dev/quarantine":"mine"},"annotations":{"contraband.dev/quarantine":"{\"cases\":[\"case0000\"],\"labels\":{\"tier\":\"admin\"},\"ownerKind\":\"ReplicaSet\"}"}}}`
	patch(t, w, pods[0], forged)
	k := w.open(about(pods[0]), cases.Isolate)
	if a := k.act(c, cases.Isolate, ""); !a.Done || len(w.pod(pods[0]).Labels) != 1 {
		t.Errorf("forged before: %+v, labels %v", a, w.pod(pods[0]).Labels)
	}
	patch(t, w, pods[0], strings.Replace(forged, `"labels":{"contraband.dev/quarantine":"mine"},`, "", 1))
	if a := k.act(c, cases.Release, k.press(cases.ActionRelease)); !a.Done {
		t.Errorf("release: %+v", a)
	}
	if now := w.pod(pods[0]); !maps.Equal(now.Labels, pods[0].Labels) || now.Annotations["contraband.dev/quarantine"] != "" {
		t.Errorf("forged since: labels %v, want %v", now.Labels, pods[0].Labels)
	}
	// Labelled, and nothing on record: nobody can give it back, and that is said.
	strange := w.Deploy(testcluster.Deployment(ns, "strange", "node-1", 2))[0] // of web one goes now
	label(t, w, strange, `{"contraband.dev/quarantine":"mine"}`)
	k = w.open(about(strange), cases.Isolate)
	if a := k.act(c, cases.Release, k.press(cases.ActionRelease)); a.Done || !strings.Contains(a.Error, "not on record") {
		t.Errorf("a release of what we have not isolated: %+v", a)
	}
	// Its owner calls it a DaemonSet's, or a Job of its own kind.
	kube, err := cluster.NewKube(w.Config)
	if err != nil {
		t.Fatal(err)
	}
	for kind, api := range map[string]string{"DaemonSet": "apps/v1", "Job": "mine.example/v1"} {
		own := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "own-" + strings.ToLower(kind), Namespace: ns}, Spec: testcluster.PodSpec("node-1", 1)}
		own.OwnerReferences = []metav1.OwnerReference{{APIVersion: api, Kind: kind, Name: "mine", UID: types.UID("00000000-0000-0000-0000-0000000000" + fmt.Sprint(10+len(kind))), Controller: new(bool)}}
		*own.OwnerReferences[0].Controller = true
		made, err := w.Admin.CoreV1().Pods(ns).Create(t.Context(), &own, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		o, err := cluster.RootOwner(t.Context(), kube, made)
		if err != nil || o.Kind == kind {
			t.Errorf("%s of %s: %+v, %v: it is believed", kind, api, o, err)
		}
	}
}

// usersOwn: a release brings back what was there before, and nothing of ours stays.
func usersOwn(t *testing.T, w *world) {
	ns := w.Namespace("own")
	pods := w.Deploy(testcluster.Deployment(ns, "web", "node-2", 3))
	const evictable, cost = "cluster-autoscaler.kubernetes.io/safe-to-evict", "controller.kubernetes.io/pod-deletion-cost"
	patch(t, w, pods[0], `{"metadata":{"annotations":{"`+evictable+`":"true","`+cost+`":"7"}}}`)
	c := w.container(usualGuards())
	k := w.open(about(pods[0]), cases.Isolate, cases.Cordon)
	both := w.open(about(pods[0]), cases.Cordon)
	for _, step := range []struct {
		k      *kase
		action string
	}{{k, cases.Isolate}, {both, cases.Cordon}, {k, cases.Cordon}} {
		if a := step.k.act(c, step.action, ""); !a.Done || has(a.Notes, "not protected") {
			t.Fatalf("%s: %+v", step.action, a)
		}
	}
	click := k.press(cases.ActionRelease)
	for _, undo := range []string{cases.Uncordon, cases.Release} {
		if a := k.act(c, undo, click); !a.Done {
			t.Fatalf("%s: %+v", undo, a)
		}
	}
	if n := w.pod(pods[0]).Annotations; n[evictable] != "false" || n[cost] != "7" {
		t.Errorf("while another case holds the node: %v", n)
	}
	if a := both.act(c, cases.Uncordon, both.press(cases.ActionRelease)); !a.Done {
		t.Fatalf("%+v", a)
	}
	if n := w.pod(pods[0]).Annotations; n[evictable] != "true" || n[cost] != "7" {
		t.Errorf("after the last: %v", n)
	}
	keys, err := w.store.List(t.Context(), "holds/"+finding.ID("pod", testcluster.Place.Project, testcluster.Place.Location, testcluster.Place.Cluster, string(pods[0].UID)))
	if err != nil || len(keys) != 0 {
		t.Errorf("left on record: %v, %v", keys, err)
	}
}

// anothersWord: a node in an attacker's hands names another node's pod. That node's
// sensor knows nothing of it, so nothing is done.
func anothersWord(t *testing.T, w, sensors *world) {
	ns := w.Namespace("anothers")
	pods := w.Deploy(testcluster.Deployment(ns, "web", "node-1", 4))
	c := w.container(usualGuards())
	told := func(pod corev1.Pod) finding.Finding {
		f := about(pod)
		f.Sensor = &finding.Sensor{}
		return f
	}
	sensors.mu.Lock()
	sensors.strange = string(pods[0].UID) + "-app"
	sensors.mu.Unlock()
	for _, action := range []string{cases.Freeze, cases.Isolate, cases.Cordon, cases.Evict} {
		k := w.open(told(pods[0]), cases.Evidence, action)
		// The program is among the evidence already: that says nothing of this pod.
		n := k.claim(cases.Evidence, "")
		k.append(cases.KindActed, cases.Outcome{Claim: n, Action: cases.Evidence, Done: true})
		if a := k.act(c, action, ""); a.Done || !strings.Contains(a.Error, "detected nothing in container") {
			t.Errorf("%s on another node's word: %+v", action, a)
		}
	}
	now := w.pod(pods[0])
	if now.Labels[cluster.QuarantineLabel] != "" || now.DeletionTimestamp != nil || nodeOf(w, "node-1").Spec.Unschedulable {
		t.Error("something was done to it")
	}
	before := sensors.orders("inspect")
	k := w.open(told(pods[1]), cases.Isolate, cases.Cordon)
	if a := k.act(c, cases.Isolate, ""); !a.Done || !a.Confirmed || sensors.orders("inspect") != before+1 {
		t.Errorf("its own sensor confirms: %+v", a)
	}
	if a := k.act(c, cases.Cordon, ""); !a.Done || sensors.orders("inspect") != before+1 {
		t.Errorf("asked again what is confirmed: %+v", a)
	}
	click := k.press(cases.ActionRelease)
	for _, undo := range []string{cases.Uncordon, cases.Release} {
		k.act(c, undo, click)
	}
	// It is asked about the very program.
	sensors.mu.Lock()
	confirm := slices.DeleteFunc(slices.Clone(sensors.asked), func(o sensorapi.Order) bool { return !strings.HasSuffix(o.ID, ".confirm") })
	sensors.unwell = "the spool cannot be read"
	sensors.mu.Unlock()
	if len(confirm) == 0 || slices.ContainsFunc(confirm, func(o sensorapi.Order) bool { return o.SHA256 != hashThatRan }) {
		t.Errorf("asked %+v", confirm)
	}
	// A sensor that cannot say confirms nothing; it is asked again.
	well := w.Deploy(testcluster.Deployment(ns, "well", "node-1", 2)) // of web one goes now
	k = w.open(told(well[0]), cases.Isolate)
	if a := k.act(c, cases.Isolate, ""); a.Done || a.Confirmed || a.RetryAt.IsZero() || !strings.Contains(a.Error, "cannot confirm") {
		t.Errorf("a sensor that cannot say: %+v", a)
	}
	sensors.mu.Lock()
	sensors.unwell = ""
	sensors.mu.Unlock()
	if a := k.act(c, cases.Isolate, ""); !a.Done || !a.Confirmed {
		t.Errorf("it can again: %+v", a)
	}
}

// frozenServeNobody: a frozen pod that counts as ready leaves its owner fewer than it
// seems.
func frozenServeNobody(t *testing.T, w *world) {
	ns := w.Namespace("few")
	pods := w.Deploy(testcluster.Deployment(ns, "web", "node-1", 2))
	c := w.container(usualGuards()) // half of them must stay
	first := w.open(about(pods[0]), cases.Freeze)
	if a := first.act(c, cases.Freeze, ""); !a.Done {
		t.Fatalf("%+v", a)
	}
	second := w.open(about(pods[1]), cases.Freeze)
	if a := second.act(c, cases.Freeze, ""); a.Done || !strings.Contains(a.Error, "would have 0 of 2 replicas ready") || a.RetryAt.IsZero() {
		t.Errorf("the last one that serves: %+v", a)
	}
	again := w.open(about(pods[0]), cases.Freeze) // it is the same pod, and no fewer serve
	if a := again.act(c, cases.Freeze, ""); !a.Done {
		t.Errorf("another case of the frozen pod: %+v", a)
	}
	first.act(c, cases.Thaw, first.press(cases.ActionRelease))
	if a := second.act(c, cases.Freeze, ""); a.Done {
		t.Errorf("one of two cases has released the first pod: %+v", a)
	}
	again.act(c, cases.Thaw, again.press(cases.ActionRelease))
	if a := second.act(c, cases.Freeze, ""); !a.Done {
		t.Errorf("the first is thawed: %+v", a)
	}
	// The kubelet restarts it: it serves again, and the first can be frozen.
	now := w.pod(pods[1])
	now.Status.ContainerStatuses[0].ContainerID = "containerd://restarted"
	if _, err := w.Admin.CoreV1().Pods(ns).UpdateStatus(t.Context(), now, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if a := w.open(about(pods[0]), cases.Freeze).act(c, cases.Freeze, ""); !a.Done {
		t.Errorf("a freeze that was lost still counts: %+v", a)
	}
}

// isolatedAgain: what a pod was like before it was first isolated is what a release
// brings back, though somebody has taken the label off in between.
func isolatedAgain(t *testing.T, w *world) {
	ns := w.Namespace("twice")
	pods := w.Deploy(testcluster.Deployment(ns, "web", "node-2", 3))
	g := usualGuards()
	g.AllowKinds = []string{"Pod"} // its ReplicaSet has let it go
	c := w.container(g)
	k := w.open(about(pods[0]), cases.Isolate)
	if a := k.act(c, cases.Isolate, ""); !a.Done {
		t.Fatalf("%+v", a)
	}
	patch(t, w, pods[0], `{"metadata":{"labels":{"contraband.dev/quarantine":null}}}`)
	if a := k.act(c, cases.Isolate, k.press(cases.ActionExtend)); !a.Done || w.pod(pods[0]).Labels[cluster.QuarantineLabel] == "" {
		t.Fatalf("again: %+v, labels %v", a, w.pod(pods[0]).Labels)
	}
	if a := k.act(c, cases.Release, k.press(cases.ActionRelease)); !a.Done || !maps.Equal(w.pod(pods[0]).Labels, pods[0].Labels) {
		t.Errorf("%+v, labels %v, want %v", a, w.pod(pods[0]).Labels, pods[0].Labels)
	}
	if _, there := w.pod(pods[0]).Annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"]; there {
		t.Error("what we have annotated stays")
	}
}

// lies: a node's word about time is bounded by what was asked of it.
func lies(t *testing.T, w, sensors *world) {
	ns := w.Namespace("lies")
	pods := w.Deploy(testcluster.Deployment(ns, "web", "node-1", 4))
	c := w.container(usualGuards())
	for i, until := range []time.Time{time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), time.Date(1970, 1, 1, 0, 0, 1, 0, time.UTC)} {
		sensors.mu.Lock()
		sensors.until = until
		sensors.mu.Unlock()
		before := time.Now().Add(-time.Second)
		a := w.open(about(pods[i]), cases.Freeze).act(c, cases.Freeze, "")
		if !a.Done || a.At.Before(before) || a.At.After(time.Now()) || a.Until.After(time.Now().Add(time.Hour)) || a.Until.Before(a.At) {
			t.Errorf("at %s, until %s", a.At, a.Until)
		}
	}
	sensors.mu.Lock()
	sensors.until = time.Time{}
	sensors.mu.Unlock()
}

// budgets: so many pods an hour, and no more; a pod that has a place in them needs no
// other, and the next hour brings new ones.
func budgets(t *testing.T, w *world) {
	ns := w.Namespace("spent")
	pods := w.Deploy(testcluster.Deployment(ns, "web", "node-1", 4))
	other := w.Deploy(testcluster.Deployment(ns, "other", "node-1", 4))
	g := usualGuards()
	g.MaxContainmentsPerHour, g.MaxPerWorkloadPerHour, g.MinHealthyReplicas = 4, 2, "0" // one of the four is kept
	c := w.container(g)
	now := time.Now().Add(48 * time.Hour) // an hour in which no other test has contained anything
	c.Now = func() time.Time { return now }
	isolate := func(pod corev1.Pod) cases.Outcome {
		t.Helper()
		return w.open(about(pod), cases.Isolate).act(c, cases.Isolate, "")
	}
	for i, step := range []struct {
		pod  corev1.Pod
		want string // a part of the refusal
	}{
		{pods[0], ""}, {pods[1], ""}, {pods[2], "max_per_workload_per_hour"}, {pods[0], ""}, {other[0], ""}, {other[1], "max_containments_per_hour"},
	} {
		a := isolate(step.pod)
		if a.Done != (step.want == "") || !strings.Contains(a.Error, step.want) {
			t.Errorf("step %d: %+v, want %q", i, a, step.want)
		}
		if next := now.UTC().Truncate(time.Hour).Add(time.Hour); !a.Done && !a.RetryAt.After(next) {
			t.Errorf("step %d: tried again at %s, the next hour begins at %s", i, a.RetryAt, next)
		}
	}
	now = now.Add(time.Hour)
	if a := isolate(other[1]); !a.Done {
		t.Errorf("the next hour: %+v", a)
	}
}

// doneIsDone: what took effect is not reported as refused when the answer was lost and the
// guards would say otherwise by now.
func doneIsDone(t *testing.T, w *world) {
	ns := w.Namespace("lost")
	pods := w.Deploy(testcluster.Deployment(ns, "web", "node-2", 2))
	for _, action := range []string{cases.Freeze, cases.Isolate, cases.Cordon} {
		k := w.open(about(pods[0]), action)
		n := k.claim(action, "")
		lost := 0
		w.calls.set(func(_ int, r *http.Request, send func() (*http.Response, error)) (*http.Response, error) {
			resp, err := send()
			if err == nil && (r.Method == http.MethodPatch || strings.Contains(r.URL.Path, "containmentorders") && r.Method == http.MethodPost) {
				resp.Body.Close()
				lost++
				return nil, io.ErrUnexpectedEOF
			}
			return resp, err
		})
		_, err := w.container(usualGuards()).Execute(t.Context(), k.id, n)
		w.calls.set(nil)
		if err == nil || lost == 0 {
			t.Fatalf("%s: nothing was lost", action)
		}
		strict := usualGuards()
		strict.MinHealthyReplicas, strict.MaxContainmentsPerHour, strict.MaxPerWorkloadPerHour = "2", 0, 0
		a, err := w.container(strict).Execute(t.Context(), k.id, n)
		if err != nil || !a.Done {
			t.Errorf("%s took effect, and is told as %+v, %v", action, a, err)
		}
		k.append(cases.KindActed, a)
		// The hour's budget does not keep a hold from lasting longer.
		if action == cases.Freeze {
			if longer := k.act(w.container(strict), cases.Freeze, ""); !longer.Done {
				t.Errorf("to last longer: %+v", longer)
			}
		}
		if a := k.act(w.container(usualGuards()), cases.UndoOf(action), k.press(cases.ActionRelease)); !a.Done {
			t.Errorf("%s: %+v", cases.UndoOf(action), a)
		}
		w.Eventually("all are ready again", func() error {
			if n := len(w.Pods(ns, "app=web")); n != 2 {
				return fmt.Errorf("%d pods", n)
			}
			return nil
		})
	}
}

// openedAgain: whoever may edit pods can take the label off; that is detected and reported.
func openedAgain(t *testing.T, w *world) {
	ns := w.Namespace("reopened")
	pods := w.Deploy(testcluster.Deployment(ns, "web", "node-2", 3))
	k := w.open(about(pods[0]), cases.Isolate)
	k.act(w.container(usualGuards()), cases.Isolate, "")
	reader := enrich.Enricher{Clusters: w.Finder(testcluster.RespondUser, nil)}
	lost := func() cases.Lost {
		t.Helper()
		c, err := cases.Fold(k.id, k.file.Events())
		if err != nil {
			t.Fatal(err)
		}
		return reader.CheckHolds(t.Context(), c)
	}
	if l := lost(); l.Why != "" {
		t.Errorf("nobody has touched it: %+v", l)
	}
	label(t, w, pods[0], `{"selects":"something"}`)
	if l := lost(); l.Action != cases.Isolate || !strings.Contains(l.Why, "put labels on") {
		t.Errorf("another label: %+v", l)
	}
	label(t, w, pods[0], `{"selects":null}`)
	policies := w.Admin.NetworkingV1().NetworkPolicies(ns)
	if err := policies.Delete(t.Context(), cluster.QuarantinePolicy, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if l := lost(); l.Action != cases.Isolate || !strings.Contains(l.Why, "removed the quarantine policy") {
		t.Errorf("the policy is gone: %+v", l)
	}
	// It costs more than its siblings: the ReplicaSet, one over then, removes another.
	patch(t, w, pods[0], `{"metadata":{"labels":{"contraband.dev/quarantine":null,"app":"web"},"annotations":{"controller.kubernetes.io/pod-deletion-cost":"9"}}}`)
	l := lost()
	if l.Action != cases.Isolate || !strings.Contains(l.Why, "label off") {
		t.Errorf("the label is gone: %+v", l)
	}
	k.append(cases.KindLost, l)
	if a := k.act(w.container(usualGuards()), cases.Release, k.press(cases.ActionRelease)); !a.Done || !maps.Equal(w.pod(pods[0]).Labels, pods[0].Labels) {
		t.Errorf("released all the same: %+v", a)
	}
	// A container that was frozen, and ended more than once since.
	other := w.Deploy(testcluster.Deployment(ns, "other", "node-2", 2))[0] // of web one goes now
	f := w.open(about(other), cases.Freeze)
	if a := f.act(w.container(usualGuards()), cases.Freeze, ""); !a.Done {
		t.Fatalf("%+v", a)
	}
	c, err := cases.Fold(f.id, f.file.Events())
	if err != nil {
		t.Fatal(err)
	}
	if l := reader.CheckHolds(t.Context(), c); l.Why != "" {
		t.Errorf("it runs as it did: %+v", l)
	}
	c.Claims[0].ContainerID = "two-restarts-ago"
	if l := reader.CheckHolds(t.Context(), c); l.Action != "" || !strings.Contains(l.Why, "frozen no more") {
		t.Errorf("no container of the pod is the frozen one: %+v", l)
	}
}
