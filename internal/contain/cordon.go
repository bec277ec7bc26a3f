package contain

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/retry"
)

// cordonOf is kept on a node that we have cordoned: who holds it, and what was
// there before.
type cordonOf struct {
	Cases     []string `json:"cases"`
	ScaleDown *string  `json:"scaleDown,omitempty"` // the annotation's value before; nil: none
	Theirs    bool     `json:"theirs,omitempty"`    // somebody else had cordoned it
}

func readCordon(n *corev1.Node) *cordonOf {
	var c cordonOf
	if json.Unmarshal([]byte(n.Annotations[cordonNote]), &c) != nil {
		return nil
	}
	return &c
}

// cordon keeps new pods from the node, and the node and the pod from the autoscaler.
func (s *site) cordon(ctx context.Context) (cases.Outcome, error) {
	theirs := false
	n, err := s.editNode(ctx, func(n *corev1.Node) (spec, annotations map[string]any) {
		c := readCordon(n)
		if c != nil && slices.Contains(c.Cases, s.kase.ID) {
			theirs = c.Theirs
			return nil, nil
		}
		if c == nil {
			c = &cordonOf{Theirs: n.Spec.Unschedulable}
			if before, ok := n.Annotations[noScaleDown]; ok {
				c.ScaleDown = &before
			}
		}
		theirs = c.Theirs
		c.Cases = append(c.Cases, s.kase.ID)
		return map[string]any{"unschedulable": true}, map[string]any{cordonNote: mustJSON(c), noScaleDown: "true"}
	})
	if err != nil {
		return cases.Outcome{}, err
	}
	if n.Spec.Unschedulable && n.Annotations[noScaleDown] == "true" {
		s.acted.Verified = "the node takes no pods, and the autoscaler leaves it"
	}
	if theirs {
		s.acted.Notes = append(s.acted.Notes, "somebody else had cordoned the node: it stays cordoned at the release")
	}
	if s.pod != nil { // the node is cordoned: that the pod cannot be protected is only reported
		if err := s.protect(ctx); err != nil {
			s.acted.Notes = append(s.acted.Notes, "the pod is not protected from the autoscaler: "+err.Error())
		}
	}
	return s.done(), nil
}

// protect keeps the autoscaler from evicting the pod while evidence is in it.
func (s *site) protect(ctx context.Context) error {
	return s.edit(ctx, func(pod *corev1.Pod) (map[string]any, error) {
		all, err := s.holds(ctx)
		if err != nil {
			return nil, err
		}
		me := s.me(cases.Cordon)
		if _, held := all[me]; !held {
			if err := s.keep(ctx, cases.Cordon, pod, without(all, me), nil); err != nil {
				return nil, err
			}
		} else if pod.Annotations[safeToEvict] == "false" {
			return nil, nil
		}
		return map[string]any{"annotations": map[string]any{safeToEvict: "false"}}, nil
	})
}

// unprotect gives the pod's annotation back, when nobody else wants it so.
func (s *site) unprotect(ctx context.Context) error {
	own, held := s.held[s.me(cases.Cordon)]
	if !held {
		return nil
	}
	err := s.edit(ctx, func(*corev1.Pod) (map[string]any, error) {
		all, err := s.holds(ctx)
		if err != nil || len(without(all, s.me(cases.Cordon))) > 0 {
			return nil, err
		}
		back := own.backTo()
		delete(back, deletionCost) // a cordon does not change it
		return map[string]any{"annotations": back}, nil
	})
	if err != nil {
		return err
	}
	if err := s.letGo(ctx, cases.Cordon); err != nil {
		return err
	}
	return s.evictableAgain(ctx, own)
}

// evictableAgain gives the pod's annotation back where the last two that held it let go at
// the same moment, each leaving it to the other.
func (s *site) evictableAgain(ctx context.Context, own hold) error {
	return s.edit(ctx, func(pod *corev1.Pod) (map[string]any, error) {
		all, err := s.holds(ctx)
		if before := own.Annotations[safeToEvict]; err != nil || len(all) > 0 || pod.Annotations[safeToEvict] != "false" || before != nil && *before == "false" {
			return nil, err
		}
		return map[string]any{"annotations": map[string]any{safeToEvict: own.backTo()[safeToEvict]}}, nil
	})
}

// uncordon undoes only what we have done, when no other case holds the node.
func (s *site) uncordon(ctx context.Context) (cases.Outcome, error) {
	left := 0
	_, err := s.editNode(ctx, func(n *corev1.Node) (spec, annotations map[string]any) {
		c := readCordon(n)
		if c == nil || !slices.Contains(c.Cases, s.kase.ID) {
			return nil, nil
		}
		c.Cases = slices.DeleteFunc(c.Cases, func(id string) bool { return id == s.kase.ID })
		if left = len(c.Cases); left > 0 {
			return nil, map[string]any{cordonNote: mustJSON(c)}
		}
		var before any // null: the annotation goes
		if c.ScaleDown != nil {
			before = *c.ScaleDown
		}
		if !c.Theirs {
			spec = map[string]any{"unschedulable": nil}
		}
		return spec, map[string]any{cordonNote: nil, noScaleDown: before}
	})
	switch {
	case apierrors.IsNotFound(err):
		s.acted.Notes = append(s.acted.Notes, "the node is gone")
	case err != nil:
		return cases.Outcome{}, err
	case left > 0:
		s.acted.Notes = append(s.acted.Notes, fmt.Sprintf("%d other cases hold the node: it stays cordoned for them", left))
	}
	if s.pod != nil {
		if err := s.unprotect(ctx); err != nil && !retry.IsRefused(err) {
			return cases.Outcome{}, err
		}
	}
	return s.done(), nil
}

// editNode changes the node as it is when it is changed, and returns it as it is then.
func (s *site) editNode(ctx context.Context, change func(*corev1.Node) (spec, annotations map[string]any)) (*corev1.Node, error) {
	name := path.Base(s.claim.Node)
	nodes := s.Kube.Nodes()
	for range 10 {
		n, err := nodes.Get(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("read node %q: %w", name, err)
		}
		spec, annotations := change(n)
		if spec == nil && annotations == nil {
			return n, nil
		}
		patch := map[string]any{"metadata": map[string]any{"uid": n.UID, "resourceVersion": n.ResourceVersion, "annotations": annotations}}
		if spec != nil {
			patch["spec"] = spec
		}
		n, err = nodes.Patch(ctx, name, types.MergePatchType, []byte(mustJSON(patch)), metav1.PatchOptions{DryRun: s.dryRun})
		if err == nil {
			return n, nil
		}
		if !apierrors.IsConflict(err) {
			return nil, fmt.Errorf("change node %q: %w", name, err)
		}
	}
	return nil, fmt.Errorf("change node %q: it changes faster than it can be read", name)
}
