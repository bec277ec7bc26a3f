package local_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"

	"github.com/contraband-dev/contraband/internal/canary"
	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/cases/casetext"
	"github.com/contraband-dev/contraband/internal/contain/cluster"
	"github.com/contraband-dev/contraband/internal/local"
	"github.com/contraband-dev/contraband/internal/testenv/testcluster"
)

func TestMain(m *testing.M) { testcluster.Main(m) }

const clusterPolicy = `
rules:
  - name: known malware
    when: verdict.level == "malicious" && pod.namespace == "shop"
    do: [escalate, page, freeze, evidence, isolate, cordon]
    otherwise: [evict]
  - name: known malware in what is probed
    when: verdict.level == "malicious" && pod.namespace == "probed"
    do: [page, freeze, evidence]
    otherwise: [evict]
  - name: everything else
    do: [page]
guards: {max_containments_per_hour: 20}
`

// TestClusterEndToEnd: an added program in one pod of three, on a real node, from
// the kernel's event to the pod's release, and in a second one to its eviction.
func TestClusterEndToEnd(t *testing.T) {
	testcluster.RunOnNode(t, func(t *testing.T, c *testcluster.Cluster) {
		w := &shop{Cluster: c, t: t}
		w.start()
		web := w.deploy()
		w.containOne(web[0])
		w.release(web[0])
		w.evictAnother(web[0])
		w.restarted()
	})
}

type shop struct {
	*testcluster.Cluster
	t       *testing.T
	machine *local.Machine
	client  local.Client
	program []byte
	webIP   string
	id      string // of the case
}

// start starts the pipeline and the real sensor, each as it is deployed.
func (w *shop) start() {
	w.t.Helper()
	w.Apply("manifests/sensor")
	policy := filepath.Join(w.t.TempDir(), "policy.yaml")
	if err := os.WriteFile(policy, []byte(clusterPolicy), 0o600); err != nil {
		w.t.Fatal(err)
	}
	var err error
	w.machine, err = local.Start(w.t.Context(), local.Config{
		Dir: filepath.Join(w.t.TempDir(), "up"), Policy: policy,
		Cluster: &local.Cluster{Place: testcluster.Place, Reads: w.Finder(testcluster.RespondUser, nil), Acts: w.Finder(testcluster.ContainUser, nil)},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { w.machine.Close() })
	w.client = local.Client{URL: w.machine.URL, Token: w.machine.Token}

	sensor := filepath.Join(w.t.TempDir(), "contraband-sensor")
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", sensor, "../../cmd/contraband-sensor").CombinedOutput(); err != nil {
		w.t.Fatalf("build the sensor: %v\n%s", err, out)
	}
	address, topic := w.machine.PubSub()
	cmd := exec.Command(sensor, "--topic", topic, "--node", testcluster.NodeName, "--state-dir", w.t.TempDir(), "--listen", "127.0.0.1:9465",
		"--cri", testcluster.ContainerdSocket, "--containerd", testcluster.ContainerdSocket, "--docker", "",
		"--orders-from", w.Server(), "--orders-account", w.SensorAccount(testcluster.NodeName))
	cmd.Env = append(os.Environ(), "PUBSUB_EMULATOR_HOST="+address)
	var log bytes.Buffer
	cmd.Stderr = &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
		if w.t.Failed() {
			w.t.Logf("the sensor's log:\n%s", log.String())
		}
	})
	w.Eventually("the sensor is ready, and takes orders", func() error {
		resp, err := http.Get("http://127.0.0.1:9465/readyz")
		if err != nil {
			return err
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("readyz: %s", resp.Status)
		}
		resp, err = http.Get("http://127.0.0.1:9465/metrics")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		var b bytes.Buffer
		if b.ReadFrom(resp.Body); !strings.Contains(b.String(), "contraband_sensor_orders_connected 1") {
			return fmt.Errorf("it does not watch for orders")
		}
		return nil
	})
	if w.program, err = canary.Here(10 * time.Minute); err != nil {
		w.t.Fatal(err)
	}
}

