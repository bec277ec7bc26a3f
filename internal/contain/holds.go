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
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/contraband-dev/contraband/internal/blobstore"
	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/contain/cluster"
	"github.com/contraband-dev/contraband/internal/finding"
)

// hold is what it takes to give a pod back, as it was before the first of the cases
// that hold it. It is kept in our own store: whoever may edit the pod may write
// anything on it.
type hold struct {
	Labels      map[string]string  `json:"labels,omitempty"`
	Annotations map[string]*string `json:"annotations"` // those that we change; nil: there was none
	OwnerKind   string             `json:"ownerKind,omitempty"`
	OwnerName   string             `json:"ownerName,omitempty"`
}

// ours are the annotations of a pod that we change.
var ours = []string{safeToEvict, deletionCost}

// holder names a case's hold by an action.
type holder struct{ Case, Action string }

// podKey is where what is known of the pod is kept. It does not depend on the
// pod's name, which a successor has too.
func (s *site) podKey() string {
	f := s.kase.Decided.Finding
	return finding.ID("pod", f.Project, f.Location, f.Cluster, string(s.pod.UID))
}

func (s *site) holdKey(h holder) string { return "holds/" + s.podKey() + "/" + h.Case + "." + h.Action }

// me is this case's hold by an action.
func (s *site) me(action string) holder { return holder{s.kase.ID, action} }

// holds are all that hold the pod, of any case.
func (s *site) holds(ctx context.Context) (map[holder]hold, error) {
	keys, err := s.Log.Objects.List(ctx, "holds/"+s.podKey()+"/")
	if err != nil {
		return nil, err
	}
	out := map[holder]hold{}
	for _, key := range keys {
		body, err := s.Log.Objects.Read(ctx, key)
		if errors.Is(err, blobstore.ErrNotExist) {
			continue // it has just been released
		}
		if err != nil {
			return nil, err
		}
		var h hold
		if err := json.Unmarshal(body, &h); err != nil {
			return nil, fmt.Errorf("read %q: %w", key, err)
		}
		caseID, action, _ := strings.Cut(path.Base(key), ".")
		out[holder{caseID, action}] = h
	}
	return out, nil
}

// byAction returns a hold by an action, whoever's, and the cases that have one.
func byAction(all map[holder]hold, action string) (h *hold, cases []string) {
	for who, held := range all {
		if who.Action == action {
			h, cases = &held, append(cases, who.Case)
		}
	}
	slices.Sort(cases)
	return h, cases
}

// keep puts the hold on record, before it is made. What the pod was like before is
// what the first holder saw.
func (s *site) keep(ctx context.Context, action string, pod *corev1.Pod, all map[holder]hold, owner *hold) error {
	h := hold{Annotations: map[string]*string{}}
	if owner != nil {
		h = *owner
	}
	for _, name := range ours {
		h.Annotations[name] = nil
		if v, ok := pod.Annotations[name]; ok {
			h.Annotations[name] = &v
		}
	}
	for _, first := range all { // each has the same
		h.Annotations = first.Annotations
	}
	if s.dryRun != nil {
		return nil
	}
	key := s.holdKey(s.me(action))
	if err := s.Log.Objects.Delete(ctx, key); err != nil { // of a try that came to nothing
		return err
	}
	return s.Log.Objects.Create(ctx, key, []byte(mustJSON(h)))
}

// letGo takes the hold off the record, once it is undone.
func (s *site) letGo(ctx context.Context, action string) error {
	if s.pod == nil {
		return nil
	}
	return s.Log.Objects.Delete(ctx, s.holdKey(s.me(action)))
}

// backTo is the change of annotations that makes them what they were before.
func (h hold) backTo() map[string]any {
	out := map[string]any{}
	for name, before := range h.Annotations {
		out[name] = nil
		if before != nil {
			out[name] = *before
		}
	}
	return out
}

// without returns the holds but one.
func without(all map[holder]hold, who holder) map[holder]hold {
	rest := maps.Clone(all)
	delete(rest, who)
	return rest
}

