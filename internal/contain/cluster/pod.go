package cluster

import (
	"path"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// Containers returns what the kubelet reports of all of a pod's containers, of whichever kind.
func Containers(pod *corev1.Pod) []corev1.ContainerStatus {
	return slices.Concat(pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses, pod.Status.EphemeralContainerStatuses)
}

// ContainerName is the name of the pod's container of an id, or "".
func ContainerName(pod *corev1.Pod, id string) string {
	for _, s := range Containers(pod) {
		if path.Base(s.ContainerID) == id {
			return s.Name
		}
	}
	return ""
}

// Ended reports whether a container that the pod had runs no more. As long as the kubelet
// has reported nothing, none has ended.
func Ended(pod *corev1.Pod, id string) bool {
	all := Containers(pod)
	return len(all) > 0 && !slices.ContainsFunc(all, func(s corev1.ContainerStatus) bool {
		return path.Base(s.ContainerID) == id && s.State.Terminated == nil
	})
}

// Had reports whether a container is one of the pod's, or was just before.
func Had(pod *corev1.Pod, id string) bool {
	return slices.ContainsFunc(Containers(pod), func(s corev1.ContainerStatus) bool {
		last := s.LastTerminationState.Terminated
		return path.Base(s.ContainerID) == id || last != nil && path.Base(last.ContainerID) == id
	})
}
