package contain

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/contain/cluster"
	"github.com/contraband-dev/contraband/internal/retry"
)

func (s *site) freeze(ctx context.Context) (cases.Outcome, error) {
	if s.dryRun != nil {
		return s.done(), nil
	}
	owner, err := s.owned(ctx)
	if err != nil {
		return cases.Outcome{}, err
	}
	orders := s.orders().(clusterOrders)
	orders.keep = true
	acted, err := s.freezeOrThaw(ctx, orders)
	if err != nil && (retry.IsRefused(err) || forGood(err)) { // no order was even made
		return acted, errors.Join(err, s.notFrozen(ctx, owner.String()))
	}
	if err != nil {
		return acted, err
	}
	if !acted.Done { // only what is frozen is shown, and counts
		if object, err := s.orderObjects().Get(ctx, s.order("", "").ID, metav1.GetOptions{}); err == nil {
			orders.forget(ctx, object)
		}
		return acted, s.notFrozen(ctx, owner.String())
	}
	if acted.Workload = owner.String(); owner.Kind != "" && s.kase.InForce(cases.Freeze) { // it lasts longer than was on record
		if err := s.isFrozen(ctx, acted.Workload, acted.Until); err != nil {
			acted.Notes = append(acted.Notes, err.Error())
		}
	}
	if life, probe := freezeLife(s.pod, s.claim.ContainerID); life > 0 {
		acted.RestartsAt = acted.At.Add(life)
		acted.Notes = append(acted.Notes, fmt.Sprintf("the kubelet's %s cannot be answered while it is frozen: it restarts the container in about %s, and what was in memory is lost then", probe, life))
	}
	return acted, nil
}

// thaw gives the container back, and removes the orders that say it is frozen.
func (s *site) thaw(ctx context.Context) (cases.Outcome, error) {
	acted, err := s.freezeOrThaw(ctx, s.orders())
	if err != nil {
		return acted, err
	}
	ended := acted.Done || acted.TargetGone
	for _, c := range s.kase.Claims {
		if c.Action != cases.Freeze {
			continue
		}
		if ended && s.pod != nil && c.Outcome != nil && c.Outcome.Workload != "" {
			if err := s.notFrozen(ctx, c.Outcome.Workload); err != nil {
				return cases.Outcome{}, err
			}
		}
		object, err := s.orderObjects().Get(ctx, fmt.Sprintf("%s.%d", s.kase.ID, c.N), metav1.GetOptions{})
		if err != nil {
			continue
		}
		clusterOrders{orders: s.orderObjects()}.forget(ctx, object)
		if !ended {
			acted.Notes = append(acted.Notes, "the order of the freeze is withdrawn: the sensor lets the container go on when it sees that")
		}
	}
	return acted, nil
}

// freezeLife is how long a frozen container stays before the kubelet restarts it for not
// answering, and the probe that ends it; 0 when nothing does. A TCP probe is answered by the kernel, frozen or not; an exec probe errs,
// as nothing can be executed in a paused container, which the kubelet does not
// count as a failure (seen with kubelet 1.37 and runc 1.1).
func freezeLife(pod *corev1.Pod, containerID string) (life time.Duration, probe string) {
	name := cluster.ContainerName(pod, containerID)
	for _, c := range slices.Concat(pod.Spec.Containers, pod.Spec.InitContainers) { // a sidecar is among the latter
		p := c.LivenessProbe
		if c.Name != name && name != "" || p == nil || p.HTTPGet == nil && p.GRPC == nil {
			continue
		}
		grace := pod.Spec.TerminationGracePeriodSeconds
		if p.TerminationGracePeriodSeconds != nil {
			grace = p.TerminationGracePeriodSeconds
		}
		seconds := int64(p.PeriodSeconds)*int64(p.FailureThreshold) + int64(p.TimeoutSeconds)
		if grace != nil {
			seconds += *grace
		}
		if d := time.Duration(seconds) * time.Second; life == 0 || d < life {
			life, probe = d, fmt.Sprintf("liveness probe of container %q", c.Name)
		}
	}
	return life, probe
}
