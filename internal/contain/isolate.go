package contain

import (
	"context"
	"encoding/json"

	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/contain/cluster"
	"github.com/contraband-dev/contraband/internal/retry"
	"github.com/contraband-dev/contraband/internal/sensorapi"
)

// isolate takes the pod out of every Service, controller and policy by taking
// its labels away, and cuts its network by one policy for the quarantine label.
// NetworkPolicies are additive: one beside a user's that allows would do nothing.
func (s *site) isolate(ctx context.Context) (cases.Outcome, error) {
	out, in := s.targets(ctx), towards(s.pod)
	before := s.probe(ctx, "before", out, in)
	if err := s.ensurePolicy(ctx); err != nil {
		if retry.IsRefused(err) || forGood(err) { // the policy's next action is for this
			s.acted.NotEnforced = err.Error()
		}
		return cases.Outcome{}, err
	}
	owner, err := s.owned(ctx)
	if err != nil {
		return cases.Outcome{}, err
	}
	if err := s.edit(ctx, func(pod *corev1.Pod) (map[string]any, error) { return s.strip(ctx, pod, owner) }); err != nil {
		return cases.Outcome{}, err
	}
	// It is done: whatever cannot be seen from here on is only unverified.
	s.acted.Until = s.Now().UTC().Add(s.kase.Decided.Decision.HoldDuration())
	if s.dryRun != nil {
		return s.done(), nil
	}
	if err := s.verifyIsolation(ctx, before); err != nil {
		s.acted.Unverified = err.Error()
	}
	return s.done(), nil
}

// noteOf is what people find on an isolated pod.
type noteOf struct {
	Cases  []string          `json:"cases"`
	Labels map[string]string `json:"labels"`
}

// strip is the change that isolates a pod, or that adds our case to those that do.
// What was before is on record before it is changed. Each change is of the version
// of the pod at which the record was read: two cases that take and release it at
// once see each other.
func (s *site) strip(ctx context.Context, pod *corev1.Pod, owner cluster.Owner) (map[string]any, error) {
	all, err := s.holds(ctx)
	if err != nil {
		return nil, err
	}
	me := s.me(cases.Isolate)
	labelled := pod.Labels[cluster.QuarantineLabel] != ""
	if _, held := all[me]; held && labelled && strings.Contains(pod.Annotations[quarantineNote], s.kase.ID) {
		return nil, nil
	}
	others := without(all, me)
	before, holders := byAction(others, cases.Isolate)
	value := pod.Labels[cluster.QuarantineLabel]
	if before == nil || !labelled { // nobody has isolated it, whatever is written on it
		labels := maps.Clone(pod.Labels)
		delete(labels, cluster.QuarantineLabel)
		before = &hold{Labels: labels, OwnerKind: owner.Kind, OwnerName: owner.String()}
		value = s.kase.ID
	}
	if own, held := all[me]; held { // what it was like before we touched it, whatever it is like now
		before = &own
	} else if err := s.keep(ctx, cases.Isolate, pod, others, &hold{
		Labels: before.Labels, OwnerKind: before.OwnerKind, OwnerName: before.OwnerName, Annotations: map[string]*string{},
	}); err != nil {
		return nil, err
	}
	change := map[string]any{}
	for name := range pod.Labels {
		change[name] = nil
	}
	change[cluster.QuarantineLabel] = value
	note := noteOf{Cases: append(holders, s.kase.ID), Labels: before.Labels}
	return map[string]any{"labels": change, "annotations": map[string]any{quarantineNote: mustJSON(note), safeToEvict: "false"}}, nil
}

