// Package guards owns what bounds any containment, whatever rule asks for it. It reads
// the guards of a policy file and judges; it knows no rules, so that what contains need
// not have their language.
package guards

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/finding"
)

// Guards of every rule. They are evaluated at the moment of acting, against the
// cluster as it then is.
type Guards struct {
	// Namespaces whose pods are never contained; * stands for any characters.
	// Default: kube-system, gke-*, gmp-*, contraband.
	Namespaces []string `yaml:"namespaces"`
	// MaxContainmentsPerHour of the pods of one cluster. Default: 5.
	MaxContainmentsPerHour Budget `yaml:"max_containments_per_hour"`
	// MaxAllClustersPerHour of the pods of all clusters. Default: 50.
	MaxAllClustersPerHour Budget `yaml:"max_all_clusters_per_hour"`
	// MaxPerWorkloadPerHour of the pods of one owner. Default: 2.
	MaxPerWorkloadPerHour Budget `yaml:"max_per_workload_per_hour"`
	// MinHealthyReplicas is what a containment leaves of the owner's ready
	// replicas: a number, or a percentage of those wanted, rounded up. Default: 50%.
	MinHealthyReplicas string `yaml:"min_healthy_replicas"`
	// AllowKinds opts in what nothing replaces: StatefulSet, DaemonSet, Pod (one
	// that nothing owns), or another controller's kind.
	AllowKinds []string `yaml:"allow_kinds"`
	// ReleasedPod is which pod goes when a released one makes its ReplicaSet one
	// over: "last", the released pod stays, or "first", it goes. Default: last.
	ReleasedPod string `yaml:"released_pod"`
	// DryRun decides and pages, and contains nothing. On Kubernetes each change is
	// still sent as a dry run, so that its refusal is seen.
	DryRun bool `yaml:"dry_run"`
}

// Budget is a number of containments, at least 1; 0: the default. A file that says 0 is
// refused: its author wants none, and would get the default.
type Budget int

// Reserve returns how many of a budget are kept for programs that are known to be malicious:
// a fifth, rounded up, of three or more.
func (b Budget) Reserve() int {
	if b < 3 {
		return 0
	}
	return int(b+4) / 5
}

// UnmarshalYAML reads a Budget.
func (b *Budget) UnmarshalYAML(n *yaml.Node) error {
	var i int
	if err := n.Decode(&i); err != nil {
		return err
	}
	if i < 1 {
		return fmt.Errorf("line %d: %d containments an hour: give 1 or more; dry_run: true contains nothing", n.Line, i)
	}
	*b = Budget(i)
	return nil
}

// ReleasedFirst reports whether a released pod is the first that its ReplicaSet removes.
func (g Guards) ReleasedFirst() bool { return g.ReleasedPod == "first" }

// Load reads the guards of a policy file; "" is those of the built-in policy. Of its
// rules nothing is judged.
func Load(path string) (Guards, error) {
	var f struct {
		Guards Guards `yaml:"guards"`

		Rules         yaml.Node `yaml:"rules"`
		Routes        yaml.Node `yaml:"routes"`
		Exceptions    yaml.Node `yaml:"exceptions"`
		EscalateAfter yaml.Node `yaml:"escalate_after"`
		Digest        yaml.Node `yaml:"digest"`
	}
	if path != "" {
		body, err := os.ReadFile(path)
		if err != nil {
			return Guards{}, fmt.Errorf("read policy: %w", err)
		}
		d := yaml.NewDecoder(bytes.NewReader(body))
		d.KnownFields(true)
		if err := d.Decode(&f); err != nil {
			return Guards{}, fmt.Errorf("policy %q: %w", path, err)
		}
		if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
			return Guards{}, fmt.Errorf("policy %q: a second YAML document (after ---): a policy is one document", path)
		}
	}
	if err := f.Guards.Complete(); err != nil {
		return Guards{}, fmt.Errorf("policy %q: %w", path, err)
	}
	return f.Guards, nil
}

// Complete fills in the defaults. It reports every mistake, not only the first.
func (g *Guards) Complete() error {
	var errs []error
	if g.MaxContainmentsPerHour == 0 {
		g.MaxContainmentsPerHour = 5
	}
	if g.MaxAllClustersPerHour == 0 {
		g.MaxAllClustersPerHour = 50
	}
	if g.MaxPerWorkloadPerHour == 0 {
		g.MaxPerWorkloadPerHour = 2
	}
	if g.Namespaces == nil {
		g.Namespaces = []string{"kube-system", "gke-*", "gmp-*", "contraband"}
	}
	for _, n := range g.Namespaces {
		if _, err := path.Match(n, ""); err != nil {
			errs = append(errs, fmt.Errorf("guards.namespaces: %q is not a valid pattern", n))
		}
	}
	if g.MinHealthyReplicas == "" {
		g.MinHealthyReplicas = "50%"
	}
	if _, err := g.MinHealthy(100); err != nil {
		errs = append(errs, err)
	}
	if g.ReleasedPod != "" && g.ReleasedPod != "first" && g.ReleasedPod != "last" {
		errs = append(errs, fmt.Errorf("guards.released_pod: %q is neither first nor last", g.ReleasedPod))
	}
	return errors.Join(errs...)
}

