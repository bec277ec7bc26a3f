package cluster

import (
	"context"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/contraband-dev/contraband/internal/cases"
)

// Owner is what owns a pod, followed to the root, with its replicas where they
// can be counted.
type Owner struct {
	Kind      string // of the pod's own controller, such as ReplicaSet; "" for a bare pod
	Chain     []cases.Owner
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
func RootOwner(ctx context.Context, kube *Kube, pod *corev1.Pod) (Owner, error) {
	ref := metav1.GetControllerOf(pod)
	if ref == nil {
		return Owner{}, nil
	}
	o := Owner{Kind: kindOf(ref)}
	for range 4 { // pod, ReplicaSet, Deployment; a loop in the references ends here
		if ref == nil {
			break
		}
		o.Chain = append(o.Chain, cases.Owner{Kind: kindOf(ref), Name: ref.Name})
		owner, count, err := read(ctx, kube, pod.Namespace, ref)
		if err != nil && !apierrors.IsNotFound(err) {
			return o, err
		}
		if err != nil || owner != nil && owner.GetUID() != ref.UID { // gone, or another has the name
			if len(o.Chain) == 1 {
				o.Kind = "" // nothing owns the pod, whatever is written on it
			}
			break
		}
		if owner == nil {
			break
		}
		if count.Countable { // over the ReplicaSets of a rollout, the root's
			o.Wanted, o.Ready, o.Countable = count.Wanted, count.Ready, true
		}
		o.Objects = append(o.Objects, owner)
		ref = metav1.GetControllerOf(owner)
	}
	return o, nil
}

// known are the kinds whose objects mean what their names say, with their groups:
// anybody may have a Job of his own group.
var known = map[string]string{
	"ReplicaSet": "apps", "Deployment": "apps", "StatefulSet": "apps", "DaemonSet": "apps", "ReplicationController": "", "Job": "batch", "Node": "",
}

// kindOf is an owner's kind; with its group where another's object has the name of
// one of Kubernetes' own.
func kindOf(ref *metav1.OwnerReference) string {
	group, _, ok := strings.Cut(ref.APIVersion, "/")
	if !ok {
		group = ""
	}
	if own, ok := known[ref.Kind]; ok && own != group {
		return ref.Kind + "." + group
	}
	return ref.Kind
}

// read reads one owner and its replicas; nil for a kind that we do not know.
func read(ctx context.Context, kube *Kube, namespace string, ref *metav1.OwnerReference) (metav1.Object, Owner, error) {
	switch kindOf(ref) {
	case "ReplicaSet":
		r, err := get[appsv1.ReplicaSet](ctx, kube, apps, "replicasets", namespace, ref.Name)
		if err != nil {
			return nil, Owner{}, err
		}
		return r, count(r.Spec.Replicas, r.Status.ReadyReplicas), nil
	case "Deployment":
		d, err := get[appsv1.Deployment](ctx, kube, apps, "deployments", namespace, ref.Name)
		if err != nil {
			return nil, Owner{}, err
		}
		return d, count(d.Spec.Replicas, d.Status.ReadyReplicas), nil
	case "StatefulSet":
		s, err := get[appsv1.StatefulSet](ctx, kube, apps, "statefulsets", namespace, ref.Name)
		if err != nil {
			return nil, Owner{}, err
		}
		return s, count(s.Spec.Replicas, s.Status.ReadyReplicas), nil
	case "DaemonSet":
		d, err := get[appsv1.DaemonSet](ctx, kube, apps, "daemonsets", namespace, ref.Name)
		if err != nil {
			return nil, Owner{}, err
		}
		return d, count(&d.Status.DesiredNumberScheduled, d.Status.NumberReady), nil
	case "ReplicationController":
		r, err := get[corev1.ReplicationController](ctx, kube, core, "replicationcontrollers", namespace, ref.Name)
		if err != nil {
			return nil, Owner{}, err
		}
		return r, count(r.Spec.Replicas, r.Status.ReadyReplicas), nil
	case "Job":
		j, err := get[batchv1.Job](ctx, kube, "/apis/batch/v1", "jobs", namespace, ref.Name)
		if err != nil {
			return nil, Owner{}, err
		}
		return j, Owner{}, nil
	}
	return nil, Owner{}, nil
}

func count(wanted *int32, ready int32) Owner {
	o := Owner{Countable: true, Wanted: 1, Ready: int(ready)}
	if wanted != nil {
		o.Wanted = int(*wanted)
	}
	return o
}