// release gives the labels back when no other case holds the pod.
func (s *site) release(ctx context.Context) (cases.Outcome, error) {
	own, held := s.held[s.me(cases.Isolate)]
	if !held {
		_, holders := byAction(s.held, cases.Isolate)
		switch {
		case len(holders) > 0:
			s.acted.Notes = append(s.acted.Notes, fmt.Sprintf("%d other cases hold the pod: it stays isolated for them", len(holders)))
		case s.pod.Labels[cluster.QuarantineLabel] != "":
			return s.failed("the pod has the quarantine label, and what it had before is not on record: its annotation " + quarantineNote + " may say, if nobody has changed it"), nil
		default:
			s.acted.Notes = append(s.acted.Notes, "the pod was not in quarantine any more")
		}
		return s.done(), nil
	}
	left, others := 0, map[holder]hold(nil)
	err := s.edit(ctx, func(pod *corev1.Pod) (map[string]any, error) {
		all, err := s.holds(ctx)
		if err != nil {
			return nil, err
		}
		others = without(all, s.me(cases.Isolate))
		_, holders := byAction(others, cases.Isolate)
		if left = len(holders); left > 0 {
			note := noteOf{Cases: holders, Labels: own.Labels}
			return map[string]any{"annotations": map[string]any{quarantineNote: mustJSON(note)}}, nil
		}
		return s.restore(own, len(others) > 0), nil
	})
	if err != nil {
		return cases.Outcome{}, err
	}
	if err := s.letGo(ctx, cases.Isolate); err != nil {
		return cases.Outcome{}, err
	}
	if left > 0 { // the others may have let go at the same moment, each leaving it to the other
		if err := s.edit(ctx, func(pod *corev1.Pod) (map[string]any, error) {
			all, err := s.holds(ctx)
			if err != nil {
				return nil, err
			}
			_, holders := byAction(all, cases.Isolate)
			if left = len(holders); left > 0 || pod.Labels[cluster.QuarantineLabel] == "" {
				return nil, nil
			}
			return s.restore(own, len(all) > 0), nil
		}); err != nil {
			return cases.Outcome{}, err
		}
	}
	if left > 0 {
		s.acted.Notes = append(s.acted.Notes, fmt.Sprintf("%d other cases hold the pod: it stays isolated for them", left))
	} else if len(others) > 0 {
		if err := s.evictableAgain(ctx, own); err != nil {
			return cases.Outcome{}, err
		}
	}
	if own.OwnerKind == "ReplicaSet" && left == 0 {
		goes := "another of its pods goes"
		if s.Guards.ReleasedFirst() {
			goes = "this pod goes, as the policy says (guards.released_pod)"
		}
		s.acted.Notes = append(s.acted.Notes, fmt.Sprintf("%s adopts the pod again and is then one over: %s", own.OwnerName, goes))
	}
	return s.done(), nil
}

// restore is the change that gives a pod back as it was before; held tells that its
// node is still cordoned for somebody, for which the pod is to stay.
func (s *site) restore(h hold, held bool) map[string]any {
	labels := map[string]any{cluster.QuarantineLabel: nil}
	for name, value := range h.Labels {
		labels[name] = value
	}
	annotations := h.backTo()
	annotations[quarantineNote] = nil
	if held {
		delete(annotations, safeToEvict)
	}
	if h.Annotations[deletionCost] == nil { // else it is the user's own
		cost := 1 << 20 // kept as long as others can go
		if s.Guards.ReleasedFirst() {
			cost = -1 << 20
		}
		annotations[deletionCost] = strconv.Itoa(cost)
	}
	return map[string]any{"labels": labels, "annotations": annotations}
}

// ensurePolicy makes the namespace's quarantine policy, and never touches one that
// is not ours.
func (s *site) ensurePolicy(ctx context.Context) error {
	policies := s.Kube.NetworkPolicies(s.pod.Namespace)
	have, err := policies.Get(ctx, cluster.QuarantinePolicy)
	if apierrors.IsNotFound(err) {
		err = policies.Create(ctx, &networkingv1.NetworkPolicy{
			ObjectMeta: metav1.ObjectMeta{Name: cluster.QuarantinePolicy, Namespace: s.pod.Namespace, Labels: map[string]string{"app.kubernetes.io/managed-by": "contraband"}},
			Spec:       cluster.Quarantine(),
		}, metav1.CreateOptions{DryRun: s.dryRun})
		if err == nil {
			return nil
		}
		if !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("create network policy %q: %w", cluster.QuarantinePolicy, err)
		}
		have, err = policies.Get(ctx, cluster.QuarantinePolicy)
	}
	if err != nil {
		return fmt.Errorf("read network policy %q: %w", cluster.QuarantinePolicy, err)
	}
	if !cluster.IsQuarantine(have.Spec) {
		return retry.Refused(fmt.Errorf("network policy %q of namespace %q is not as we make it, and is not touched: remove it, and the next claim makes it anew", cluster.QuarantinePolicy, s.pod.Namespace))
	}
	return nil
}