// deploy makes what a user has: a Deployment, a Service, a NetworkPolicy, a client.
func (w *shop) deploy() []corev1.Pod {
	w.t.Helper()
	w.EnforcePolicies()
	w.Namespace("shop")
	d := testcluster.Deployment("shop", "web", "", 3)
	serve(d)
	w.ApplyYAML(`{"apiVersion":"v1","kind":"Service","metadata":{"name":"web","namespace":"shop"},"spec":{"selector":{"app":"web"},"ports":[{"port":80,"targetPort":8080}]}}`)
	w.ApplyYAML(`{"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{"name":"web","namespace":"shop"},"spec":{"podSelector":{"matchLabels":{"app":"web"}},
"policyTypes":["Ingress"],"ingress":[{"from":[{"podSelector":{"matchLabels":{"app":"client"}}}]}]}}`)
	web := w.Deploy(d)
	w.Deploy(testcluster.Deployment("shop", "client", "", 1))
	return web
}

// serve makes a Deployment a web server.
func serve(d *appsv1.Deployment) {
	d.Spec.Template.Spec.Containers[0].Command = []string{"/bin/sh", "-c", "mkdir -p /www; echo hello > /www/index.html; busybox httpd -f -p 8080 -h /www"}
}

// exec runs a program in a pod, as kubectl exec does.
func (w *shop) exec(pod corev1.Pod, stdin []byte, args ...string) (string, error) {
	w.t.Helper()
	req := w.Admin.CoreV1().RESTClient().Post().Namespace(pod.Namespace).Resource("pods").Name(pod.Name).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Command: args, Stdin: stdin != nil, Stdout: true, Stderr: true}, scheme.ParameterCodec)
	e, err := remotecommand.NewWebSocketExecutor(w.Config, "GET", req.URL().String())
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(w.t.Context(), 15*time.Second)
	defer cancel()
	var out output
	o := remotecommand.StreamOptions{Stdout: &out, Stderr: &out}
	if stdin != nil {
		o.Stdin = bytes.NewReader(stdin)
	}
	err = e.StreamWithContext(ctx, o)
	return out.String(), err
}

// output of a program, which may go on when nobody waits for it any more.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// attack drops a program that is known to be bad, and runs it. The exec itself
// hangs once the container is frozen: nobody waits for it.
func (w *shop) attack(pod corev1.Pod) {
	w.t.Helper()
	if out, err := w.exec(pod, w.program, "/bin/sh", "-c", "cat > /tmp/dropped && chmod 755 /tmp/dropped"); err != nil {
		w.t.Fatalf("kubectl exec: %v %s", err, out)
	}
	go w.exec(pod, nil, "/tmp/dropped")
}

// kase waits until the case about a pod is as wanted.
func (w *shop) kase(pod corev1.Pod, what string, ok func(cases.Case) bool) cases.Case {
	w.t.Helper()
	var found cases.Case
	w.Eventually(what, func() error {
		all, err := w.client.Cases(w.t.Context())
		if err != nil {
			return err
		}
		i := slices.IndexFunc(all, func(c cases.Case) bool { return c.Decided.Finding.Pod.UID == string(pod.UID) })
		if i < 0 {
			return fmt.Errorf("%d cases, none about pod %s", len(all), pod.Name)
		}
		if found = all[i]; !ok(found) {
			return fmt.Errorf("%s: %+v", found.Status(), found.Claims)
		}
		return nil
	})
	return found
}

// reaches asks the web server, and returns false when nothing answers.
func (w *shop) reaches(from corev1.Pod, address string) bool {
	w.t.Helper()
	host, port, _ := strings.Cut(address, ":")
	out, err := w.exec(from, nil, "/bin/sh", "-c", fmt.Sprintf("printf 'GET /index.html HTTP/1.0\\\\r\\\\n\\\\r\\\\n' | nc -w 2 %s %s; true", host, port))
	if err != nil {
		w.t.Fatalf("kubectl exec: %v %s", err, out)
	}
	return strings.Contains(out, "hello")
}

