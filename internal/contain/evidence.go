package contain

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/contraband-dev/contraband/internal/casefile"
	"github.com/contraband-dev/contraband/internal/docket"
	"github.com/contraband-dev/contraband/internal/node"
	"github.com/contraband-dev/contraband/internal/redact"
	"github.com/contraband-dev/contraband/internal/retry"
)

// Bounds of the evidence beside the program.
const (
	maxLogs   = 4 << 20 // bytes of one container's log, the newest
	maxEvents = 500
)

// evidence saves what ran and what it ran in. Each item fails alone, and says
// why; the action is done when the program itself is saved.
func (s *site) evidence(ctx context.Context) (docket.Acted, error) {
	sensor := "the sensor of node " + path.Base(s.claim.Node)
	acted, err := s.program(ctx, s.orders())
	if err != nil {
		return docket.Acted{}, err
	}
	item := docket.Item{Name: binaryItem, SHA256: acted.SHA256, Bytes: acted.Bytes, At: acted.At, By: sensor, Error: acted.Error}
	s.acted = acted
	s.acted.Items = append(s.acted.Items, item)
	s.saveInspection(ctx, sensor)
	if s.pod == nil {
		s.acted.Notes = append(s.acted.Notes, "the pod is gone: what the API server knew of it cannot be saved any more")
		return s.acted, nil
	}
	for _, save := range []func(context.Context) error{s.saveManifests, s.saveEvents, s.saveLogs, s.saveNode} {
		if err := save(ctx); err != nil {
			return docket.Acted{}, err // the store's: what the API server refuses is an item's error
		}
	}
	return s.acted, nil
}

const (
	apiServer   = "the Kubernetes API"
	lastApplied = "kubectl.kubernetes.io/last-applied-configuration"
)

// save keeps one item under its hash, or notes why there is none.
func (s *site) save(ctx context.Context, name, by string, body []byte, why error) error {
	item := docket.Item{Name: name, At: s.Now().UTC(), By: by}
	if why != nil {
		item.Error = why.Error()
		s.acted.Items = append(s.acted.Items, item)
		return nil
	}
	sum := sha256.Sum256(body)
	item.SHA256, item.Bytes = hex.EncodeToString(sum[:]), int64(len(body))
	if err := s.Log.Store.Create(ctx, casefile.EvidenceKey(item.SHA256), body); err != nil && !errors.Is(err, casefile.ErrExists) {
		return fmt.Errorf("save evidence %q: %w", name, err)
	}
	s.acted.Items = append(s.acted.Items, item)
	return nil
}

func (s *site) saveJSON(ctx context.Context, name, by string, v any) error {
	body, err := json.MarshalIndent(v, "", "  ")
	return s.save(ctx, name, by, body, err)
}

// saveInspection is of the processes and sockets, as the node sees them.
func (s *site) saveInspection(ctx context.Context, by string) {
	status, err := s.orders().Carry(ctx, s.claim.Node, s.order(node.Inspect, ".inspect"))
	if err == nil && (!status.Done || status.Inspection == nil) {
		err = retry.Permanent(errors.New(status.Error))
	}
	if err != nil {
		err = s.save(ctx, "processes-and-sockets.json", by, nil, err)
	} else {
		err = s.saveJSON(ctx, "processes-and-sockets.json", by, status.Inspection)
	}
	if err != nil {
		s.acted.Notes = append(s.acted.Notes, err.Error())
	}
}

func (s *site) saveManifests(ctx context.Context) error {
	pod := s.pod.DeepCopy()
	pod.ManagedFields = nil
	delete(pod.Annotations, lastApplied) // the whole again, secrets and all
	hideSecrets(&pod.Spec)
	if err := s.saveJSON(ctx, "pod.json", apiServer, pod); err != nil {
		return err
	}
	owner, err := s.owned(ctx)
	if err != nil {
		return s.save(ctx, "owners.json", apiServer, nil, err)
	}
	if len(owner.Objects) == 0 {
		return nil
	}
	var owners []any
	for _, o := range owner.Objects {
		object, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
		if err != nil {
			return s.save(ctx, "owners.json", apiServer, nil, err)
		}
		owners = append(owners, withoutSecrets(object))
	}
	return s.saveJSON(ctx, "owners.json", apiServer, owners)
}

// hideSecrets: a manifest's environment and arguments may hold what must not be kept.
func hideSecrets(spec *corev1.PodSpec) {
	for _, list := range [][]corev1.Container{spec.Containers, spec.InitContainers} {
		for i := range list {
			hideIn(list[i].Env, &list[i].Command, &list[i].Args)
		}
	}
	for i := range spec.EphemeralContainers {
		c := &spec.EphemeralContainers[i]
		hideIn(c.Env, &c.Command, &c.Args)
	}
}

func hideIn(env []corev1.EnvVar, lists ...*[]string) {
	for i := range env {
		if env[i].Value != "" {
			env[i].Value = redact.Value(env[i].Name, env[i].Value)
		}
	}
	for _, l := range lists {
		*l = redact.Args(*l)
	}
}

// withoutSecrets takes the pod template's environment out of an owner's manifest:
// the pod's own manifest has it, redacted.
func withoutSecrets(object map[string]any) map[string]any {
	if meta, ok := object["metadata"].(map[string]any); ok {
		delete(meta, "managedFields")
		if notes, ok := meta["annotations"].(map[string]any); ok {
			delete(notes, lastApplied)
		}
	}
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			delete(v, "env")
			for _, child := range v {
				walk(child)
			}
		case []any:
			for _, child := range v {
				walk(child)
			}
		}
	}
	walk(object["spec"])
	return object
}

func (s *site) saveEvents(ctx context.Context) error {
	list, err := s.Kube.CoreV1().Events(s.pod.Namespace).List(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("involvedObject.uid", string(s.pod.UID)).String(), Limit: maxEvents,
	})
	if err != nil {
		return s.save(ctx, "events.json", apiServer, nil, err)
	}
	return s.saveJSON(ctx, "events.json", apiServer, list.Items)
}

func (s *site) saveLogs(ctx context.Context) error {
	for _, c := range s.pod.Status.ContainerStatuses {
		for _, previous := range []bool{false, true} {
			name := "logs/" + c.Name + ".txt"
			if previous {
				if c.RestartCount == 0 {
					continue
				}
				name = "logs/" + c.Name + ".previous.txt"
			}
			body, err := s.log(ctx, c.Name, previous)
			if err := s.save(ctx, name, apiServer, body, err); err != nil {
				return err
			}
		}
	}
	return nil
}

// log reads the end of a container's log.
func (s *site) log(ctx context.Context, container string, previous bool) ([]byte, error) {
	lines, limit := int64(20_000), int64(maxLogs)
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	stream, err := s.Kube.CoreV1().Pods(s.pod.Namespace).GetLogs(s.pod.Name, &corev1.PodLogOptions{
		Container: container, Previous: previous, Timestamps: true, TailLines: &lines, LimitBytes: &limit,
	}).Stream(ctx)
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(stream); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func (s *site) saveNode(ctx context.Context) error {
	n, err := s.Kube.CoreV1().Nodes().Get(ctx, s.pod.Spec.NodeName, metav1.GetOptions{})
	if err != nil {
		return s.save(ctx, "node.json", apiServer, nil, err)
	}
	n.ManagedFields, n.Status.Images = nil, nil
	return s.saveJSON(ctx, "node.json", apiServer, n)
}
