package contain_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/container/apiv1/containerpb"
	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/contraband-dev/contraband/internal/blobstore"
	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/contain"
	"github.com/contraband-dev/contraband/internal/contain/cluster"
	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/internal/policy/guards"
	"github.com/contraband-dev/contraband/internal/testenv/testcluster"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// TestOnRealControlPlane starts one control plane for all: it takes three seconds.
func TestOnRealControlPlane(t *testing.T) {
	w := newWorld(t, "node-1", "node-2")
	sub := func(name string, f func(*testing.T, *world)) {
		t.Run(name, func(t *testing.T) {
			f(t, w.in(t))
		})
	}
	sub("every action and its undoing", func(t *testing.T, m *world) { everyAction(t, m, w) })
	sub("guards", guardsOnCluster)
	sub("isolation that does not hold", func(t *testing.T, m *world) { notEnforced(t, m, w) })
	sub("an exhausted budget answers at once", exhaustedBudget)
	sub("dry run changes nothing", dryRun)
	sub("faults", func(t *testing.T, m *world) { faults(t, m, w) })
	sub("a successor is never touched", successors)
	sub("two cases hold one pod", func(t *testing.T, m *world) { twoCases(t, m, w) })
	sub("two cases release one pod at once", releasedAtOnce)
	sub("no sensor", noSensor)
	sub("a cordon on a finding's word", notOnAFindingsWord)
	sub("a freeze that comes too late", func(t *testing.T, m *world) { lateFreeze(t, m, w) })
	sub("undone in a dry run", undoneInADryRun)
	sub("what a sensor's token may do", sensorToken)
	sub("what is written on a pod is not believed", notBelieved)
	sub("what users had set comes back", usersOwn)
	sub("another node's word", func(t *testing.T, m *world) { anothersWord(t, m, w) })
	sub("frozen pods serve nobody", frozenServeNobody)
	sub("what is done is not refused", doneIsDone)
	sub("isolation that somebody opens", openedAgain)
	sub("isolated again", isolatedAgain)
	sub("a node that lies about time", func(t *testing.T, m *world) { lies(t, m, w) })
	sub("budgets are spent", budgets)
	sub("rights are exactly those used", rights) // last: it looks at all requests
}