func (w *shop) containOne(pod corev1.Pod) {
	t := w.t
	client := w.Pods("shop", "app=client")[0]
	address := pod.Status.PodIP + ":8080"
	w.Eventually("the client reaches the web pod to begin with", func() error {
		if !w.reaches(client, address) {
			return fmt.Errorf("it does not")
		}
		return nil
	})
	before, err := w.Admin.NetworkingV1().NetworkPolicies("shop").Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w.attack(pod)
	c := w.kase(pod, "frozen, saved, isolated, cordoned", func(c cases.Case) bool {
		return c.Frozen() && c.Done(cases.Evidence) != nil && c.InForce(cases.Isolate) && c.InForce(cases.Cordon)
	})
	w.id = c.ID
	view, err := w.client.Case(t.Context(), c.ID)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range view.Timeline {
		t.Logf("%+7d ms  %-10s %s", m.At.Sub(casetext.Start(c)).Milliseconds(), m.Stage, m.Text)
	}
	saved := c.Done(cases.Evidence)
	if saved.SHA256 != canary.SHA256(w.program) {
		t.Errorf("the evidence has the hash %s, the program %s", saved.SHA256, canary.SHA256(w.program))
	}
	for _, want := range []string{"binary", "pod.json", "owners.json", "logs/app.txt", "node.json", "processes-and-sockets.json"} {
		if i := slices.IndexFunc(saved.Items, func(i cases.Item) bool { return i.Name == want }); i < 0 || saved.Items[i].SHA256 == "" {
			t.Errorf("evidence %q: %+v", want, saved.Items)
		}
	}
	if p := c.Decided.Facts.Workload; p == nil || len(p.Owners) != 2 || p.Owners[1].Kind != "Deployment" || p.ClusterLabels["team"] != "payments" {
		t.Errorf("what the cluster says of the workload: %+v, missing %q", p, c.Decided.Facts.Missing)
	}
	isolated := c.Done(cases.Isolate)
	if isolated.NotEnforced != "" || !strings.Contains(isolated.Verified, "not any more") {
		t.Errorf("isolation: %+v", isolated)
	}
	if !w.frozen(pod) {
		t.Error("the kernel does not say that it is frozen")
	}
	if w.reaches(client, address) {
		t.Error("the isolated pod is still reached by a client that the user's policy allows")
	}
	w.Eventually("the Service has three endpoints, and the isolated pod is none of them", func() error {
		list, err := w.Admin.DiscoveryV1().EndpointSlices("shop").List(t.Context(), metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=web"})
		if err != nil {
			return err
		}
		var ips []string
		for _, s := range list.Items {
			for _, e := range s.Endpoints {
				ips = append(ips, e.Addresses...)
			}
		}
		if slices.Contains(ips, pod.Status.PodIP) {
			return fmt.Errorf("endpoints %v", ips)
		}
		return nil
	})
	after, err := w.Admin.NetworkingV1().NetworkPolicies("shop").Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil || after.ResourceVersion != before.ResourceVersion {
		t.Errorf("the user's policy was touched: %v", err)
	}
	if n, err := w.Admin.CoreV1().Nodes().Get(t.Context(), testcluster.NodeName, metav1.GetOptions{}); err != nil || !n.Spec.Unschedulable {
		t.Errorf("the node is not cordoned: %v", err)
	}
	if others := w.Pods("shop", "app=web"); len(others) < 2 || slices.ContainsFunc(others, func(p corev1.Pod) bool { return w.frozen(p) }) {
		t.Errorf("others were touched: %d ready", len(others))
	}
}

// frozen asks the kernel.
func (w *shop) frozen(pod corev1.Pod) bool {
	for _, s := range pod.Status.ContainerStatuses {
		id := strings.TrimPrefix(s.ContainerID, "containerd://")
		var found string
		filepath.WalkDir("/sys/fs/cgroup/kubepods.slice", func(path string, _ os.DirEntry, err error) error {
			if err == nil && strings.Contains(path, id) && filepath.Base(path) == "cgroup.events" {
				found = path
			}
			return nil
		})
		body, err := os.ReadFile(found)
		if err == nil && strings.Contains(string(body), "frozen 1") {
			return true
		}
	}
	return false
}

// press presses a button of the case's page, as a person does.
func (w *shop) press(id, what string) {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodPost, w.machine.URL+"/cases/"+id+"/press", strings.NewReader(url.Values{"what": {what}}.Encode()))
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Authorization", "Bearer "+w.machine.Token)
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusSeeOther {
		w.t.Fatalf("press %s: %s", what, resp.Status)
	}
}

