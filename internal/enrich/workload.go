package enrich

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/contain/cluster"
	"github.com/contraband-dev/contraband/internal/finding"
)

// maxLabels bounds the labels that are kept of a node or a cluster.
const maxLabels = 64

// instanceAnnotation has the ID of the machine of a GKE node.
const instanceAnnotation = "container.googleapis.com/instance_id"

// workload returns what the cluster says of the pod that a finding names. missing says
// what could not be read; the rest is returned all the same.
func (e Enricher) workload(ctx context.Context, f finding.Finding) (w *cases.Workload, missing string) {
	if e.Clusters == nil || f.Pod.Name == "" || f.Cluster == "" {
		return nil, ""
	}
	c, err := e.Clusters.Find(ctx, placeOf(f))
	if err != nil {
		return nil, "the cluster: " + err.Error()
	}
	w = &cases.Workload{ClusterLabels: bounded(c.Labels), ClusterVersion: c.Version}
	pod, err := c.Kube.Pods(f.Pod.Namespace).Get(ctx, f.Pod.Name)
	if err != nil {
		return w, "the pod: " + err.Error()
	}
	if f.Pod.UID != "" && f.Pod.UID != string(pod.UID) {
		return w, "the pod: it was replaced by another with the same name"
	}
	if !f.EventTime.IsZero() && pod.CreationTimestamp.After(f.EventTime.Add(clockSkew)) {
		return w, "the pod: it was replaced by another with the same name, created after the event"
	}
	w.PodUID, w.Created, w.ServiceAccount = string(pod.UID), pod.CreationTimestamp.UTC(), pod.Spec.ServiceAccountName
	w.ContainerID = containerID(pod, f)
	var unread []string
	owner, err := cluster.RootOwner(ctx, c.Kube, pod)
	if err != nil {
		unread = append(unread, "the pod's owner: "+err.Error())
	}
	w.Owners = owner.Chain
	n, err := c.Kube.Nodes().Get(ctx, pod.Spec.NodeName)
	if err != nil {
		unread = append(unread, "the node: "+err.Error())
	} else {
		w.InstanceID, w.NodeLabels = n.Annotations[instanceAnnotation], bounded(n.Labels)
	}
	return w, strings.Join(unread, "; ")
}

func placeOf(f finding.Finding) finding.Place {
	return finding.Place{Project: f.Project, Location: f.Location, Cluster: f.Cluster}
}

// containerID returns the ID of the container that the finding names, unless it was
// started after the event.
func containerID(pod *corev1.Pod, f finding.Finding) string {
	for _, s := range pod.Status.ContainerStatuses {
		if s.Name != f.Container.Name || s.State.Running == nil || s.State.Running.StartedAt.After(f.EventTime.Add(clockSkew)) {
			continue
		}
		_, id, _ := strings.Cut(s.ContainerID, "://")
		return id
	}
	return ""
}

// clockSkew is tolerated between the clocks of the event and of the pod, whose times are
// whole seconds.
const clockSkew = 2 * time.Second

func bounded(labels map[string]string) map[string]string {
	if len(labels) <= maxLabels {
		return labels
	}
	out := map[string]string{}
	for k, v := range labels {
		if out[k] = v; len(out) == maxLabels {
			break
		}
	}
	return out
}

// Lost says what a case has done to a pod and is no more, and why; nothing where
// all holds as far as can be seen. The kubelet restarts a container that does not
// answer its liveness probe, a pod can go, and whoever may edit pods can take a
// label off. What cannot be seen is not lost.
func (e Enricher) CheckHolds(ctx context.Context, k cases.Case) cases.Lost {
	f := k.Decided.Finding
	if e.Clusters == nil || f.Pod.Name == "" || f.Cluster == "" {
		return cases.Lost{}
	}
	c, err := e.Clusters.Find(ctx, placeOf(f))
	if err != nil {
		return cases.Lost{}
	}
	pod, err := c.Kube.Pods(f.Pod.Namespace).Get(ctx, f.Pod.Name)
	if err != nil && !apierrors.IsNotFound(err) {
		return cases.Lost{}
	}
	is := func(claim *cases.Claim) bool { // the pod that was acted on
		return err == nil && (claim.PodUID == "" || string(pod.UID) == claim.PodUID)
	}
	if removed := k.Removed(); removed != nil {
		if k.RemovalStuck == "" && is(k.Claim(removed.Action)) {
			return cases.Lost{Action: removed.Action, Why: stays(pod)}
		}
		return cases.Lost{}
	}
	if k.InForce(cases.Freeze) {
		claim := k.Claim(cases.Freeze)
		if !is(claim) {
			return cases.Lost{Why: "the frozen pod is gone"}
		}
		if why := restarted(pod, claim.ContainerID); why != "" {
			return cases.Lost{Why: why}
		}
	}
	if k.InForce(cases.Isolate) && k.IsolationBroken == "" && is(k.Claim(cases.Isolate)) {
		if why := openAgain(ctx, c, pod); why != "" {
			return cases.Lost{Action: cases.Isolate, Why: why}
		}
	}
	return cases.Lost{}
}

// stays says why a pod that was removed is there all the same. Only its kubelet ends it.
func stays(pod *corev1.Pod) string {
	if len(pod.Finalizers) > 0 {
		return "its finalizers keep it: " + strings.Join(pod.Finalizers, ", ")
	}
	return fmt.Sprintf("the kubelet of node %q has not ended it: what ran there may run on", pod.Spec.NodeName)
}

// Has reports whether a container is one of the case's pod.
func (e Enricher) HasContainer(ctx context.Context, k cases.Case, containerID string) (bool, error) {
	f := k.Decided.Finding
	c, err := e.Clusters.Find(ctx, placeOf(f))
	if err != nil {
		return false, err
	}
	pod, err := c.Kube.Pods(f.Pod.Namespace).Get(ctx, f.Pod.Name)
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return string(pod.UID) == k.PodUID() && cluster.ContainerName(pod, containerID) != "", nil
}

// restarted says that a container is none of the pod's any more, or "".
func restarted(pod *corev1.Pod, id string) string {
	if !cluster.Ended(pod, id) {
		return ""
	}
	return fmt.Sprintf("the kubelet has ended the container that was frozen (%s, %s): it is frozen no more, and what was in its memory is lost", pod.Name, id)
}

// openAgain says why an isolated pod is not cut off any more, or "".
func openAgain(ctx context.Context, c *cluster.Cluster, pod *corev1.Pod) string {
	if pod.Labels[cluster.QuarantineLabel] == "" {
		return "somebody has taken the quarantine label off the pod"
	}
	if len(pod.Labels) > 1 { // what selects it again, Services and policies, adds up
		return "somebody has put labels on the isolated pod"
	}
	policy, err := c.Kube.NetworkPolicies(pod.Namespace).Get(ctx, cluster.QuarantinePolicy)
	switch {
	case apierrors.IsNotFound(err):
		return "somebody has removed the quarantine policy of the namespace"
	case err == nil && !cluster.IsQuarantine(policy.Spec):
		return "somebody has changed the quarantine policy of the namespace"
	}
	return ""
}
