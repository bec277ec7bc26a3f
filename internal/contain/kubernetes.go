package contain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/contain/cluster"
	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/internal/policy/guards"
	"github.com/contraband-dev/contraband/internal/retry"
	"github.com/contraband-dev/contraband/internal/sensorapi"
)

// Marks that Contain leaves on what it has changed.
const (
	// quarantineNote is an annotation of an isolated pod: for people, what it takes to
	// release it. It is never read for anything else: whoever may edit the pod can change it.
	quarantineNote = "contraband.dev/quarantine"
	// cordonNote is an annotation of a node that we have cordoned.
	cordonNote = "contraband.dev/cordon"

	safeToEvict  = "cluster-autoscaler.kubernetes.io/safe-to-evict"
	noScaleDown  = "cluster-autoscaler.kubernetes.io/scale-down-disabled"
	deletionCost = "controller.kubernetes.io/pod-deletion-cost"
)

// site is a task on a cluster, with the pod as it is now.
type site struct {
	task
	*cluster.Cluster
	pod   *corev1.Pod     // nil: gone, or another has its name
	owner *cluster.Owner  // once it was looked up
	held  map[holder]hold // what holds the pod, as it was found
	young bool            // another pod of the workload was frozen just now, or is about to be
}

// owned looks up the pod's owner, once.
func (s *site) owned(ctx context.Context) (cluster.Owner, error) {
	if s.owner == nil {
		o, err := cluster.RootOwner(ctx, s.Kube, s.pod)
		if err != nil {
			return o, fmt.Errorf("look up the owner of pod %q: %w", s.pod.Name, err)
		}
		s.owner = &o
	}
	return *s.owner, nil
}

// onCluster carries out a claim about a pod: the API server must agree on what
// the finding says of it, then the guards, then the budgets, then the action.
func (c *Executor) onCluster(ctx context.Context, t task) (cases.Outcome, error) {
	f := t.kase.Decided.Finding
	reached, err := c.Clusters.Find(ctx, finding.Place{Project: f.Project, Location: f.Location, Cluster: f.Cluster})
	if retry.IsRefused(err) {
		return t.failed(err.Error()), nil
	}
	if err != nil {
		return cases.Outcome{}, err
	}
	s := &site{task: t, Cluster: reached}
	undoes := cases.UndoneBy(t.claim.Action) != ""                      // that is never a dry run: what was done before holds
	if c.Guards.DryRun && !undoes && t.claim.Action != cases.Evidence { // reading changes nothing
		s.dryRun = []string{metav1.DryRunAll}
	}
	why, err := s.find(ctx)
	if err != nil {
		return s.answer(err)
	}
	if why != "" && t.claim.Action != cases.Thaw && t.claim.Action != cases.Uncordon { // a container that was replaced needs no thaw
		return s.failed("refused: " + why), nil
	}
	if s.pod == nil && t.claim.Action != cases.Uncordon && t.claim.Action != cases.Evidence {
		return s.podGone(), nil // nor is a node cordoned on a finding's word alone
	}
	for _, guard := range []func(context.Context) (string, error){s.unconfirmed, s.guarded} {
		why, err := guard(ctx)
		if err != nil {
			return s.answer(err)
		}
		if why != "" {
			return s.failed("refused: " + why), nil
		}
	}
	acted, err := s.act(ctx)
	if err != nil {
		return s.answer(err)
	}
	if s.dryRun != nil && acted.Done {
		acted.Done, acted.Error = false, "dry run: the API server would have taken it (guards.dry_run)"
	}
	return acted, nil
}

