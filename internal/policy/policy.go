// Package policy owns the policy file: which rule fits a finding, what it asks
// for, and the guards. It reads and decides; it never acts.
package policy

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/ext"
	"go.yaml.in/yaml/v3"

	"github.com/contraband-dev/contraband/internal/docket"
	"github.com/contraband-dev/contraband/internal/finding"
)

// File is the policy file. Unknown keys are errors.
type File struct {
	// Rules are tried in order; the first whose When is true decides. When none
	// is, the finding is paged.
	Rules []Rule `yaml:"rules"`
	// Guards bound what any rule may cause.
	Guards Guards `yaml:"guards"`
}

// Rule says what to do about which findings.
type Rule struct {
	// Name is shown in the case and on the page. Required.
	Name string `yaml:"name"`
	// When is a CEL expression over finding, pod, container, process, verdict.
	// Empty: always.
	When string `yaml:"when"`
	// Do is any of escalate, page, freeze, evidence. Required.
	Do []string `yaml:"do"`

	program cel.Program
}

// Guards of every rule.
type Guards struct {
	// Namespaces whose pods are never contained. Default: kube-system.
	Namespaces []string `yaml:"namespaces"`
	// MaxContainmentsPerHour over all cases. 0: the default, 5.
	MaxContainmentsPerHour int `yaml:"max_containments_per_hour"`
	// DryRun decides and pages, and contains nothing.
	DryRun bool `yaml:"dry_run"`
}

// Default only tells: nobody's containers are frozen by surprise.
const Default = `# The policy that "contraband up" uses without --policy: it tells, and touches nothing.
rules:
  - name: known malware
    when: verdict.level == "malicious"
    do: [escalate, page]
  - name: everything else
    do: [page]
`

var known = []string{docket.Escalate, docket.Page, docket.Freeze, docket.Evidence}

// The variables of a rule. Their fields are checked when the file is read.
type (
	findingVar struct {
		Category string `cel:"category"`
		Severity string `cel:"severity"`
		Project  string `cel:"project"`
		Location string `cel:"location"`
		Cluster  string `cel:"cluster"`
		Node     string `cel:"node"`
		Route    string `cel:"route"`
		SameAs   string `cel:"same_as"`
	}
	podVar struct {
		Namespace string            `cel:"namespace"`
		Name      string            `cel:"name"`
		Labels    map[string]string `cel:"labels"`
	}
	containerVar struct {
		ID     string            `cel:"id"`
		Name   string            `cel:"name"`
		Image  string            `cel:"image"`
		Digest string            `cel:"digest"`
		Labels map[string]string `cel:"labels"`
	}
	processVar struct {
		Path   string `cel:"path"`
		SHA256 string `cel:"sha256"`
	}
	verdictVar struct {
		Level  string `cel:"level"`
		Label  string `cel:"label"`
		Source string `cel:"source"`
	}
)

// Policy is a compiled file.
type Policy struct {
	rules  []Rule
	Guards Guards
}

// Load reads a policy file; "" is Default.
func Load(path string) (*Policy, error) {
	if path == "" {
		return Parse([]byte(Default))
	}
	body, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read policy: %w", err)
	}
	p, err := Parse(body)
	if err != nil {
		return nil, fmt.Errorf("policy %q: %w", path, err)
	}
	return p, nil
}

// Parse compiles a policy. Every mistake in it is told, not the first alone.
func Parse(body []byte) (*Policy, error) {
	var f File
	d := yaml.NewDecoder(bytes.NewReader(body))
	d.KnownFields(true)
	if err := d.Decode(&f); err != nil {
		return nil, err
	}
	env, err := environment()
	if err != nil {
		return nil, err
	}
	var errs []error
	for i := range f.Rules {
		if err := f.Rules[i].compile(env); err != nil {
			errs = append(errs, fmt.Errorf("rule %d (%q): %w", i+1, f.Rules[i].Name, err))
		}
	}
	if f.Guards.MaxContainmentsPerHour < 0 {
		errs = append(errs, errors.New("guards.max_containments_per_hour is negative"))
	}
	if f.Guards.MaxContainmentsPerHour == 0 {
		f.Guards.MaxContainmentsPerHour = 5
	}
	if f.Guards.Namespaces == nil {
		f.Guards.Namespaces = []string{"kube-system"}
	}
	return &Policy{f.Rules, f.Guards}, errors.Join(errs...)
}