func mustJSON(v any) string {
	body, err := json.Marshal(v)
	if err != nil {
		panic(err) // of a value of ours
	}
	return string(body)
}

// endpointsPatience is how long the endpoint slices have to follow the labels.
const endpointsPatience = 10 * time.Second

// verifyIsolation sees that no Service lists the pod, that no other policy selects
// it, that the cluster enforces policies, and that what could be reached before
// cannot be any more.
func (s *site) verifyIsolation(ctx context.Context, before []sensorapi.Reached) error {
	var holds []string
	err := wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, endpointsPatience, true, func(ctx context.Context) (bool, error) {
		listed, err := s.listedBy(ctx)
		if err == nil && len(listed) > 0 {
			s.acted.Unverified = "still an endpoint of " + strings.Join(listed, ", ")
		} else if err == nil {
			s.acted.Unverified = ""
		}
		return len(listed) == 0, err
	})
	switch {
	case err == nil:
		holds = append(holds, "no Service lists the pod")
	case !wait.Interrupted(err):
		return err
	}
	if s.acted.NotEnforced, err = s.notEnforced(ctx); err != nil {
		return err
	}
	if s.acted.NotEnforced == "" {
		cut, why := s.probeUntilCut(ctx, before)
		switch {
		case why != "":
			s.acted.NotEnforced = why
		case cut != "":
			holds = append(holds, cut)
		case s.acted.Unverified == "":
			s.acted.Unverified = "no connection could be tried before and after, so that policies are enforced is known from the cluster's description alone (" + s.Enforces + ")"
		}
	}
	s.acted.Verified = strings.Join(holds, "; ")
	return nil
}

// enforcePatience is how long a network has to learn of a policy: a connection
// that is possible a moment after says nothing yet.
const enforcePatience = 10 * time.Second

// probeUntilCut tries again what was reached before, until it is not any more.
func (s *site) probeUntilCut(ctx context.Context, before []sensorapi.Reached) (cut, flows string) {
	var out, in []string // what was reached
	for _, r := range before {
		switch {
		case r.OK && r.Inward:
			in = append(in, r.Target)
		case r.OK:
			out = append(out, r.Target)
		}
	}
	if len(out)+len(in) == 0 {
		return "", ""
	}
	until := time.Now().Add(enforcePatience)
	for i := 1; ; i++ {
		cut, flows = cutOff(before, s.probe(ctx, fmt.Sprintf("after%d", i), out, in))
		if flows == "" || time.Now().After(until) {
			return cut, flows
		}
		select {
		case <-ctx.Done():
			return cut, flows
		case <-time.After(time.Duration(i) * 200 * time.Millisecond):
		}
	}
}

// listedBy are the Services that have the pod as an endpoint that takes traffic.
func (s *site) listedBy(ctx context.Context) ([]string, error) {
	list, err := s.Kube.EndpointSlices(s.pod.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list endpoint slices: %w", err)
	}
	var out []string
	for _, slice := range list.Items {
		for _, e := range slice.Endpoints {
			if e.TargetRef != nil && e.TargetRef.UID == s.pod.UID {
				out = append(out, slice.Labels[discoveryv1.LabelServiceName])
			}
		}
	}
	return slices.Compact(slices.Sorted(slices.Values(out))), nil
}