func (s *site) act(ctx context.Context) (cases.Outcome, error) {
	switch s.claim.Action {
	case cases.Freeze:
		return s.freeze(ctx)
	case cases.Thaw:
		return s.thaw(ctx)
	case cases.Evidence:
		return s.evidence(ctx)
	case cases.Isolate:
		return s.isolate(ctx)
	case cases.Release:
		return s.release(ctx)
	case cases.Cordon:
		return s.cordon(ctx)
	case cases.Uncordon:
		return s.uncordon(ctx)
	case cases.Evict:
		return s.evict(ctx)
	case cases.Delete:
		return s.delete(ctx)
	}
	return s.failed(fmt.Sprintf("action %q is unknown", s.claim.Action)), nil
}

// answer makes an outcome of what the API server says for good, and leaves what
// may pass an error.
func (s *site) answer(err error) (cases.Outcome, error) {
	if errors.Is(err, errSuccessor) {
		return s.podGone(), nil
	}
	if retry.IsRefused(err) || forGood(err) {
		if apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) { // rights are given, and take time to be known
			s.acted.RetryAt = s.tryAgain()
		}
		return s.failed(err.Error()), nil
	}
	return cases.Outcome{}, err
}

// forGood reports whether the same request again would fail the same way.
func forGood(err error) bool {
	return apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) || apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) ||
		apierrors.IsMethodNotSupported(err) || apierrors.IsNotFound(err) || apierrors.IsRequestEntityTooLargeError(err)
}

// podGone is the outcome of an action on a pod that no longer exists: what would have
// removed it has its aim, what would have undone something has nothing left.
func (s *site) podGone() cases.Outcome {
	note := fmt.Sprintf("pod %q with UID %q is gone; another of its name would not have been touched", s.kase.Decided.Finding.Pod.Name, s.claim.PodUID)
	s.acted.TargetGone = true
	if cases.Destroys(s.claim.Action) {
		s.acted.Notes = append(s.acted.Notes, note)
		return s.done()
	}
	return s.failed(note)
}

// find reads the pod, and returns why it is not the one that the finding names.
// A pod that is gone, or has a successor of its name, is no disagreement.
func (s *site) find(ctx context.Context) (string, error) {
	f := s.kase.Decided.Finding
	if s.claim.PodUID == "" && s.claim.ContainerID == "" {
		return "the finding names neither the pod's UID nor a container: whatever has the pod's name now may be another", nil
	}
	pod, err := s.Kube.Pods(f.Pod.Namespace).Get(ctx, f.Pod.Name)
	if apierrors.IsNotFound(err) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read pod %q: %w", f.ShortName(), err)
	}
	if s.claim.PodUID != "" && string(pod.UID) != s.claim.PodUID {
		return "", nil // a successor
	}
	if pod.Spec.NodeName != path.Base(f.Node) {
		return fmt.Sprintf("the API server says that the pod runs on node %q, the finding says %q", pod.Spec.NodeName, f.Node), nil
	}
	s.pod = pod
	if s.held, err = s.holds(ctx); err != nil {
		return "", err
	}
	if s.claim.ContainerID != "" && !cluster.Had(pod, s.claim.ContainerID) && !s.agreedBefore() {
		s.pod = nil
		return fmt.Sprintf("the API server knows no container %q in the pod: it was replaced, or never there", s.claim.ContainerID), nil
	}
	return "", nil
}

// agreedBefore reports whether an earlier action of this case was done on this pod,
// UID and all: its container may have been restarted since.
func (s *site) agreedBefore() bool {
	return slices.ContainsFunc(slices.Collect(maps.Keys(s.held)), func(h holder) bool { return h.Case == s.kase.ID }) ||
		s.claim.PodUID != "" && slices.ContainsFunc(s.kase.Claims, func(c cases.Claim) bool {
			return c.N < s.n && c.PodUID == s.claim.PodUID && c.Outcome != nil && c.Outcome.Done
		})
}