func everyAction(t *testing.T, w, sensors *world) {
	ns := w.Namespace("every")
	pods := w.Deploy(testcluster.Deployment(ns, "web", "node-1", 3))
	w.ApplyYAML(`{"apiVersion":"v1","kind":"Service","metadata":{"name":"web","namespace":"every"},"spec":{"selector":{"app":"web"},"ports":[{"port":80,"targetPort":8080}]}}`)
	pod := pods[0]
	w.Eventually("the Service lists the pod", func() error { return listed(w, ns, pod.UID, true) })
	sensors.mu.Lock()
	cut := false
	sensors.reach = func(string, bool) bool { return !cut } // until the pod is labelled
	sensors.mu.Unlock()

	c := w.container(usualGuards())
	k := w.open(about(pod), cases.Freeze, cases.Evidence, cases.Isolate, cases.Cordon, cases.Evict)
	frozen := k.act(c, cases.Freeze, "")
	if !frozen.Done || frozen.Until.IsZero() || frozen.Processes != 2 {
		t.Errorf("freeze: %+v", frozen)
	}
	if _, err := w.Dynamic.Resource(orderResource).Namespace("contraband").Get(t.Context(), fmt.Sprintf("%s.%d", k.id, frozen.Claim), metav1.GetOptions{}); err != nil {
		t.Errorf("what is frozen does not show as an order: %v", err)
	}

	saved := k.act(c, cases.Evidence, "")
	if !saved.Done || saved.SHA256 != hashThatRan {
		t.Errorf("evidence: %+v", saved)
	}
	names := map[string]cases.Item{}
	for _, i := range saved.Items {
		names[i.Name] = i
	}
	for _, want := range []string{"binary", "pod.json", "owners.json", "events.json", "node.json", "processes-and-sockets.json"} {
		if i := names[want]; i.SHA256 == "" || i.Bytes == 0 || i.By == "" || i.At.IsZero() {
			t.Errorf("evidence %q: %+v", want, i)
		} else if body, err := w.store.Read(t.Context(), "evidence/"+i.SHA256); err != nil || int64(len(body)) != i.Bytes {
			t.Errorf("evidence %q is not there: %v", want, err)
		} else if strings.Contains(string(body), "correct-horse") {
			t.Errorf("evidence %q holds a password", want)
		}
	}
	if names["logs/app.txt"].Error == "" {
		t.Error("a simulated node has no logs: that they are missing is to be said")
	}

	go func() { // the stand-in for what enforces: the label cuts
		for range 200 {
			if p, err := w.Admin.CoreV1().Pods(ns).Get(t.Context(), pod.Name, metav1.GetOptions{}); err == nil && p.Labels[cluster.QuarantineLabel] != "" {
				sensors.mu.Lock()
				cut = true
				sensors.mu.Unlock()
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	}()
	isolated := k.act(c, cases.Isolate, "")
	if !isolated.Done || isolated.NotEnforced != "" || !strings.Contains(isolated.Verified, "no Service lists the pod") || !strings.Contains(isolated.Verified, "not any more") {
		t.Errorf("isolate: %+v", isolated)
	}
	now := w.pod(pod)
	if want := map[string]string{cluster.QuarantineLabel: k.id}; !maps.Equal(now.Labels, want) {
		t.Errorf("labels %v, want %v", now.Labels, want)
	}
	if err := listed(w, ns, pod.UID, false); err != nil {
		t.Error(err)
	}
	w.Eventually("a replacement comes up", func() error {
		if n := len(w.Pods(ns, "app=web")); n != 3 {
			return fmt.Errorf("%d pods", n)
		}
		return nil
	})

	cordoned := k.act(c, cases.Cordon, "")
	n := nodeOf(w, "node-1")
	if !cordoned.Done || !n.Spec.Unschedulable || n.Annotations["cluster-autoscaler.kubernetes.io/scale-down-disabled"] != "true" {
		t.Errorf("cordon: %+v, node %v", cordoned, n.Annotations)
	}
	if w.pod(pod).Annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"] != "false" {
		t.Error("the pod is not protected from the autoscaler")
	}

	click := k.press(cases.ActionRelease)
	for _, undo := range []string{cases.Uncordon, cases.Release, cases.Thaw} {
		if a := k.act(c, undo, click); !a.Done {
			t.Errorf("%s: %+v", undo, a)
		}
	}
	if n := nodeOf(w, "node-1"); n.Spec.Unschedulable || n.Annotations["cluster-autoscaler.kubernetes.io/scale-down-disabled"] != "" || n.Annotations["contraband.dev/cordon"] != "" {
		t.Errorf("uncordon left %v, unschedulable %v", n.Annotations, n.Spec.Unschedulable)
	}
	now = w.pod(pod)
	if !maps.Equal(now.Labels, pod.Labels) {
		t.Errorf("labels after release %v, want %v", now.Labels, pod.Labels)
	}
	w.Eventually("the ReplicaSet adopts it and is not one over, and the released pod stays", func() error {
		all := w.Pods(ns, "app=web")
		if len(all) != 3 || !slices.ContainsFunc(all, func(p corev1.Pod) bool { return p.UID == pod.UID && len(p.OwnerReferences) == 1 }) {
			return fmt.Errorf("%d pods", len(all))
		}
		return nil
	})
	left, err := w.Dynamic.Resource(orderResource).Namespace("contraband").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(left.Items) != 0 {
		t.Errorf("orders left after the release: %v, %v", err, len(left.Items))
	}

	// One of them went when the released pod made one too many.
	others := slices.DeleteFunc(w.Pods(ns, "app=web"), func(p corev1.Pod) bool { return p.UID == pod.UID })
	other, third := others[0], others[1]
	k2 := w.open(about(other), cases.Evidence, cases.Evict)
	k2.act(c, cases.Evidence, "")
	if a := k2.act(c, cases.Evict, ""); !a.Done || a.Verified == "" {
		t.Errorf("evict: %+v", a)
	}
	w.Eventually("the evicted pod is gone", func() error { return gone(w, other) })
	k3 := w.open(about(third), cases.Evidence, cases.Delete)
	if a := k3.act(c, cases.Delete, ""); a.Done || !strings.Contains(a.Error, "no evidence is saved") {
		t.Errorf("delete before evidence: %+v", a)
	}
	k3.act(c, cases.Evidence, "")
	if a := k3.act(c, cases.Delete, ""); !a.Done {
		t.Errorf("delete: %+v", a)
	}
	w.Eventually("the deleted pod is gone", func() error { return gone(w, third) })
}

var orderResource = contain.OrderResource

func listed(w *world, ns string, uid types.UID, want bool) error {
	list, err := w.Admin.DiscoveryV1().EndpointSlices(ns).List(w.t.Context(), metav1.ListOptions{})
	if err != nil {
		return err
	}
	found := false
	for _, s := range list.Items {
		for _, e := range s.Endpoints {
			found = found || e.TargetRef != nil && e.TargetRef.UID == uid
		}
	}
	if found != want {
		return fmt.Errorf("pod %s among the endpoints: %v, want %v", uid, found, want)
	}
	return nil
}

func nodeOf(w *world, name string) *corev1.Node {
	w.t.Helper()
	n, err := w.Admin.CoreV1().Nodes().Get(w.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

func gone(w *world, pod corev1.Pod) error {
	now, err := w.Admin.CoreV1().Pods(pod.Namespace).Get(w.t.Context(), pod.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && now.UID != pod.UID {
		return nil
	}
	return errors.Join(err, errors.New("it is there"))
}

// guardsOnCluster: what the log says and what the API server says must both allow.
func guardsOnCluster(t *testing.T, outer *world) {
	w := outer
	ns := w.Namespace("guarded")
	pods := w.Deploy(testcluster.Deployment(ns, "web", "node-1", 2))
	w.ApplyYAML(`{"apiVersion":"policy/v1","kind":"PodDisruptionBudget","metadata":{"name":"db","namespace":"guarded"},"spec":{"minAvailable":2,"selector":{"matchLabels":{"app":"db"}}}}`)
	db := w.Deploy(testcluster.Deployment(ns, "db", "node-1", 2))
	// A workload each: after a release the ReplicaSet is one over, and which of its pods it then removes is its choice.
	well := w.Deploy(testcluster.Deployment(ns, "well", "node-1", 2))
	labelled := w.Deploy(testcluster.Deployment(ns, "labelled", "node-1", 2))
	bare := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "bare", Namespace: ns}, Spec: testcluster.PodSpec("node-1", 1)}
	made := map[string]corev1.Pod{} // a mirror pod only a kubelet may make: internal/policy's table has it
	for _, p := range []corev1.Pod{bare} {
		if _, err := w.Admin.CoreV1().Pods(ns).Create(t.Context(), &p, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		w.Eventually(p.Name+" runs", func() error {
			now := w.pod(p)
			made[p.Name] = *now
			if len(now.Status.ContainerStatuses) == 0 {
				return errors.New("no status")
			}
			return nil
		})
	}
	system := w.Deploy(testcluster.Deployment("kube-system", "dns", "node-1", 2))
	sensors := w.Pods("contraband", "app.kubernetes.io/name=contraband-sensor")

	for name, c := range map[string]struct {
		pod    corev1.Pod
		change func(k *kase, g *guards.Guards)
		finds  func(f findingPointer)
		want   string // a part of the refusal; "" when it is done
	}{
		"nothing wrong":                {pod: well[0]},
		"another node":                 {pod: pods[0], finds: func(f findingPointer) { f.Node = "node-2" }, want: `runs on node "node-1"`},
		"another container":            {pod: pods[0], finds: func(f findingPointer) { f.Container.ID = "elsewhere" }, want: "knows no container"},
		"a successor":                  {pod: pods[0], finds: func(f findingPointer) { f.Pod.UID = "00000000-0000-0000-0000-000000000000" }, want: "is gone"},
		"neither UID nor container":    {pod: pods[0], finds: func(f findingPointer) { f.Pod.UID, f.Container.ID = "", "" }, want: "neither the pod's UID nor a container"},
		"a pod that is not there":      {pod: pods[0], finds: func(f findingPointer) { f.Pod.Name = "nobody" }, want: "is gone"},
		"protected namespace":          {pod: system[0], want: "protected"},
		"a DaemonSet":                  {pod: sensors[0], change: func(_ *kase, g *guards.Guards) { g.Namespaces = []string{} }, want: "system priority"},
		"a label of the control plane": {pod: labelled[0], change: func(*kase, *guards.Guards) { label(t, w, labelled[0], `{"tier":"control-plane"}`) }},
		"a bare pod":                   {pod: made["bare"], want: "nothing replaces a pod of kind Pod"},
		"a bare pod, opted in":         {pod: made["bare"], change: func(_ *kase, g *guards.Guards) { g.AllowKinds = []string{"Pod"} }},
		"too few left":                 {pod: pods[1], change: func(_ *kase, g *guards.Guards) { g.MinHealthyReplicas = "2" }, want: "would have 1 of 2 replicas ready"},
		"a disruption budget":          {pod: db[0], want: `disruption budget "db"`},
		"a spent hour":                 {pod: pods[1], change: func(_ *kase, g *guards.Guards) { g.MaxContainmentsPerHour = 0 }, want: "max_containments_per_hour"},
		"a spent workload":             {pod: pods[1], change: func(_ *kase, g *guards.Guards) { g.MaxPerWorkloadPerHour = 0 }, want: "max_per_workload_per_hour"},
		"a cluster that nobody serves": {pod: pods[0], finds: func(f findingPointer) { f.Cluster = "elsewhere" }, want: "not found"},
	} {
		t.Run(name, func(t *testing.T) {
			w := outer.in(t)
			g := usualGuards()
			f := about(c.pod)
			if c.finds != nil {
				c.finds(&f)
			}
			k := w.open(f, cases.Isolate)
			if c.change != nil {
				c.change(k, &g)
			}
			acted := k.act(w.container(g), cases.Isolate, "")
			if acted.Done != (c.want == "") || !strings.Contains(acted.Error, c.want) {
				t.Fatalf("%+v, want %q", acted, c.want)
			}
			if c.want == "" {
				if a := k.act(w.container(g), cases.Release, k.press(cases.ActionRelease)); !a.Done {
					t.Fatalf("release: %+v", a)
				}
				w.Eventually("it is ready again", func() error {
					if w.pod(c.pod).Labels[cluster.QuarantineLabel] != "" {
						return errors.New("labelled")
					}
					return nil
				})
			} else if now := w.pod(c.pod); now.Labels[cluster.QuarantineLabel] != "" {
				t.Error("refused, and labelled all the same")
			}
		})
	}

}

// notEnforced: where nothing enforces, it says so instead of pretending.
func notEnforced(t *testing.T, w, sensors *world) {
	ns := w.Namespace("open")
	pods := w.Deploy(testcluster.Deployment(ns, "web", "node-1", 8))
	c := w.container(usualGuards())
	isolate := func(i int) cases.Outcome { return w.open(about(pods[i]), cases.Isolate).act(c, cases.Isolate, "") }

	sensors.mu.Lock()
	sensors.reach = func(string, bool) bool { return true } // labels or not
	sensors.mu.Unlock()
	if a := isolate(0); !a.Done || !strings.Contains(a.NotEnforced, "can still be reached at") && !strings.Contains(a.NotEnforced, "still reaches") {
		t.Errorf("the probe goes through: %+v", a)
	}
	sensors.mu.Lock()
	sensors.reach = nil
	sensors.mu.Unlock()
	if a := isolate(1); !a.Done || a.NotEnforced != "" || !strings.Contains(a.Unverified, "Dataplane V2") {
		t.Errorf("nothing could be tried: %+v", a)
	}
	w.ApplyYAML(`{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{"name":"all","namespace":"open"},"spec":{"podSelector":{},"policyTypes":["Ingress"],"ingress":[{}]}}`)
	theirs := policyOf(t, w, ns, "all")
	if a := isolate(2); !a.Done || !strings.Contains(a.NotEnforced, `"all" selects every pod`) {
		t.Errorf("a user's policy selects all: %+v", a)
	}
	if after := policyOf(t, w, ns, "all"); after.Generation != 1 || after.ResourceVersion != theirs.ResourceVersion {
		t.Error("a user's policy was touched")
	}
	w.Describe(func(c *containerpb.Cluster) {
		c.NetworkConfig.DatapathProvider = containerpb.DatapathProvider_LEGACY_DATAPATH
	})
	defer w.Describe(func(c *containerpb.Cluster) {
		c.NetworkConfig.DatapathProvider = containerpb.DatapathProvider_ADVANCED_DATAPATH
	})
	legacy := w.container(usualGuards())
	k := w.openWith(about(pods[3]), cases.Decision{Rule: "test", Do: []string{cases.Evidence, cases.Isolate}, Fallback: []string{cases.Evict}})
	k.act(legacy, cases.Evidence, "")
	if a := k.act(legacy, cases.Evict, ""); a.Done || !strings.Contains(a.Error, "does not include") {
		t.Errorf("otherwise, without trouble: %+v", a)
	}
	if a := k.act(legacy, cases.Isolate, ""); !a.Done || !strings.Contains(a.NotEnforced, "by its own description") {
		t.Errorf("by its description: %+v", a)
	}
	if a := k.act(legacy, cases.Evict, ""); !a.Done {
		t.Errorf("otherwise: %+v", a)
	}
	// Ours, changed by somebody: never overwritten, and never relied on.
	if err := w.Admin.NetworkingV1().NetworkPolicies(ns).Delete(t.Context(), cluster.QuarantinePolicy, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.ApplyYAML(`{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{"name":"contraband-quarantine","namespace":"open"},"spec":{"podSelector":{},"policyTypes":["Egress"]}}`)
	if a := isolate(4); a.Done || !strings.Contains(a.Error, "not as we make it") || a.NotEnforced == "" {
		t.Errorf("a policy of our name: %+v", a)
	}
	if w.pod(pods[4]).Labels[cluster.QuarantineLabel] != "" {
		t.Error("labelled without a policy")
	}
}

func policyOf(t *testing.T, w *world, ns, name string) *networkingv1.NetworkPolicy {
	t.Helper()
	p, err := w.Admin.NetworkingV1().NetworkPolicies(ns).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// exhaustedBudget: client-go would wait for a hundred seconds, silently.
func exhaustedBudget(t *testing.T, w *world) {
	ns := w.Namespace("budget")
	pods := w.Deploy(testcluster.Deployment(ns, "web", "node-1", 3))
	most := intstr.FromInt32(0)
	_, err := w.Admin.PolicyV1().PodDisruptionBudgets(ns).Create(t.Context(), &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: "none"}, Spec: policyv1.PodDisruptionBudgetSpec{MaxUnavailable: &most, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	k := w.open(about(pods[0]), cases.Evidence, cases.Evict)
	c := w.container(usualGuards())
	k.act(c, cases.Evidence, "")
	asked := w.calls.of("create pods/eviction")
	began := time.Now()
	a := k.act(c, cases.Evict, "")
	t.Logf("an eviction that a budget forbids is answered in %s", time.Since(began).Round(time.Millisecond))
	if n := w.calls.of("create pods/eviction") - asked; n != 1 { // each more is ten seconds of the client's own waiting
		t.Errorf("the API server was asked %d times", n)
	}
	if a.Done || a.RetryAt.IsZero() || !strings.Contains(a.Error, "not yet") {
		t.Errorf("%+v", a)
	}
	if err := w.Admin.PolicyV1().PodDisruptionBudgets(ns).Delete(t.Context(), "none", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"one", "two"} { // the API server knows no way with two, however much they allow
		if _, err := w.Admin.PolicyV1().PodDisruptionBudgets(ns).Create(t.Context(), &policyv1.PodDisruptionBudget{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}},
		}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if a := k.act(c, cases.Evict, ""); a.Done || !a.RetryAt.IsZero() || !strings.Contains(a.Error, "more than one") {
		t.Errorf("two budgets: %+v", a)
	}
	for _, name := range []string{"one", "two"} {
		if err := w.Admin.PolicyV1().PodDisruptionBudgets(ns).Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if a := k.act(c, cases.Evict, ""); !a.Done {
		t.Errorf("without the budget: %+v", a)
	}
}

func dryRun(t *testing.T, w *world) {
	ns := w.Namespace("dry")
	pods := w.Deploy(testcluster.Deployment(ns, "web", "node-2", 3))
	g := usualGuards()
	g.DryRun = true
	c := w.container(g)
	k := w.open(about(pods[0]), cases.Freeze, cases.Evidence, cases.Isolate, cases.Cordon, cases.Evict)
	k.act(c, cases.Evidence, "")
	k.append(cases.KindActed, cases.Outcome{Claim: 1, Action: cases.Evidence, Done: true})
	for _, action := range []string{cases.Freeze, cases.Isolate, cases.Cordon, cases.Evict} {
		if a := k.act(c, action, ""); a.Done || !strings.Contains(a.Error, "dry run") {
			t.Errorf("%s: %+v", action, a)
		}
	}
	now := w.pod(pods[0])
	if !maps.Equal(now.Labels, pods[0].Labels) || now.DeletionTimestamp != nil || nodeOf(w, "node-2").Spec.Unschedulable {
		t.Error("a dry run has changed something")
	}
	if _, err := w.Admin.NetworkingV1().NetworkPolicies(ns).Get(t.Context(), cluster.QuarantinePolicy, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a dry run has made a policy: %v", err)
	}
}

// faults: each write of each action is refused, is never answered, or is applied
// and its answer is lost; the same claim again must come to the same end.
func faults(t *testing.T, outer, _ *world) {
	for kind, fault := range map[string]func(send func() (*http.Response, error)) (*http.Response, error){
		"connection refused": func(func() (*http.Response, error)) (*http.Response, error) {
			return nil, errors.New("dial tcp: connection refused")
		},
		"time-out": func(func() (*http.Response, error)) (*http.Response, error) { return nil, os.ErrDeadlineExceeded },
		"unavailable": func(send func() (*http.Response, error)) (*http.Response, error) {
			return &http.Response{StatusCode: http.StatusServiceUnavailable, Body: io.NopCloser(strings.NewReader("")), Header: http.Header{}}, nil
		},
		"applied, answer lost": func(send func() (*http.Response, error)) (*http.Response, error) {
			resp, err := send()
			if err == nil {
				resp.Body.Close()
			}
			return nil, io.ErrUnexpectedEOF
		},
	} {
		t.Run(kind, func(t *testing.T) {
			w := outer.in(t)
			ns := w.Namespace("fault-" + strings.NewReplacer(" ", "", ",", "").Replace(kind))
			d := testcluster.Deployment(ns, "web", "node-2", 12)
			pods := w.Deploy(d)
			g := usualGuards()
			g.MinHealthyReplicas = "0"
			for _, action := range []string{cases.Evidence, cases.Freeze, cases.Isolate, cases.Cordon} {
				undone := w.Deploy(testcluster.Deployment(ns, "undo-"+action, "node-2", 2))[0]
				for nth := 1; nth <= 3 && w.undoingFaultOnce(t, action, undone, g, nth, fault); nth++ {
				}
			}
			for i, action := range []string{cases.Freeze, cases.Isolate, cases.Cordon, cases.Evict, cases.Delete} {
				for nth := 1; nth <= 3; nth++ {
					pod := pods[(i*3+nth-1)%len(pods)]
					if p, err := w.Admin.CoreV1().Pods(ns).Get(t.Context(), pod.Name, metav1.GetOptions{}); err != nil || p.Labels["app"] == "" {
						continue
					}
					hit := w.faultOnce(t, action, pod, g, nth, fault)
					if !hit {
						break // the action has fewer writes
					}
				}
			}
		})
	}

}

// seenThrough claims an action, has its nth write fail, and brings it again, as Pub/Sub
// would, to other instances; hit reports whether there was such a write.
func (k *kase) seenThrough(w *world, action, click string, g guards.Guards, nth int, fault func(func() (*http.Response, error)) (*http.Response, error)) (acted cases.Outcome, hit bool, err error) {
	w.t.Helper()
	w.calls.set(func(n int, _ *http.Request, send func() (*http.Response, error)) (*http.Response, error) {
		if n == nth {
			hit = true
			return fault(send)
		}
		return send()
	})
	defer w.calls.set(nil)
	n := k.claim(action, click)
	for range 5 {
		if acted, err = w.container(g).Execute(w.t.Context(), k.id, n); err == nil {
			break
		}
	}
	return acted, hit, err
}

// faultOnce has the nth write of an action fail, and sees it through; it answers
// whether there was such a write.
func (w *world) faultOnce(t *testing.T, action string, pod corev1.Pod, g guards.Guards, nth int, fault func(func() (*http.Response, error)) (*http.Response, error)) bool {
	t.Helper()
	k := w.open(about(pod), cases.Evidence, action)
	k.append(cases.KindClaimed, cases.Claimed{Action: cases.Evidence})
	k.append(cases.KindActed, cases.Outcome{Claim: 1, Action: cases.Evidence, Done: true})
	acted, hit, err := k.seenThrough(w, action, "", g, nth, fault)
	if err != nil || !acted.Done {
		t.Errorf("%s, write %d: %+v, %v", action, nth, acted, err)
		return hit
	}
	now, getErr := w.Admin.CoreV1().Pods(pod.Namespace).Get(t.Context(), pod.Name, metav1.GetOptions{})
	switch action {
	case cases.Isolate:
		if getErr != nil || now.Labels[cluster.QuarantineLabel] != k.id || len(now.Labels) != 1 {
			t.Errorf("isolate, write %d: labels %v, %v", nth, now.Labels, getErr)
		}
	case cases.Cordon:
		if !nodeOf(w, pod.Spec.NodeName).Spec.Unschedulable {
			t.Errorf("cordon, write %d: the node takes pods", nth)
		}
		k.append(cases.KindActed, acted)
		if a := k.act(w.container(g), cases.Uncordon, k.press(cases.ActionRelease)); !a.Done || nodeOf(w, pod.Spec.NodeName).Spec.Unschedulable {
			t.Errorf("uncordon: %+v", a)
		}
	case cases.Evict, cases.Delete:
		if getErr == nil && now.UID == pod.UID && now.DeletionTimestamp == nil {
			t.Errorf("%s, write %d: the pod stays", action, nth)
		}
	}
	return hit
}

// undoingFaultOnce has the nth write of what undoes an action fail, or of the evidence,
// which nothing undoes, and carries it out; it reports whether there was such a write.
func (w *world) undoingFaultOnce(t *testing.T, action string, pod corev1.Pod, g guards.Guards, nth int, fault func(func() (*http.Response, error)) (*http.Response, error)) bool {
	t.Helper()
	w.Eventually("its ReplicaSet has it, again", func() error {
		if n := len(w.Pods(pod.Namespace, "app="+pod.Labels["app"])); n != 2 || len(w.pod(pod).OwnerReferences) != 1 {
			return fmt.Errorf("%d pods", n)
		}
		return nil
	})
	k := w.open(about(pod), action)
	what, click := action, ""
	if undo := cases.UndoOf(action); undo != "" {
		if a := k.act(w.container(g), action, ""); !a.Done {
			t.Fatalf("%s: %+v", action, a)
		}
		what, click = undo, k.press(cases.ActionRelease)
	}
	acted, hit, err := k.seenThrough(w, what, click, g, nth, fault)
	if err != nil || !acted.Done {
		t.Errorf("%s, write %d: %+v, %v", what, nth, acted, err)
	}
	now := w.pod(pod)
	if now.Labels[cluster.QuarantineLabel] != "" || now.Labels["app"] != pod.Labels["app"] || nodeOf(w, pod.Spec.NodeName).Spec.Unschedulable {
		t.Errorf("%s, write %d: labels %v, unschedulable %v", what, nth, now.Labels, nodeOf(w, pod.Spec.NodeName).Spec.Unschedulable)
	}
	if action == cases.Evidence && acted.SHA256 != hashThatRan {
		t.Errorf("evidence, write %d: %+v", nth, acted)
	}
	keys, err := w.store.List(t.Context(), "holds/"+finding.ID("pod", testcluster.Place.Project, testcluster.Place.Location, testcluster.Place.Cluster, string(pod.UID)))
	if err != nil || len(keys) != 0 {
		t.Errorf("%s, write %d: left on record: %v, %v", what, nth, keys, err)
	}
	return hit
}

// successors: a StatefulSet's pods have successors of the same name. Whatever is
// attempted while one takes the other's place, the new one is never touched.
func successors(t *testing.T, w *world) {
	ns := w.Namespace("successor")
	one, l := int32(1), map[string]string{"app": "db"}
	_, err := w.Admin.AppsV1().StatefulSets(ns).Create(t.Context(), &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "db"}, Spec: appsv1.StatefulSetSpec{
		Replicas: &one, Selector: &metav1.LabelSelector{MatchLabels: l}, Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: l}, Spec: testcluster.PodSpec("node-2", 0)},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	g := usualGuards()
	g.AllowKinds, g.MinHealthyReplicas = []string{"StatefulSet"}, "0"
	var old types.UID
	for round := range 12 {
		var pod corev1.Pod
		w.Eventually("the pod db-0 runs", func() error {
			all := w.Pods(ns, "app=db")
			if len(all) != 1 || all[0].UID == old {
				return fmt.Errorf("%d pods", len(all))
			}
			pod = all[0]
			return nil
		})
		old = pod.UID
		action := []string{cases.Isolate, cases.Evict, cases.Delete}[round%3]
		k := w.open(about(pod), cases.Evidence, action)
		k.append(cases.KindClaimed, cases.Claimed{Action: cases.Evidence})
		k.append(cases.KindActed, cases.Outcome{Claim: 1, Action: cases.Evidence, Done: true})
		// At the moment of the write the pod is replaced: after every look at it.
		w.calls.set(func(_ int, r *http.Request, send func() (*http.Response, error)) (*http.Response, error) {
			if strings.Contains(r.URL.Path, "/pods/") {
				zero := int64(0)
				if err := w.Admin.CoreV1().Pods(ns).Delete(t.Context(), pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &zero}); err != nil && !apierrors.IsNotFound(err) {
					t.Errorf("replace the pod: %v", err)
				}
				w.Eventually("the successor runs", func() error {
					all := w.Pods(ns, "app=db")
					if len(all) != 1 || all[0].UID == pod.UID {
						return errors.New("not yet")
					}
					return nil
				})
			}
			return send()
		})
		acted, err := w.container(g).Execute(t.Context(), k.id, k.claim(action, ""))
		w.calls.set(nil)
		if err != nil || !acted.TargetGone {
			t.Errorf("%s: %+v, %v: it should say that the pod is gone", action, acted, err)
		}
		all := w.Pods(ns, "app=db")
		if len(all) != 1 || all[0].UID == pod.UID || all[0].DeletionTimestamp != nil || all[0].Labels[cluster.QuarantineLabel] != "" {
			t.Fatalf("%s touched the successor: %+v", action, all)
		}
	}
}

// twoCases: what one releases stays isolated for the other.
func twoCases(t *testing.T, w, _ *world) {
	ns := w.Namespace("two")
	pods := w.Deploy(testcluster.Deployment(ns, "web", "node-1", 3))
	c := w.container(usualGuards())
	a, b := w.open(about(pods[0]), cases.Isolate, cases.Cordon), w.open(about(pods[0]), cases.Isolate, cases.Cordon)
	for _, k := range []*kase{a, b} {
		for _, action := range []string{cases.Isolate, cases.Cordon} {
			if acted := k.act(c, action, ""); !acted.Done {
				t.Fatalf("%s: %+v", action, acted)
			}
		}
	}
	release := func(k *kase) (notes []string) {
		click := k.press(cases.ActionRelease)
		for _, undo := range []string{cases.Uncordon, cases.Release} {
			acted := k.act(c, undo, click)
			if !acted.Done {
				t.Errorf("%s: %+v", undo, acted)
			}
			notes = append(notes, acted.Notes...)
		}
		return notes
	}
	if notes := release(a); !has(notes, "stays isolated") || !has(notes, "stays cordoned") {
		t.Errorf("notes %q", notes)
	}
	if w.pod(pods[0]).Labels["app"] != "" || !nodeOf(w, "node-1").Spec.Unschedulable {
		t.Error("the first release released what the second case holds")
	}
	if notes := release(b); !has(notes, "another of its pods goes") {
		t.Errorf("notes %q", notes)
	}
	if w.pod(pods[0]).Labels["app"] != "web" || nodeOf(w, "node-1").Spec.Unschedulable {
		t.Error("the second release left something")
	}
	// A node that somebody else has cordoned stays so.
	if _, err := w.Admin.CoreV1().Nodes().Patch(t.Context(), "node-1", types.MergePatchType, []byte(`{"spec":{"unschedulable":true}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	other := w.Deploy(testcluster.Deployment(ns, "other", "node-1", 1))[0] // of web one goes now
	k := w.open(about(other), cases.Cordon)
	if acted := k.act(c, cases.Cordon, ""); !acted.Done || !has(acted.Notes, "somebody else") {
		t.Errorf("cordon of a cordoned node: %+v", acted)
	}
	if acted := k.act(c, cases.Uncordon, k.press(cases.ActionRelease)); !acted.Done || !nodeOf(w, "node-1").Spec.Unschedulable {
		t.Errorf("uncordon took somebody else's cordon: %+v", acted)
	}
	if _, err := w.Admin.CoreV1().Nodes().Patch(t.Context(), "node-1", types.MergePatchType, []byte(`{"spec":{"unschedulable":null}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
}

// meeting has two that let go of a hold wait for each other.
type meeting struct {
	blobstore.Store
	here chan struct{}
}

func (m *meeting) Delete(ctx context.Context, key string) error {
	if strings.HasPrefix(key, "holds/") {
		select {
		case m.here <- struct{}{}:
		case <-m.here:
		case <-time.After(2 * time.Second): // the other will not come
		}
	}
	return m.Store.Delete(ctx, key)
}

// releasedAtOnce: two cases let go of a pod at the same moment, each after it has seen
// the other; none leaves it to the other.
func releasedAtOnce(t *testing.T, w *world) {
	ns := w.Namespace("atonce")
	c := w.container(usualGuards())
	for round := range 3 {
		pod := w.Deploy(testcluster.Deployment(ns, fmt.Sprintf("web%d", round), "node-2", 2))[0]
		both := []*kase{w.open(about(pod), cases.Isolate), w.open(about(pod), cases.Isolate)}
		for _, k := range both {
			if a := k.act(c, cases.Isolate, ""); !a.Done {
				t.Fatalf("%+v", a)
			}
		}
		log := *w.log
		log.Objects = &meeting{Store: log.Objects, here: make(chan struct{})}
		atOnce := w.container(usualGuards())
		atOnce.Log = &log
		var g errgroup.Group
		for _, k := range both {
			n := k.claim(cases.Release, k.press(cases.ActionRelease))
			g.Go(func() error {
				a, err := atOnce.Execute(t.Context(), k.id, n)
				if err == nil && !a.Done {
					err = errors.New(a.Error)
				}
				return err
			})
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		if now := w.pod(pod); now.Labels["app"] == "" || now.Labels[cluster.QuarantineLabel] != "" {
			t.Fatalf("round %d: released by both, and its labels are %v", round, now.Labels)
		}
	}
}

// noSensor: an order that nobody takes is taken back, and said to be untaken.
func noSensor(t *testing.T, w *world) {
	ns := w.Namespace("nosensor")
	w.ApplyYAML(`{"apiVersion":"v1","kind":"Node","metadata":{"name":"node-9","labels":{"kubernetes.io/os":"windows"}}}`)
	pods := w.Deploy(testcluster.Deployment(ns, "web", "node-9", 2))
	c := w.container(usualGuards())
	c.Patience = 500 * time.Millisecond
	a := w.open(about(pods[0]), cases.Freeze).act(c, cases.Freeze, "")
	if a.Done || a.RetryAt.IsZero() || !strings.Contains(a.Error, `sensor of node "node-9" has not taken the order`) {
		t.Errorf("%+v", a)
	}
	left, err := w.Dynamic.Resource(orderResource).Namespace("contraband").List(t.Context(), metav1.ListOptions{LabelSelector: "contraband.dev/node=node-9"})
	if err != nil || len(left.Items) != 0 {
		t.Errorf("an order that was given up is still there: %v, %v", left, err)
	}
}

// notOnAFindingsWord: a finding of a pod that is not there cordons nothing: a node in
// an attacker's hands could name any other.
func notOnAFindingsWord(t *testing.T, w *world) {
	pod := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "nobody", UID: "00000000-0000-0000-0000-000000000001"}, Spec: testcluster.PodSpec("node-2", 1)}
	if a := w.open(about(pod), cases.Cordon).act(w.container(usualGuards()), cases.Cordon, ""); a.Done || nodeOf(w, "node-2").Spec.Unschedulable {
		t.Errorf("%+v", a)
	}
}

// lateFreeze: a sensor that is so slow that its order was given up undoes what it did.
func lateFreeze(t *testing.T, w, sensors *world) {
	ns := w.Namespace("late")
	pods := w.Deploy(testcluster.Deployment(ns, "web", "node-1", 2))
	sensors.mu.Lock()
	sensors.slow = time.Second
	sensors.mu.Unlock()
	c := w.container(usualGuards())
	c.Patience = 300 * time.Millisecond
	k := w.open(about(pods[0]), cases.Freeze)
	if a := k.act(c, cases.Freeze, ""); a.Done || !strings.Contains(a.Error, "has not taken the order") {
		t.Errorf("%+v", a)
	}
	sensors.mu.Lock()
	sensors.slow = 0
	sensors.mu.Unlock()
	w.Eventually("the sensor thaws what nobody knows to be frozen", func() error {
		sensors.mu.Lock()
		defer sensors.mu.Unlock()
		if !has(sensors.carried, "withdrawn "+k.id) {
			return fmt.Errorf("%v", sensors.carried)
		}
		return nil
	})
}

// undoneInADryRun: what was done before the policy became a dry run is undone for real.
func undoneInADryRun(t *testing.T, w *world) {
	ns := w.Namespace("undry")
	pods := w.Deploy(testcluster.Deployment(ns, "web", "node-2", 3))
	k := w.open(about(pods[0]), cases.Isolate)
	k.act(w.container(usualGuards()), cases.Isolate, "")
	g := usualGuards()
	g.DryRun = true
	if a := k.act(w.container(g), cases.Release, k.press(cases.ActionRelease)); !a.Done || w.pod(pods[0]).Labels["app"] != "web" {
		t.Errorf("%+v", a)
	}
}

// rights: the role allows each request that Contain made, and nothing that it never makes.
func rights(t *testing.T, w *world) {
	allowed := map[string]bool{}
	add := func(rules []rbacv1.PolicyRule) {
		for _, r := range rules {
			for _, g := range r.APIGroups {
				for _, res := range r.Resources {
					for _, v := range r.Verbs {
						allowed[v+" "+strings.TrimPrefix(g+"/"+res, "/")] = false
					}
				}
			}
		}
	}
	cr, err := w.Admin.RbacV1().ClusterRoles().Get(t.Context(), "contraband-contain", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	role, err := w.Admin.RbacV1().Roles("contraband").Get(t.Context(), "contraband-orders", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	add(cr.Rules)
	add(role.Rules)
	w.calls.mu.Lock()
	defer w.calls.mu.Unlock()
	for _, r := range w.calls.seen {
		if _, ok := allowed[r]; !ok {
			t.Errorf("%s: used, and not granted", r)
		}
		allowed[r] = true
	}
	for r, used := range allowed {
		// A DaemonSet, a Job and a ReplicationController are looked up where one owns the pod.
		if !used && r != "get batch/jobs" && r != "get replicationcontrollers" && r != "get apps/daemonsets" {
			t.Errorf("%s: granted, and never used", r)
		}
	}
}