// notEnforced returns why the policy does nothing, as far as objects tell.
func (s *site) notEnforced(ctx context.Context) (string, error) {
	if s.Enforces == "" {
		return "network policies are not enforced on this cluster, by its own description", nil
	}
	if s.pod.Spec.HostNetwork {
		return "the pod is in its node's network, where no policy reaches it", nil
	}
	policies, err := s.Kube.NetworkPolicies(s.pod.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return "", fmt.Errorf("list network policies: %w", err)
	}
	for _, p := range policies.Items {
		selector, err := metav1.LabelSelectorAsSelector(&p.Spec.PodSelector)
		if err != nil || !selector.Matches(labels.Set(s.pod.Labels)) || p.Name == cluster.QuarantinePolicy {
			continue
		}
		if len(p.Spec.Ingress)+len(p.Spec.Egress) > 0 { // policies add up: what it allows stays allowed
			return fmt.Sprintf("network policy %q selects every pod of the namespace and allows traffic; it is not ours to change", p.Name), nil
		}
	}
	return "", nil
}

// probe has the sensor try connections out of the pod and towards it. What cannot
// be tried is nothing: isolation does not wait for it.
func (s *site) probe(ctx context.Context, when string, targets, towards []string) []sensorapi.Reached {
	o := s.order(sensorapi.Probe, "."+when)
	o.Targets, o.Towards = targets, towards
	if s.dryRun != nil || len(o.Targets)+len(o.Towards) == 0 {
		return nil
	}
	status, err := s.orders().Execute(ctx, s.claim.Node, o)
	switch {
	case err != nil:
		s.acted.Notes = append(s.acted.Notes, "probe "+when+": "+err.Error())
	case !status.Done:
		s.acted.Notes = append(s.acted.Notes, "probe "+when+": "+status.Error)
	}
	return status.Reached
}

// targets inside the cluster: its API server and its name service.
func (s *site) targets(ctx context.Context) []string {
	var out []string
	add := func(namespace, selector string) {
		list, err := s.Kube.EndpointSlices(namespace).List(ctx, metav1.ListOptions{LabelSelector: selector})
		if err != nil {
			s.acted.Notes = append(s.acted.Notes, "probe: "+err.Error())
			return
		}
		for _, slice := range list.Items {
			for _, p := range slice.Ports {
				if p.Port == nil || p.Protocol == nil || *p.Protocol != corev1.ProtocolTCP || len(slice.Endpoints) == 0 || len(slice.Endpoints[0].Addresses) == 0 {
					continue
				}
				if target := slice.Endpoints[0].Addresses[0] + ":" + strconv.Itoa(int(*p.Port)); sensorapi.InCluster(target) == nil {
					out = append(out, target)
					break
				}
			}
		}
	}
	add("default", discoveryv1.LabelServiceName+"=kubernetes")
	add("kube-system", "k8s-app=kube-dns")
	return out[:min(len(out), sensorapi.MaxTargets/2)]
}

// towards are the pod's declared TCP ports.
func towards(pod *corev1.Pod) []string {
	ip, err := netip.ParseAddr(pod.Status.PodIP)
	if err != nil {
		return nil
	}
	var out []string
	for _, c := range pod.Spec.Containers {
		for _, p := range c.Ports {
			if target := netip.AddrPortFrom(ip, uint16(p.ContainerPort)).String(); (p.Protocol == "" || p.Protocol == corev1.ProtocolTCP) && sensorapi.InCluster(target) == nil {
				out = append(out, target)
			}
		}
	}
	return out[:min(len(out), sensorapi.MaxTargets/2)]
}

// cutOff compares what was reached before and after. It returns what was seen to
// be cut, or why traffic still flows, or nothing where nothing was reached before.
func cutOff(before, after []sensorapi.Reached) (cut, flows string) {
	var worked int
	for _, b := range before {
		if !b.OK {
			continue
		}
		i := slices.IndexFunc(after, func(a sensorapi.Reached) bool { return a.Target == b.Target && a.Inward == b.Inward })
		switch {
		case i < 0:
		case after[i].OK && b.Inward:
			return "", "the pod can still be reached at " + b.Target
		case after[i].OK:
			return "", "the pod still reaches " + b.Target
		default:
			worked++
		}
	}
	if worked == 0 {
		return "", ""
	}
	return fmt.Sprintf("%d connections that were possible before are not any more", worked), ""
}