// unconfirmed returns why the sensor of the pod's own node does not stand behind
// the finding. A topic distinguishes clusters, not nodes: without this a
// node in an attacker's hands could have any pod of the cluster contained. A freeze
// and the program are that sensor's to do or to refuse; Google's findings are not a
// node's word; and a person may evict a pod whose node is silent.
func (s *site) unconfirmed(ctx context.Context) (string, error) {
	reaches := slices.Contains([]string{cases.Isolate, cases.Cordon, cases.Evict, cases.Delete}, s.claim.Action)
	if s.kase.Decided.Finding.Sensor == nil || !reaches || s.pod == nil || s.claim.Click != "" {
		return "", nil
	}
	if slices.ContainsFunc(s.kase.Claims, func(c cases.Claim) bool {
		return c.N < s.n && c.PodUID == s.claim.PodUID && c.Node == s.claim.Node && c.ContainerID == s.claim.ContainerID && c.Outcome != nil && c.Outcome.Confirmed
	}) {
		return "", nil
	}
	o := s.order(sensorapi.Inspect, ".confirm")
	o.SHA256 = s.toConfirm()
	status, err := s.orders().Execute(ctx, s.claim.Node, o)
	switch {
	case retry.IsRefused(err):
		s.acted.RetryAt = s.notCarried(err).RetryAt
		return "the sensor of the pod's own node does not confirm the finding: " + err.Error(), nil
	case err != nil:
		return "", err
	case status.Refused:
		return "the sensor of the pod's own node knows nothing of it: " + status.Error, nil
	case !status.Done && !status.Gone: // it cannot say
		s.acted.RetryAt = s.tryAgain()
		return "the sensor of the pod's own node cannot confirm the finding now: " + status.Error, nil
	}
	s.acted.Confirmed = true
	return "", nil
}

// guarded runs the guards on the pod as it is, and wins the budgets.
func (s *site) guarded(ctx context.Context) (string, error) {
	action := s.claim.Action
	if cases.UndoneBy(action) != "" || action == cases.Evidence || s.pod == nil {
		return "", nil
	}
	begun, err := s.begun(ctx)
	if err != nil || begun {
		return "", err
	}
	p, err := s.seen(ctx)
	if err != nil {
		return "", err
	}
	if why, passing := s.Guards.RefusesPod(action, p); why != "" {
		if passing {
			s.acted.RetryAt = s.tryAgain()
		}
		if s.young { // should that one be refused, this one may be frozen
			s.acted.RetryAt = s.Now().UTC().Add(settled)
		}
		return why, s.notFrozenAfterAll(ctx, p)
	}
	if s.dryRun != nil {
		return "", nil
	}
	workload := ""
	if p.Owner != "" {
		workload = strings.Join([]string{s.kase.Decided.Finding.Cluster, p.Namespace, p.Name}, "/")
	}
	why, err := s.overBudget(ctx, workload)
	if err == nil && why != "" {
		spent := s.nextHour(why)
		s.acted.RetryAt, s.acted.OverBudget = spent.RetryAt, spent.OverBudget
		err = s.notFrozenAfterAll(ctx, p)
	}
	return why, err
}

// begun reports whether an earlier try of this claim has changed what it is to change,
// or the case holds the pod so already and is to hold it longer: it is then finished,
// whatever the guards would say of beginning it now.
func (s *site) begun(ctx context.Context) (bool, error) {
	if s.dryRun != nil {
		return false, nil
	}
	switch s.claim.Action {
	case cases.Freeze:
		if s.kase.InForce(cases.Freeze) {
			return true, nil
		}
		_, err := s.orderObjects().Get(ctx, s.order("", "").ID, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return false, nil
		}
		return err == nil, err
	case cases.Isolate:
		_, held := s.held[s.me(cases.Isolate)]
		return held && s.pod.Labels[cluster.QuarantineLabel] != "", nil
	case cases.Cordon:
		n, err := s.Kube.Nodes().Get(ctx, s.pod.Spec.NodeName)
		if err != nil {
			return false, fmt.Errorf("read node %q: %w", s.pod.Spec.NodeName, err)
		}
		c := readCordon(n)
		return c != nil && slices.Contains(c.Cases, s.kase.ID), nil
	}
	return false, nil
}