func environment() (*cel.Env, error) {
	types := []any{ext.ParseStructTags(true)}
	options := []cel.EnvOption{}
	for name, v := range map[string]any{"finding": findingVar{}, "pod": podVar{}, "container": containerVar{}, "process": processVar{}, "verdict": verdictVar{}} {
		t := reflect.TypeOf(v)
		types = append(types, t)
		options = append(options, cel.Variable(name, cel.ObjectType(strings.ReplaceAll(t.String(), "*", ""))))
	}
	return cel.NewEnv(append([]cel.EnvOption{ext.NativeTypes(types...)}, options...)...)
}

func (r *Rule) compile(env *cel.Env) error {
	if r.Name == "" || len(r.Do) == 0 {
		return errors.New("name and do are required")
	}
	for _, action := range r.Do {
		if !slices.Contains(known, action) {
			return fmt.Errorf("do: %q is not known here; there are %s", action, strings.Join(known, ", "))
		}
	}
	if f, e := slices.Index(r.Do, docket.Freeze), slices.Index(r.Do, docket.Evidence); f >= 0 && e >= 0 && e < f {
		return errors.New("do: evidence before freeze would race with the program; put freeze first")
	}
	if r.When == "" {
		r.When = "true"
	}
	ast, issues := env.Compile(r.When)
	if issues.Err() != nil {
		return fmt.Errorf("when: %w", issues.Err())
	}
	if ast.OutputType() != cel.BoolType {
		return fmt.Errorf("when: it yields a %s, not a bool", ast.OutputType())
	}
	program, err := env.Program(ast, cel.CostLimit(100_000))
	if err != nil {
		return fmt.Errorf("when: %w", err)
	}
	r.program = program
	return nil
}

// Decide answers the first rule that fits. A rule that fails to evaluate makes
// the decision a page and nothing else: what destroys fails closed, what tells
// fails open.
func (p *Policy) Decide(f finding.Finding, v docket.Verdict) docket.Decision {
	vars := variables(f, v)
	for _, r := range p.rules {
		out, _, err := r.program.Eval(vars)
		if err != nil {
			return docket.Decision{Rule: r.Name, Do: []string{docket.Page}, Why: fmt.Sprintf("the rule could not be evaluated, so nothing is contained: %v", err)}
		}
		if out.Value() == true {
			return docket.Decision{Rule: r.Name, Do: slices.Clone(r.Do), DryRun: p.Guards.DryRun}
		}
	}
	return docket.Decision{Rule: "(no rule fits)", Do: []string{docket.Page}}
}

func variables(f finding.Finding, v docket.Verdict) map[string]any {
	fv := findingVar{f.Category, f.Severity, f.Project, f.Location, f.Cluster, f.Node, "", ""}
	if f.Sensor != nil {
		fv.Route, fv.SameAs = f.Sensor.Route, f.Sensor.SameAs
	}
	return map[string]any{
		"finding": fv, "pod": podVar{f.Pod.Namespace, f.Pod.Name, notNil(f.Pod.Labels)},
		"container": containerVar{f.Container.ID, f.Container.Name, f.Container.Image, f.Container.Digest, notNil(f.Container.Labels)},
		"process":   processVar{f.Process.Path, f.Process.SHA256},
		"verdict":   verdictVar{string(v.Level), v.Label, v.Source},
	}
}

func notNil(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

// Refuses answers why the guards forbid to contain what a finding names, or "".
func (g Guards) Refuses(f finding.Finding) string {
	switch {
	case g.DryRun:
		return "dry run: the policy says guards.dry_run"
	case f.Pod.Namespace != "" && slices.Contains(g.Namespaces, f.Pod.Namespace):
		return fmt.Sprintf("namespace %q is protected (guards.namespaces)", f.Pod.Namespace)
	case f.Container.ID == "":
		return "the finding does not name a container"
	case f.Pod.UID != "" && f.Pod.Namespace == "", f.Sensor != nil && f.Sensor.Unattributed != "":
		return "it is not known whose container this is, so it is not known whether it is protected"
	case f.Node == "":
		return "the finding does not name a node"
	}
	return ""
}