// frozenPod is on record while a pod is frozen: it may count as ready, and serves
// nobody.
type frozenPod struct {
	Name      string    `json:"name"`
	UID       string    `json:"uid"`
	Container string    `json:"container"` // its id
	Since     time.Time `json:"since"`
	Until     time.Time `json:"until"`
}

func (s *site) frozenPrefix(workload string) string {
	f := s.kase.Decided.Finding
	return "frozen/" + finding.ID("workload", f.Project, f.Location, f.Cluster, s.pod.Namespace, workload) + "/"
}

// settled is how long a freeze of another pod may still be refused: until then its
// record says only that it is tried.
const settled = time.Minute

// countFrozen puts on record that this pod is about to be frozen, and returns how
// many others of its workload are frozen and count as ready all the same; young
// tells that one of them may not be frozen in the end. Two that are frozen at once
// see each other.
func (s *site) countFrozen(ctx context.Context, workload string) (n int, young bool, err error) {
	prefix := s.frozenPrefix(workload)
	if s.claim.Action == cases.Freeze && s.dryRun == nil {
		if err := s.isFrozen(ctx, workload, s.Now().Add(s.kase.Decided.Decision.HoldDuration())); err != nil {
			return 0, false, err
		}
	}
	keys, err := s.Log.Objects.List(ctx, prefix)
	if err != nil {
		return 0, false, err
	}
	seen := map[string]bool{string(s.pod.UID): true} // once, however many cases freeze it
	for _, key := range keys {
		if uid, _, _ := strings.Cut(path.Base(key), "."); seen[uid] {
			continue
		}
		body, err := s.Log.Objects.Read(ctx, key)
		if errors.Is(err, blobstore.ErrNotExist) {
			continue
		}
		var other frozenPod
		if err == nil {
			err = json.Unmarshal(body, &other)
		}
		if err != nil {
			return 0, false, fmt.Errorf("read %q: %w", key, err)
		}
		counts, over, err := s.countsAsReady(ctx, other)
		if err != nil {
			return 0, false, err
		}
		if over {
			if err := s.Log.Objects.Delete(ctx, key); err != nil {
				return 0, false, err
			}
		}
		if counts {
			seen[other.UID] = true
			n++
			young = young || s.Now().Sub(other.Since) < settled
		}
	}
	return n, young, nil
}

// countsAsReady reports whether a pod that was frozen still counts as ready with the
// workload, or is of the past.
func (s *site) countsAsReady(ctx context.Context, other frozenPod) (counts, over bool, err error) {
	if s.Now().After(other.Until) {
		return false, true, nil
	}
	pod, err := s.Kube.Pods(s.pod.Namespace).Get(ctx, other.Name)
	switch {
	case apierrors.IsNotFound(err), err == nil && string(pod.UID) != other.UID:
		return false, true, nil
	case err != nil:
		return false, false, fmt.Errorf("read pod %q: %w", other.Name, err)
	case cluster.Ended(pod, other.Container):
		return false, true, nil // the kubelet has restarted it: it serves again
	}
	return isReady(pod) && metav1.GetControllerOf(pod) != nil, false, nil
}

func (s *site) frozenKey(workload string) string {
	return s.frozenPrefix(workload) + string(s.pod.UID) + "." + s.kase.ID
}

// isFrozen puts on record that this case freezes the pod.
func (s *site) isFrozen(ctx context.Context, workload string, until time.Time) error {
	if err := s.notFrozen(ctx, workload); err != nil {
		return err
	}
	body := mustJSON(frozenPod{s.pod.Name, string(s.pod.UID), s.claim.ContainerID, s.Now().UTC(), until.UTC()})
	return s.Log.Objects.Create(ctx, s.frozenKey(workload), []byte(body))
}

// notFrozen takes it off the record that this case freezes the pod.
func (s *site) notFrozen(ctx context.Context, workload string) error {
	return s.Log.Objects.Delete(ctx, s.frozenKey(workload))
}