// notFrozenAfterAll: a freeze that is refused counts for no other.
func (s *site) notFrozenAfterAll(ctx context.Context, p guards.Pod) error {
	if s.claim.Action != cases.Freeze || p.Name == "" {
		return nil
	}
	return s.notFrozen(ctx, p.Name)
}

// seen is the pod as the guards look at it.
func (s *site) seen(ctx context.Context) (guards.Pod, error) {
	pod := s.pod
	p := guards.Pod{
		Namespace: pod.Namespace, Static: isStatic(pod), Critical: isCritical(pod), Ready: isReady(pod),
		Terminated: pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed,
	}
	if h, _ := byAction(s.held, cases.Isolate); h != nil && pod.Labels[cluster.QuarantineLabel] != "" { // its owner has let it go already
		p.Owner, p.Name, p.Ready = h.OwnerKind, h.OwnerName, false
		return p, nil
	}
	o, err := s.owned(ctx)
	if err != nil {
		return p, err
	}
	p.Owner, p.Name, p.Wanted, p.ReadyNow, p.Countable = o.Kind, o.String(), o.Wanted, o.Ready, o.Countable
	if p.Owner != "" {
		frozen, young, err := s.countFrozen(ctx, p.Name)
		if err != nil {
			return p, err
		}
		p.ReadyNow, s.young = p.ReadyNow-frozen, young
	}
	budgets, err := s.Kube.PodDisruptionBudgets(pod.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return p, fmt.Errorf("list disruption budgets: %w", err)
	}
	for _, b := range budgets.Items {
		if exhausted(b, pod) {
			p.Exhausted = append(p.Exhausted, b.Name)
		}
	}
	return p, nil
}

// exhausted: a budget whose state is older than its text counts as spent.
func exhausted(b policyv1.PodDisruptionBudget, pod *corev1.Pod) bool {
	selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
	if err != nil || !selector.Matches(labels.Set(pod.Labels)) {
		return err != nil
	}
	return b.Status.DisruptionsAllowed < 1 || b.Status.ObservedGeneration < b.Generation
}

func isStatic(pod *corev1.Pod) bool {
	_, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]
	return mirror // an API server takes that annotation from kubelets alone
}

// isCritical goes by what an owner cannot write on a pod: a label would switch
// containment off for whoever may set one.
func isCritical(pod *corev1.Pod) bool {
	class := pod.Spec.PriorityClassName
	return class == "system-node-critical" || class == "system-cluster-critical"
}

