package cluster

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/contraband-dev/contraband/internal/docket"
)

// Owner is what owns a pod, followed to the root, with its replicas where they
// can be counted.
type Owner struct {
	Kind      string // of the pod's own controller, such as ReplicaSet; "" for a bare pod
	Chain     []docket.Owner
	Wanted    int // replicas of the root, or of the controller
	Ready     int
	Countable bool
	Objects   []any // the chain's objects, as they were read
}

// String names the root: Deployment "web".
func (o Owner) String() string {
	if len(o.Chain) == 0 {
		return ""
	}
	root := o.Chain[len(o.Chain)-1]
	return root.Kind + " " + root.Name
}

// RootOwner follows a pod's controllers. One of a kind that we do not know, or
// that is gone, ends the chain.
func RootOwner(ctx context.Context, kube kubernetes.Interface, pod *corev1.Pod) (Owner, error) {
	ref := metav1.GetControllerOf(pod)
	if ref == nil {
		return Owner{}, nil
	}
	o := Owner{Kind: ref.Kind}
	for range 4 { // pod, ReplicaSet, Deployment; a loop in the references ends here
		if ref == nil {
			break
		}
		o.Chain = append(o.Chain, docket.Owner{Kind: ref.Kind, Name: ref.Name})
		owner, err := o.read(ctx, kube, pod.Namespace, ref)
		if apierrors.IsNotFound(err) {
			break
		}
		if err != nil {
			return o, err
		}
		if owner == nil {
			break
		}
		if owner.GetUID() != ref.UID {
			break // another has the name
		}
		o.Objects = append(o.Objects, owner)
		ref = metav1.GetControllerOf(owner)
	}
	return o, nil
}

// read reads one owner, nil for a kind that we do not know.
func (o *Owner) read(ctx context.Context, kube kubernetes.Interface, namespace string, ref *metav1.OwnerReference) (metav1.Object, error) {
	get := metav1.GetOptions{}
	switch ref.Kind {
	case "ReplicaSet":
		r, err := kube.AppsV1().ReplicaSets(namespace).Get(ctx, ref.Name, get)
		if err != nil {
			return nil, err
		}
		o.count(r.Spec.Replicas, r.Status.ReadyReplicas)
		return r, nil
	case "Deployment": // counts over the ReplicaSets of a rollout
		d, err := kube.AppsV1().Deployments(namespace).Get(ctx, ref.Name, get)
		if err != nil {
			return nil, err
		}
		o.count(d.Spec.Replicas, d.Status.ReadyReplicas)
		return d, nil
	case "StatefulSet":
		s, err := kube.AppsV1().StatefulSets(namespace).Get(ctx, ref.Name, get)
		if err != nil {
			return nil, err
		}
		o.count(s.Spec.Replicas, s.Status.ReadyReplicas)
		return s, nil
	case "DaemonSet":
		d, err := kube.AppsV1().DaemonSets(namespace).Get(ctx, ref.Name, get)
		if err != nil {
			return nil, err
		}
		o.count(&d.Status.DesiredNumberScheduled, d.Status.NumberReady)
		return d, nil
	case "ReplicationController":
		r, err := kube.CoreV1().ReplicationControllers(namespace).Get(ctx, ref.Name, get)
		if err != nil {
			return nil, err
		}
		o.count(r.Spec.Replicas, r.Status.ReadyReplicas)
		return r, nil
	case "Job":
		j, err := kube.BatchV1().Jobs(namespace).Get(ctx, ref.Name, get)
		if err != nil {
			return nil, err
		}
		return j, nil
	}
	return nil, nil
}

func (o *Owner) count(wanted *int32, ready int32) {
	o.Countable, o.Wanted, o.Ready = true, 1, int(ready)
	if wanted != nil {
		o.Wanted = int(*wanted)
	}
}