func (w *shop) release(pod corev1.Pod) {
	began := time.Now()
	w.press(w.id, cases.ActionRelease)
	w.kase(pod, "released", func(c cases.Case) bool { return c.Closed != nil && c.Closed.Resolution == "released" })
	w.t.Logf("released %s after the button", time.Since(began).Round(time.Millisecond))
	now, err := w.Admin.CoreV1().Pods("shop").Get(w.t.Context(), pod.Name, metav1.GetOptions{})
	if err != nil || now.Labels["app"] != "web" || now.Labels[cluster.QuarantineLabel] != "" || w.frozen(pod) {
		w.t.Errorf("after the release: labels %v, frozen %v, %v", now.Labels, w.frozen(pod), err)
	}
	n, err := w.Admin.CoreV1().Nodes().Get(w.t.Context(), testcluster.NodeName, metav1.GetOptions{})
	if err != nil || n.Spec.Unschedulable {
		w.t.Errorf("the node is still cordoned: %v", err)
	}
	client := w.Pods("shop", "app=client")[0]
	w.Eventually("the client reaches it again", func() error {
		if !w.reaches(client, pod.Status.PodIP+":8080") {
			return fmt.Errorf("not yet")
		}
		return nil
	})
	w.Eventually("three are ready", func() error {
		if n := len(w.Pods("shop", "app=web")); n != 3 {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
}

// evictAnother: a second pod is evicted by a person, after its evidence is saved.
func (w *shop) evictAnother(than corev1.Pod) {
	pods := w.Pods("shop", "app=web")
	pod := pods[slices.IndexFunc(pods, func(p corev1.Pod) bool { return p.UID != than.UID })]
	w.attack(pod)
	c := w.kase(pod, "contained", func(c cases.Case) bool { return c.Done(cases.Evidence) != nil && c.InForce(cases.Cordon) })
	w.press(c.ID, cases.ActionEvict)
	w.kase(pod, "evicted", func(c cases.Case) bool { return c.PodRemoved() })
	w.Eventually("the pod is gone, frozen as it was", func() error {
		now, err := w.Admin.CoreV1().Pods("shop").Get(w.t.Context(), pod.Name, metav1.GetOptions{})
		if err == nil && now.UID == pod.UID {
			return fmt.Errorf("phase %s", now.Status.Phase)
		}
		return nil
	})
	w.press(c.ID, cases.ActionRemediated)
	w.kase(pod, "closed as remediated, the node uncordoned", func(c cases.Case) bool { return c.Closed != nil && c.Closed.Resolution == "remediated" })
	n, err := w.Admin.CoreV1().Nodes().Get(w.t.Context(), testcluster.NodeName, metav1.GetOptions{})
	if err != nil || n.Spec.Unschedulable {
		w.t.Errorf("the node is still cordoned: %v", err)
	}
}

// restarted: the kubelet restarts what does not answer its liveness probe, frozen or
// not. That is predicted, detected and reported, and the fallback of the policy is done.
func (w *shop) restarted() {
	w.Namespace("probed")
	d := testcluster.Deployment("probed", "probed", "", 2)
	serve(d)
	d.Spec.Template.Spec.Containers[0].LivenessProbe = &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/index.html", Port: intstr.FromInt32(8080)}},
		PeriodSeconds: 1, FailureThreshold: 2, TimeoutSeconds: 1, InitialDelaySeconds: 1,
	}
	pod := w.Deploy(d)[0]
	w.attack(pod)
	c := w.kase(pod, "frozen", func(c cases.Case) bool { return c.Done(cases.Freeze) != nil && c.Done(cases.Evidence) != nil })
	if a := c.Done(cases.Freeze); a.RestartsAt.IsZero() || a.RestartsAt.After(a.At.Add(10*time.Second)) || len(a.Notes) == 0 {
		w.t.Errorf("the restart is not foretold: %+v", a)
	}
	w.Eventually("the kubelet restarts it", func() error {
		now, err := w.Admin.CoreV1().Pods("probed").Get(w.t.Context(), pod.Name, metav1.GetOptions{})
		if err == nil && now.Status.ContainerStatuses[0].RestartCount == 0 {
			return fmt.Errorf("%+v %v", now.Status.ContainerStatuses[0], w.Warnings("probed"))
		}
		return nil
	})
	c = w.kase(pod, "seen as lost, and evicted", func(c cases.Case) bool { return c.FreezeLostReason != "" && c.PodRemoved() })
	w.t.Logf("foretold for %s, seen and answered by %s: %s", c.Done(cases.Freeze).RestartsAt.Format(time.TimeOnly), c.Done(cases.Evict).At.Format(time.TimeOnly), c.FreezeLostReason)
}
