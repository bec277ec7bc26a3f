package contain_test

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/contraband-dev/contraband/internal/finding"
)

type findingPointer = *finding.Finding

// sensorToken: with a node's token one can write the outcome of that node's orders,
// once, and do nothing else.
func sensorToken(t *testing.T, w *world) {
	as := func(token string) (dynamic.Interface, kubernetes.Interface) {
		c := rest.CopyConfig(w.Config)
		c.BearerToken = token
		d, err := dynamic.NewForConfig(c)
		if err != nil {
			t.Fatal(err)
		}
		k, err := kubernetes.NewForConfig(c)
		if err != nil {
			t.Fatal(err)
		}
		return d, k
	}
	orders := w.Dynamic.Resource(orderResource).Namespace("contraband")
	for _, n := range []string{"node-1", "node-8"} { // no sensor runs for node-8
		_, err := orders.Create(t.Context(), &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "contraband.dev/v1alpha1", "kind": "ContainmentOrder", "metadata": map[string]any{"name": "of-" + n, "labels": map[string]any{"contraband.dev/node": "held-back"}},
			"spec": map[string]any{"id": "of-" + n, "case": "c", "action": "freeze", "containerId": "x", "node": n, "expires": "2030-01-01T00:00:00Z"},
		}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer orders.Delete(t.Context(), "of-"+n, metav1.DeleteOptions{})
	}
	status := func(done string) []byte {
		return []byte(`{"status":{"id":"x","done":` + done + `,"at":"2026-01-01T00:00:00Z"}}`)
	}
	mine, kube := as(w.SensorToken("node-1"))
	unbound, _ := as(w.SensorToken(""))
	patch := func(d dynamic.Interface, name string, body []byte, sub ...string) error {
		_, err := d.Resource(orderResource).Namespace("contraband").Patch(t.Context(), name, types.MergePatchType, body, metav1.PatchOptions{}, sub...)
		return err
	}
	refused := func(what string, err error, part string) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%s: %v, want a refusal that says %q", what, err, part)
		}
	}
	refused("an unbound token", patch(unbound, "of-node-1", status("true"), "status"), "bound to its pod")
	refused("another node's order", patch(mine, "of-node-8", status("true"), "status"), "its own node")
	refused("an order's spec", patch(mine, "of-node-1", []byte(`{"spec":{"action":"thaw"}}`)), "forbidden")
	if err := patch(mine, "of-node-1", status("true"), "status"); err != nil {
		t.Errorf("its own order: %v", err)
	}
	refused("a second word", patch(mine, "of-node-1", status("false"), "status"), "said once")
	_, err := mine.Resource(orderResource).Namespace("contraband").Create(t.Context(), &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "contraband.dev/v1alpha1", "kind": "ContainmentOrder", "metadata": map[string]any{"name": "mine"}, "spec": map[string]any{},
	}}, metav1.CreateOptions{})
	refused("a new order", err, "forbidden")
	refused("deleting an order", mine.Resource(orderResource).Namespace("contraband").Delete(t.Context(), "of-node-1", metav1.DeleteOptions{}), "forbidden")
	_, err = kube.CoreV1().Pods("contraband").List(t.Context(), metav1.ListOptions{})
	refused("pods", err, "forbidden")
	_, err = kube.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	refused("nodes", err, "forbidden")
	_, err = kube.CoreV1().Secrets("default").List(t.Context(), metav1.ListOptions{})
	refused("secrets", err, "forbidden")
	// An administrator cannot change an order either: it is made anew.
	refused("an order is never changed", patch(w.Dynamic, "of-node-8", []byte(`{"spec":{"action":"thaw"}}`)), "never changed")
}