func isReady(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// edit changes the pod's metadata, as long as it is the pod that was found: change
// is called with the pod as it is then, and returns a merge patch of metadata, or
// nil when there is nothing to change.
func (s *site) edit(ctx context.Context, change func(*corev1.Pod) (map[string]any, error)) error {
	for range 10 {
		meta, err := change(s.pod)
		if err != nil || meta == nil {
			return err
		}
		meta["uid"], meta["resourceVersion"] = s.pod.UID, s.pod.ResourceVersion
		body, err := json.Marshal(map[string]any{"metadata": meta})
		if err != nil {
			return retry.Refused(err)
		}
		pods := s.Kube.Pods(s.pod.Namespace)
		pod, err := pods.Patch(ctx, s.pod.Name, types.MergePatchType, body, metav1.PatchOptions{DryRun: s.dryRun})
		if err == nil {
			s.pod = pod
			return nil
		}
		if apierrors.IsNotFound(err) {
			return errSuccessor
		}
		if !apierrors.IsConflict(err) {
			return fmt.Errorf("change pod %q: %w", s.pod.Name, err)
		}
		// It was changed since, by its kubelet most likely, or is not itself any more.
		now, err := pods.Get(ctx, s.pod.Name)
		if apierrors.IsNotFound(err) || err == nil && now.UID != s.pod.UID {
			return errSuccessor
		}
		if err != nil {
			return fmt.Errorf("read pod %q: %w", s.pod.Name, err)
		}
		s.pod = now
	}
	return fmt.Errorf("change pod %q: it changes faster than it can be read", s.pod.Name)
}

var errSuccessor = retry.Refused(errors.New("the pod is gone; another of its name is not touched"))

// evict asks the Eviction API, which honours disruption budgets.
func (s *site) evict(ctx context.Context) (cases.Outcome, error) {
	eviction := &policyv1.Eviction{
		ObjectMeta:    metav1.ObjectMeta{Name: s.pod.Name, Namespace: s.pod.Namespace},
		DeleteOptions: s.deletion(),
	}
	return s.removed(ctx, s.Kube.Pods(s.pod.Namespace).Evict(ctx, eviction))
}

func (s *site) delete(ctx context.Context) (cases.Outcome, error) {
	err := s.Kube.Pods(s.pod.Namespace).Delete(ctx, s.pod.Name, *s.deletion())
	return s.removed(ctx, err)
}

// deletion is of this pod and no successor of its name.
func (s *site) deletion() *metav1.DeleteOptions {
	grace := int64(cases.MaxGrace.Seconds())
	if own := s.pod.Spec.TerminationGracePeriodSeconds; own != nil {
		grace = min(grace, *own)
	}
	return &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &s.pod.UID}, GracePeriodSeconds: &grace, DryRun: s.dryRun}
}

// putOff is how long a disruption budget is given before an eviction is tried again.
const putOff = time.Minute

// severalBudgets recognises the API server's permanent refusal to evict a pod that more than
// one disruption budget selects: it comes as an internal error and has no reason.
func severalBudgets(err error) bool {
	return err != nil && strings.Contains(err.Error(), "more than one PodDisruptionBudget")
}

// removed makes an outcome of the API server's answer, and sees for itself.
func (s *site) removed(ctx context.Context, err error) (cases.Outcome, error) {
	conflict := apierrors.IsConflict(err) // another UID, or a budget that others were changing
	switch {
	case apierrors.IsTooManyRequests(err):
		s.acted.RetryAt = s.Now().UTC().Add(putOff)
		return s.failed("not yet: " + err.Error()), nil
	case apierrors.IsNotFound(err):
		return s.podGone(), nil
	case severalBudgets(err):
		return s.failed(err.Error()), nil
	case err != nil && !conflict:
		return cases.Outcome{}, fmt.Errorf("%s pod %q: %w", s.claim.Action, s.pod.Name, err)
	case s.dryRun != nil:
		return s.done(), nil
	}
	said := err
	now, err := s.Kube.Pods(s.pod.Namespace).Get(ctx, s.pod.Name)
	switch {
	case conflict && (apierrors.IsNotFound(err) || err == nil && now.UID != s.pod.UID):
		return s.podGone(), nil
	case conflict && err == nil && now.DeletionTimestamp == nil:
		s.acted.RetryAt = s.Now().UTC().Add(putOff)
		return s.failed("not yet: " + said.Error()), nil
	case conflict && err != nil:
		return cases.Outcome{}, fmt.Errorf("%s pod %q: %w", s.claim.Action, s.pod.Name, errors.Join(said, err))
	case apierrors.IsNotFound(err), err == nil && now.UID != s.pod.UID:
		s.acted.Verified = "the pod is gone"
	case err == nil && now.DeletionTimestamp != nil:
		s.acted.Verified = fmt.Sprintf("the pod is going, in %d s at most", *now.DeletionGracePeriodSeconds)
	case err == nil:
		return cases.Outcome{}, fmt.Errorf("%s pod %q: taken, but the pod stays", s.claim.Action, s.pod.Name)
	default:
		s.acted.Unverified = err.Error()
	}
	return s.done(), nil
}
