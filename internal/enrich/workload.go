package enrich

import (
	"context"
	"fmt"
	"path"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/contraband-dev/contraband/internal/cluster"
	"github.com/contraband-dev/contraband/internal/docket"
	"github.com/contraband-dev/contraband/internal/finding"
)

// maxLabels of a node or a cluster are kept.
const maxLabels = 64

// instanceAnnotation is where GKE notes the machine of a node.
const instanceAnnotation = "container.googleapis.com/instance_id"

// workload asks the cluster whose pod a finding names. What it cannot answer is
// said, and the rest is told all the same.
func (e Enricher) workload(ctx context.Context, f finding.Finding) (w *docket.Workload, missing string) {
	if e.Clusters == nil || f.Pod.Name == "" || f.Cluster == "" {
		return nil, ""
	}
	c, err := e.Clusters.Find(ctx, placeOf(f))
	if err != nil {
		return nil, "the cluster: " + err.Error()
	}
	w = &docket.Workload{ClusterLabels: bounded(c.Labels), ClusterVersion: c.Version}
	pod, err := c.Kube.CoreV1().Pods(f.Pod.Namespace).Get(ctx, f.Pod.Name, metav1.GetOptions{})
	if err != nil {
		return w, "the pod: " + err.Error()
	}
	if f.Pod.UID != "" && f.Pod.UID != string(pod.UID) {
		return w, "the pod: it is gone, and another has its name"
	}
	if !f.EventTime.IsZero() && pod.CreationTimestamp.After(f.EventTime.Add(clockSkew)) {
		return w, "the pod: the one that has its name now was made after the event"
	}
	w.PodUID, w.Created, w.ServiceAccount = string(pod.UID), pod.CreationTimestamp.UTC(), pod.Spec.ServiceAccountName
	w.ContainerID = containerID(pod, f)
	var said []string
	owner, err := cluster.RootOwner(ctx, c.Kube, pod)
	if err != nil {
		said = append(said, "the pod's owner: "+err.Error())
	}
	w.Owners = owner.Chain
	n, err := c.Kube.CoreV1().Nodes().Get(ctx, pod.Spec.NodeName, metav1.GetOptions{})
	if err != nil {
		said = append(said, "the node: "+err.Error())
	} else {
		w.InstanceID, w.NodeLabels = n.Annotations[instanceAnnotation], bounded(n.Labels)
	}
	return w, strings.Join(said, "; ")
}

func placeOf(f finding.Finding) finding.Place {
	return finding.Place{Project: f.Project, Location: f.Location, Cluster: f.Cluster}
}

// containerID is of the container that the finding names, if it has been the same
// since the event.
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

// clockSkew between who tells the event's time and who tells the pod's: seconds
// are all that a pod's times have.
const clockSkew = 2e9

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

// Lost says why what a case has frozen is frozen no more, or "": the kubelet
// restarts a container that does not answer its liveness probe, and a pod can go.
// What cannot be seen is not lost.
func (e Enricher) Lost(ctx context.Context, k docket.Case) string {
	f := k.Decided.Finding
	if e.Clusters == nil || f.Pod.Name == "" || f.Cluster == "" {
		return ""
	}
	c, err := e.Clusters.Find(ctx, placeOf(f))
	if err != nil {
		return ""
	}
	claim := k.Claim(docket.Freeze)
	pod, err := c.Kube.CoreV1().Pods(f.Pod.Namespace).Get(ctx, f.Pod.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err), err == nil && claim.PodUID != "" && string(pod.UID) != claim.PodUID:
		return "the frozen pod is gone"
	case err != nil:
		return ""
	}
	for _, s := range pod.Status.ContainerStatuses {
		last := s.LastTerminationState.Terminated
		if last != nil && path.Base(last.ContainerID) == claim.ContainerID {
			return fmt.Sprintf("the kubelet has restarted container %q: it is frozen no more, and what was in its memory is lost", s.Name)
		}
	}
	return ""
}
