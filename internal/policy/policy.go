// Package policy owns the policy file: which rule fits a finding, and what it asks for;
// package guards has what bounds it. It reads and decides; it never acts.
package policy

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/ext"
	"go.yaml.in/yaml/v3"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/internal/policy/guards"
)

// File is the policy file. Unknown keys are errors.
type File struct {
	// Rules are tried in order; the first whose When is true decides. When none
	// is, the finding is paged.
	Rules []Rule `yaml:"rules"`
	// Routes say who is notified. Where none matches the security channel is.
	Routes []Route `yaml:"routes"`
	// Guards bound what any rule may cause.
	Guards guards.Guards `yaml:"guards"`
}

// Rule says what to do about which findings.
type Rule struct {
	// Name is shown in the case and on the page. Required.
	Name string `yaml:"name"`
	// When is a CEL expression over finding, pod, container, process, verdict.
	// Empty: always.
	When string `yaml:"when"`
	// Do is any of escalate, page, freeze, evidence, isolate, cordon, evict, delete.
	// They are done in that order, whatever the order here. Required.
	Do []string `yaml:"do"`
	// Otherwise is done as well when what was done does not hold: the kubelet has
	// restarted what was frozen, nothing enforces the isolation, or, with AtEnd, For has
	// passed.
	Otherwise []string `yaml:"otherwise"`
	// Ask has a person approve, by a button of the page, before anything is
	// contained. Half an hour of silence tells again, and never acts.
	Ask bool `yaml:"ask"`
	// For is how long a freeze and an isolation last when nobody releases them,
	// such as 12h. Default: 24h.
	For time.Duration `yaml:"for"`
	// AtEnd of For the pod runs again and is released; or Otherwise is done, where this
	// says otherwise. Default: release.
	AtEnd string `yaml:"at_end"`

	program cel.Program
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

var known = slices.Concat([]string{cases.Escalate, cases.Page}, cases.Containments)

// What Rule.AtEnd can say.
const (
	atEndRelease   = "release"
	atEndOtherwise = "otherwise"
)

// longest is how long a rule may hold a pod.
const longest = 30 * 24 * time.Hour

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
	// Rules, in order. Whoever reads them changes none.
	Rules  []Rule
	Routes []Route
	Guards guards.Guards
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
	if err := f.Guards.Complete(); err != nil {
		errs = append(errs, err)
	}
	for i := range f.Routes {
		if err := f.Routes[i].compile(env); err != nil {
			errs = append(errs, fmt.Errorf("route %d: %w", i+1, err))
		}
	}
	return &Policy{f.Rules, f.Routes, f.Guards}, errors.Join(errs...)
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
	for _, action := range r.Otherwise {
		if !slices.Contains(cases.Containments, action) {
			return fmt.Errorf("otherwise: %q is no containment; there are %s", action, strings.Join(cases.Containments, ", "))
		}
	}
	if all := slices.Concat(r.Do, r.Otherwise); slices.ContainsFunc(all, cases.Destroys) && !slices.Contains(all, cases.Evidence) {
		return errors.New("do: evict and delete destroy what has run: add evidence")
	}
	if r.For < 0 || r.For > longest {
		return fmt.Errorf("for: %s is not between 0 and %s", r.For, longest)
	}
	if r.AtEnd != "" && r.AtEnd != atEndRelease && r.AtEnd != atEndOtherwise {
		return fmt.Errorf("at_end: %q is neither %q nor %q", r.AtEnd, atEndRelease, atEndOtherwise)
	}
	if r.Ask && len(cases.InOrder(r.Do)) == 0 {
		return errors.New("ask: there is nothing to approve: do names no containment")
	}
	if r.Ask && !slices.Contains(r.Do, cases.Page) {
		return errors.New("ask: add page to do, or nobody is asked")
	}
	if r.AtEnd == atEndOtherwise && len(r.Otherwise) == 0 {
		return errors.New("at_end: otherwise is empty")
	}
	if r.AtEnd != "" && !slices.Contains(r.Do, cases.Freeze) && !slices.Contains(r.Do, cases.Isolate) {
		return errors.New("at_end: nothing in do ends by itself: freeze and isolate do")
	}
	if r.When == "" {
		r.When = "true"
	}
	program, err := compileCondition(env, r.When)
	r.program = program
	return err
}

// compileCondition compiles a CEL expression that yields true or false.
func compileCondition(env *cel.Env, when string) (cel.Program, error) {
	ast, issues := env.Compile(when)
	if issues.Err() != nil {
		return nil, fmt.Errorf("when: %w", issues.Err())
	}
	if ast.OutputType() != cel.BoolType {
		return nil, fmt.Errorf("when: it yields a %s, not a bool", ast.OutputType())
	}
	program, err := env.Program(ast, cel.CostLimit(100_000))
	if err != nil {
		return nil, fmt.Errorf("when: %w", err)
	}
	return program, nil
}

// Decide answers the first rule that fits. A rule that fails to evaluate makes
// the decision a page and nothing else: what destroys fails closed, what tells
// fails open.
func (p *Policy) Decide(f finding.Finding, v cases.Verdict) cases.Decision {
	vars := variables(f, v)
	for _, r := range p.Rules {
		out, _, err := r.program.Eval(vars)
		if err != nil {
			return cases.Decision{Rule: r.Name, Do: []string{cases.Page}, Why: fmt.Sprintf("the rule could not be evaluated, so nothing is contained: %v", err)}
		}
		if out.Value() == true {
			d := cases.Decision{Rule: r.Name, Do: slices.Clone(r.Do), DryRun: p.Guards.DryRun,
				Fallback: slices.Clone(r.Otherwise), HoldFor: r.For, RequireApproval: r.Ask, FallbackOnExpiry: r.AtEnd == atEndOtherwise}
			return p.guarded(d, f)
		}
	}
	return cases.Decision{Rule: "(no rule fits)", Do: []string{cases.Page}}
}

// guarded takes out of a decision what the guards will refuse whatever the cluster looks
// like: nothing is promised, and nobody is asked to approve, what will not be done. They
// are asked again when acting.
func (p *Policy) guarded(d cases.Decision, f finding.Finding) cases.Decision {
	touches := func(action string) bool {
		return action != cases.Evidence && slices.Contains(cases.Containments, action)
	}
	if !slices.ContainsFunc(d.Do, touches) {
		return d
	}
	why := p.Guards.Refuses(f)
	if why == "" {
		return d
	}
	d.Do, d.Fallback = slices.DeleteFunc(d.Do, touches), nil
	d.Why = "nothing is contained: " + why
	return d
}

func variables(f finding.Finding, v cases.Verdict) map[string]any {
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