// MinHealthy returns how many of the wanted replicas must stay ready.
func (g Guards) MinHealthy(wanted int) (int, error) {
	text, percent := strings.CutSuffix(g.MinHealthyReplicas, "%")
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || percent && n > 100 {
		return 0, fmt.Errorf("guards.min_healthy_replicas: %q is neither a number nor a percentage such as 50%%", g.MinHealthyReplicas)
	}
	if !percent {
		return n, nil
	}
	return int(math.Ceil(float64(wanted) * float64(n) / 100)), nil
}

// Refuses returns why the guards forbid containing what a finding names, or "". It calls
// nothing; RefusesPod asks about the pod as the cluster shows it.
func (g Guards) Refuses(f finding.Finding) string {
	if why := f.ContainmentUnsupported(); why != "" {
		return why
	}
	switch {
	case f.Pod.Namespace != "" && g.protects(f.Pod.Namespace):
		return fmt.Sprintf("namespace %q is protected (guards.namespaces)", f.Pod.Namespace)
	case f.Container.ID == "" && f.Pod.Name == "":
		return "the finding does not name a container"
	case f.Pod.UID != "" && f.Pod.Namespace == "", f.Sensor != nil && f.Sensor.Unattributed != "":
		return "it is not known whose container this is, so it is not known whether it is protected"
	case f.Node == "":
		return "the finding does not name a node"
	}
	return ""
}

func (g Guards) protects(namespace string) bool {
	return slices.ContainsFunc(g.Namespaces, func(pattern string) bool {
		ok, err := path.Match(pattern, namespace)
		return ok || err != nil // what cannot be read protects
	})
}

// Pod is what the guards look at, as the cluster shows it at the moment of acting.
type Pod struct {
	Namespace  string
	Owner      string   // kind of the controller; "" for a bare pod
	Name       string   // of the root owner, for messages
	Static     bool     // the kubelet's own: a mirror pod
	Critical   bool     // of the control plane, or of system priority
	Ready      bool     // it counts among the owner's ready replicas
	Wanted     int      // replicas of the owner
	ReadyNow   int      // of them
	Countable  bool     // Wanted and ReadyNow are known
	Exhausted  []string // disruption budgets that select the pod and allow no disruption now
	Terminated bool     // it is going or gone already
}

// replaced are the controllers that make a new pod for one that is taken away.
var replaced = []string{"ReplicaSet", "ReplicationController", "Job"}

// RefusesPod returns why the guards forbid an action on a pod, or "", and whether that
// is transient: replicas become ready, a disruption ends. Evidence and a cordon remove no
// pod; an eviction has its budget checked by the API
// server itself.
func (g Guards) RefusesPod(action string, p Pod) (why string, passing bool) {
	if action == cases.Evidence {
		return "", false
	}
	switch {
	case g.protects(p.Namespace):
		return fmt.Sprintf("namespace %q is protected (guards.namespaces)", p.Namespace), false
	case p.Static:
		return "a static pod belongs to its node's kubelet: it cannot be contained through the API", false
	case p.Critical:
		return "the pod is of the control plane or of system priority", false
	case action == cases.Cordon:
		return "", false
	}
	if why := g.refusesKind(action, p); why != "" {
		return why, false
	}
	if p.Terminated || !p.Ready { // it serves no requests: its owner loses nothing
		return "", false
	}
	if why := g.refusesReplicas(p); why != "" {
		return why, true
	}
	if len(p.Exhausted) > 0 && action != cases.Evict {
		return fmt.Sprintf("the disruption budget %q allows no disruption now", strings.Join(p.Exhausted, ", ")), true
	}
	return "", false
}

func (g Guards) refusesKind(action string, p Pod) string {
	kind := p.Owner
	if kind == "" {
		kind = "Pod"
	}
	switch {
	case slices.Contains(g.AllowKinds, kind), slices.Contains(replaced, kind):
		return ""
	case kind == "DaemonSet":
		return "the pod is of a DaemonSet (opt in with guards.allow_kinds)"
	case action == cases.Freeze: // it can be undone
		return ""
	}
	return fmt.Sprintf("nothing replaces a pod of kind %s (opt in with guards.allow_kinds)", kind)
}

// counted are the controllers whose replicas are looked up.
var counted = []string{"ReplicaSet", "ReplicationController", "StatefulSet", "DaemonSet"}

func (g Guards) refusesReplicas(p Pod) string {
	if !p.Countable {
		if slices.Contains(counted, p.Owner) {
			return fmt.Sprintf("it is not known how many replicas of %s are ready", p.Name)
		}
		// A bare pod, or one of a controller that we do not know: opted in, or only frozen.
		// (Whoever makes a pod can write such an owner on it: it must not be worth more
		// than none.) A Job's pods run to completion and serve no requests.
		return ""
	}
	least, err := g.MinHealthy(p.Wanted)
	if err != nil {
		return err.Error()
	}
	if left := p.ReadyNow - 1; left < least {
		return fmt.Sprintf("%s would have %d of %d replicas ready, and %d must be (guards.min_healthy_replicas %s)", p.Name, max(left, 0), p.Wanted, least, g.MinHealthyReplicas)
	}
	return ""
}
