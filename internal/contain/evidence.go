package contain

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/contraband-dev/contraband/internal/blobstore"
	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/contain/cluster"
	"github.com/contraband-dev/contraband/internal/redact"
	"github.com/contraband-dev/contraband/internal/sensorapi"
)

// Bounds of the evidence beside the program.
const (
	maxLogs   = 4 << 20 // bytes of one container's log, the newest
	maxEvents = 500
)

// Times of the evidence: a node or a kubelet that does not answer must not keep what
// others have brought from being saved within the function's time.
const (
	gatherTime = 35 * time.Second // for all that is asked of others
	logTime    = 10 * time.Second // for one container's log
	saveTime   = 5 * time.Second  // for one item
	logsAtOnce = 4
)

// evidence saves what ran and what it ran in. Each item fails alone, and says
// why; the action is done when the program itself is saved.
func (s *site) evidence(ctx context.Context) (cases.Outcome, error) {
	gathering, cancel := context.WithTimeout(ctx, gatherTime)
	defer cancel()
	var inspection sensorapi.OrderStatus
	var notInspected error
	var wg sync.WaitGroup
	wg.Go(func() {
		inspection, notInspected = s.orders().Execute(gathering, s.claim.Node, s.order(sensorapi.Inspect, ".inspect"))
	})
	acted, err := s.program(gathering, s.orders())
	wg.Wait()
	if err != nil {
		return cases.Outcome{}, err
	}
	sensor := "the sensor of node " + path.Base(s.claim.Node)
	s.acted = acted
	s.acted.Items = append(s.acted.Items, cases.Item{Name: binaryItem, SHA256: acted.SHA256, Bytes: acted.Bytes, At: acted.At, By: sensor, Error: acted.Error})
	if notInspected == nil && !inspection.Done {
		notInspected = errors.New(inspection.Error)
	}
	s.acted.Confirmed = s.acted.Confirmed || notInspected == nil
	if err := s.saveJSON(ctx, "processes-and-sockets.json", sensor, inspection.Inspection, notInspected); err != nil {
		return cases.Outcome{}, err
	}
	if s.pod == nil {
		s.acted.Notes = append(s.acted.Notes, "the pod is gone: what the API server knew of it cannot be saved any more")
		return s.acted, nil
	}
	for _, save := range []func(context.Context) error{s.saveManifests, s.saveEvents, s.saveLogs, s.saveNode} {
		if err := save(gathering); err != nil {
			return cases.Outcome{}, err // the store's: what the API server refuses is an item's error
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
	item := cases.Item{Name: name, At: s.Now().UTC(), By: by}
	if why != nil {
		item.Error = why.Error()
		s.acted.Items = append(s.acted.Items, item)
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), saveTime)
	defer cancel()
	sum := sha256.Sum256(body)
	item.SHA256, item.Bytes = hex.EncodeToString(sum[:]), int64(len(body))
	if err := s.Log.Objects.Create(ctx, blobstore.EvidenceKey(item.SHA256), body); err != nil && !errors.Is(err, blobstore.ErrExists) {
		return fmt.Errorf("save evidence %q: %w", name, err)
	}
	s.acted.Items = append(s.acted.Items, item)
	return nil
}

// saveJSON keeps v, or notes why there is none.
func (s *site) saveJSON(ctx context.Context, name, by string, v any, why error) error {
	if why != nil {
		return s.save(ctx, name, by, nil, why)
	}
	body, err := json.MarshalIndent(v, "", "  ")
	return s.save(ctx, name, by, body, err)
}

func (s *site) saveManifests(ctx context.Context) error {
	pod := s.pod.DeepCopy()
	pod.ManagedFields = nil
	delete(pod.Annotations, lastApplied) // the whole again, secrets and all
	hideSecrets(&pod.Spec)
	if err := s.saveJSON(ctx, "pod.json", apiServer, pod, nil); err != nil {
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
	return s.saveJSON(ctx, "owners.json", apiServer, owners, nil)
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

// withoutSecrets takes the pod template's environment out of an owner's manifest
// (the pod's own manifest has it, redacted), and redacts its command lines.
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
			for name, child := range v {
				if line, ok := child.([]any); ok && (name == "command" || name == "args") {
					v[name] = redacted(line)
					continue
				}
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

func redacted(line []any) (out []any) {
	var words []string
	for _, w := range line {
		words = append(words, fmt.Sprint(w))
	}
	for _, w := range redact.Args(words) {
		out = append(out, w)
	}
	return out
}

func (s *site) saveEvents(ctx context.Context) error {
	list, err := s.Kube.Events(s.pod.Namespace).List(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("involvedObject.uid", string(s.pod.UID)).String(), Limit: maxEvents,
	})
	if err != nil {
		return s.save(ctx, "events.json", apiServer, nil, err)
	}
	return s.saveJSON(ctx, "events.json", apiServer, list.Items, nil)
}

// logOf is one container's log.
type logOf struct {
	container string
	previous  bool
	body      []byte
	err       error
}

func (l logOf) name() string {
	if l.previous {
		return "logs/" + l.container + ".previous.txt"
	}
	return "logs/" + l.container + ".txt"
}

func (s *site) saveLogs(ctx context.Context) error {
	var logs []*logOf
	for _, c := range cluster.Containers(s.pod) {
		if c.State.Waiting != nil && c.RestartCount == 0 { // it has never run
			continue
		}
		logs = append(logs, &logOf{container: c.Name})
		if c.RestartCount > 0 {
			logs = append(logs, &logOf{container: c.Name, previous: true})
		}
	}
	var g errgroup.Group
	g.SetLimit(logsAtOnce)
	for _, l := range logs {
		g.Go(func() error {
			l.body, l.err = s.log(ctx, *l)
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, l := range logs {
		if err := s.save(ctx, l.name(), apiServer, l.body, l.err); err != nil {
			return err
		}
	}
	return nil
}

// log reads the end of a container's log.
func (s *site) log(ctx context.Context, l logOf) ([]byte, error) {
	lines := int64(20_000)
	ctx, cancel := context.WithTimeout(ctx, logTime)
	defer cancel()
	// A limit in bytes would be of the first ones.
	stream, err := s.Kube.Pods(s.pod.Namespace).Log(ctx, s.pod.Name, corev1.PodLogOptions{
		Container: l.container, Previous: l.previous, Timestamps: true, TailLines: &lines,
	})
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	var t tail
	_, err = io.Copy(&t, stream)
	return t.bytes(), err
}

// tail keeps the last maxLogs bytes that are written to it.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if len(t.b) > 2*maxLogs {
		t.b = append(t.b[:0], t.b[len(t.b)-maxLogs:]...)
	}
	return len(p), nil
}

// bytes begin with a whole line.
func (t *tail) bytes() []byte {
	if len(t.b) <= maxLogs {
		return t.b
	}
	last := t.b[len(t.b)-maxLogs:]
	if i := bytes.IndexByte(last, '\n'); i >= 0 {
		last = last[i+1:]
	}
	return last
}

func (s *site) saveNode(ctx context.Context) error {
	n, err := s.Kube.Nodes().Get(ctx, s.pod.Spec.NodeName)
	if err != nil {
		return s.save(ctx, "node.json", apiServer, nil, err)
	}
	n.ManagedFields, n.Status.Images = nil, nil
	return s.saveJSON(ctx, "node.json", apiServer, n, nil)
}
