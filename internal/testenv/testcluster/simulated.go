package testcluster

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Simulate adds nodes that kwok simulates: pods on them are said to run, and are
// removed when they are deleted; nothing runs. Each gets the sensor's DaemonSet.
func (c *Cluster) Simulate(nodes ...string) {
	c.t.Helper()
	stages, err := os.ReadFile(filepath.Join(c.bin, "kwok-stages.yaml"))
	if err != nil {
		c.t.Fatal(err)
	}
	// kwok gives containers no id, which is what a finding names one by.
	const ready = "        ready: true\n"
	text := strings.ReplaceAll(string(stages), ready, ready+"        containerID: containerd://{{ $.metadata.uid }}-{{ .name }}\n")
	if err := os.WriteFile(c.path("stages.yaml"), []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
	c.run("kwok", nil, "--kubeconfig", c.kubeconfig(adminUser), "--config", c.path("stages.yaml"), "--manage-all-nodes", "--cidr", "10.128.0.0/16", "--server-address", "127.0.0.1:0")
	c.startScheduler() // the sensor's pods are a DaemonSet's
	for _, name := range nodes {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{
			Name: name, Labels: map[string]string{"kubernetes.io/os": "linux"}, Annotations: map[string]string{"container.googleapis.com/instance_id": "7311000000000000001"},
		}}
		if _, err := c.Admin.CoreV1().Nodes().Create(c.ctx(), n, metav1.CreateOptions{}); err != nil {
			c.t.Fatal(err)
		}
	}
}

// Deployment of a sleeping program, on one node.
func Deployment(namespace, name, node string, replicas int32) *appsv1.Deployment {
	l := map[string]string{"app": name}
	grace := int64(1)
	return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: appsv1.DeploymentSpec{
		Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: l},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: l}, Spec: PodSpec(node, grace)},
	}}
}

// PodSpec of a sleeping program; node "" leaves it to the scheduler.
func PodSpec(node string, grace int64) corev1.PodSpec {
	return corev1.PodSpec{
		NodeName: node, TerminationGracePeriodSeconds: &grace,
		Containers: []corev1.Container{{Name: "app", Image: Image, ImagePullPolicy: corev1.PullNever, Command: []string{"/bin/sleep", "3600"}, Ports: []corev1.ContainerPort{{ContainerPort: 8080}},
			Env: []corev1.EnvVar{{Name: "DB_PASSWORD", Value: "correct-horse-battery"}}}},
	}
}

// Namespace makes one whose default service account is there.
func (c *Cluster) Namespace(name string) string {
	c.t.Helper()
	if _, err := c.Admin.CoreV1().Namespaces().Create(c.ctx(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
	c.Eventually("the namespace's service account", func() error {
		_, err := c.Admin.CoreV1().ServiceAccounts(name).Get(c.ctx(), "default", metav1.GetOptions{})
		return err
	})
	return name
}

// Deploy makes a Deployment and returns its pods once all are ready.
func (c *Cluster) Deploy(d *appsv1.Deployment) []corev1.Pod {
	c.t.Helper()
	if _, err := c.Admin.AppsV1().Deployments(d.Namespace).Create(c.ctx(), d, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
	c.Eventually("the Deployment is ready", func() error {
		now, err := c.Admin.AppsV1().Deployments(d.Namespace).Get(c.ctx(), d.Name, metav1.GetOptions{})
		if err == nil && now.Status.ReadyReplicas != *d.Spec.Replicas {
			err = fmt.Errorf("%d of %d replicas are ready: %s", now.Status.ReadyReplicas, *d.Spec.Replicas, c.Warnings(d.Namespace))
		}
		return err
	})
	return c.Pods(d.Namespace, "app="+d.Name)
}

// Warnings are the newest words about what goes wrong in a namespace.
func (c *Cluster) Warnings(namespace string) (out []string) {
	list, err := c.Admin.CoreV1().Events(namespace).List(c.ctx(), metav1.ListOptions{FieldSelector: "type=Warning"})
	if err != nil {
		return []string{err.Error()}
	}
	for _, e := range list.Items[max(0, len(list.Items)-3):] {
		out = append(out, e.Reason+": "+e.Message)
	}
	return out
}

// Pods by a label, the ready ones.
func (c *Cluster) Pods(namespace, selector string) []corev1.Pod {
	c.t.Helper()
	list, err := c.Admin.CoreV1().Pods(namespace).List(c.ctx(), metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		c.t.Fatal(err)
	}
	return slices.DeleteFunc(list.Items, func(p corev1.Pod) bool {
		return p.DeletionTimestamp != nil || len(p.Status.ContainerStatuses) == 0 || !p.Status.ContainerStatuses[0].Ready
	})
}

// Eventually waits until check returns nil.
func (c *Cluster) Eventually(what string, check func() error) {
	c.t.Helper()
	var err error
	for until := time.Now().Add(60 * time.Second); time.Now().Before(until); time.Sleep(50 * time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	c.t.Fatalf("%s: not within a minute: %v", what, err)
}

// SensorToken is the token that the sensor's pod on a node has, bound to that pod;
// an empty node makes one that is bound to none.
func (c *Cluster) SensorToken(node string) string {
	c.t.Helper()
	request := &authv1.TokenRequest{}
	if node != "" {
		c.Eventually("the sensor's pod on "+node, func() error {
			list, err := c.Admin.CoreV1().Pods("contraband").List(c.ctx(), metav1.ListOptions{FieldSelector: "spec.nodeName=" + node})
			if err != nil {
				return err
			}
			for _, p := range list.Items {
				if p.Labels["app.kubernetes.io/name"] == "contraband-sensor" {
					request.Spec.BoundObjectRef = &authv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: p.Name, UID: p.UID}
					return nil
				}
			}
			return fmt.Errorf("%d pods, none of them a sensor's", len(list.Items))
		})
	}
	made, err := c.Admin.CoreV1().ServiceAccounts("contraband").CreateToken(c.ctx(), "contraband-sensor", request, metav1.CreateOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	return made.Status.Token
}

// SensorAccount writes the directory that a sensor's pod would find, and returns it.
func (c *Cluster) SensorAccount(node string) string {
	c.t.Helper()
	dir := c.path("account-" + node)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		c.t.Fatal(err)
	}
	for name, body := range map[string][]byte{"ca.crt": c.pki.PEM, "token": []byte(c.SensorToken(node))} {
		if err := os.WriteFile(filepath.Join(dir, name), body, 0o600); err != nil {
			c.t.Fatal(err)
		}
	}
	return dir
}

// Server is the API server's address.
func (c *Cluster) Server() string { return c.host() }
