// Package policy reads the policy file and decides what is done about a finding: the first
// rule that matches, the exceptions, and who is notified. Package guards has what bounds
// any rule. It never acts.
package policy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/ext"
	"go.yaml.in/yaml/v3"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/internal/policy/guards"
	"github.com/contraband-dev/contraband/sensor/allowlist"
)

// File is the policy file. Unknown keys are errors.
type File struct {
	// Rules are tried in order; the first whose When is true decides. When none
	// is, the finding is paged.
	Rules []Rule `yaml:"rules"`
	// Exceptions are programs that are counted and that no person is paged about. The sensor
	// reads the same entries.
	Exceptions allowlist.List `yaml:"exceptions"`
	// Routes say who is notified. Where none matches the security channel is.
	Routes []Route `yaml:"routes"`
	// EscalateAfter notifies another channel of a page that no person answers.
	EscalateAfter EscalateAfter `yaml:"escalate_after"`
	// Digest keeps incidents that can wait out of the pages.
	Digest Digest `yaml:"digest"`
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
	// Fallback is done as well when a containment is not in effect: the kubelet has
	// restarted what was frozen, nothing enforces the isolation, or, with OnExpiry,
	// HoldFor has passed.
	Fallback []string `yaml:"fallback"`
	// RequireApproval has a person approve, by a button of the page, before anything is
	// contained. Half an hour of silence causes a reminder, never an action.
	RequireApproval bool `yaml:"require_approval"`
	// HoldFor is how long a freeze and an isolation last unless they are released,
	// such as 12h. Default: 24h.
	HoldFor time.Duration `yaml:"hold_for"`
	// OnExpiry is what happens at the end of HoldFor: release, or fallback, which does
	// Fallback. Default: release.
	OnExpiry string `yaml:"on_expiry"`

	Earlier earlierKeys `yaml:",inline"`

	program cel.Program
}

// earlierKeys are the names that keys of a rule had; they are accepted with a warning.
type earlierKeys struct {
	Ask       *bool          `yaml:"ask"`
	Otherwise []string       `yaml:"otherwise"`
	For       *time.Duration `yaml:"for"`
	AtEnd     string         `yaml:"at_end"`
}

// renamed moves the values of earlier keys to those that they are called now, and warns.
func (r *Rule) renamed(k *checker, at place) {
	warn := func(old, now string, taken bool) {
		k.warn(at.key(old), "%s is called %s now", old, now)
		if taken {
			k.wrong(at.key(old), "%s and %s are the same: give one", old, now)
		}
	}
	if e := r.Earlier.Ask; e != nil {
		warn("ask", "require_approval", r.RequireApproval)
		r.RequireApproval = *e
	}
	if e := r.Earlier.Otherwise; e != nil {
		warn("otherwise", "fallback", r.Fallback != nil)
		r.Fallback = e
	}
	if e := r.Earlier.For; e != nil {
		warn("for", "hold_for", r.HoldFor != 0)
		r.HoldFor = *e
	}
	if e := r.Earlier.AtEnd; e != "" {
		warn("at_end", "on_expiry", r.OnExpiry != "")
		r.OnExpiry = e
	}
	if r.OnExpiry == "otherwise" {
		r.OnExpiry = onExpiryFallback
	}
	r.Earlier = earlierKeys{}
}

// Default only notifies: no container is frozen by surprise.
const Default = `# The policy that "contraband up" uses without --policy: it notifies and contains nothing.
rules:
  - name: known malware
    when: verdict.level == "malicious"
    do: [escalate, page]
  - name: everything else
    do: [page]
`

var known = slices.Concat([]string{cases.Escalate, cases.Page}, cases.Containments)

// Values of Rule.OnExpiry.
const (
	onExpiryRelease  = "release"
	onExpiryFallback = "fallback"
)

// longest is how long a rule may hold a pod.
const longest = 30 * 24 * time.Hour

// The variables of a rule. Their fields are checked when the file is read.
type (
	findingVar struct {
		Category   string `cel:"category"`
		Severity   string `cel:"severity"`
		Project    string `cel:"project"`
		Location   string `cel:"location"`
		Cluster    string `cel:"cluster"`
		Node       string `cel:"node"`
		Route      string `cel:"route"`
		SameAs     string `cel:"same_as"`
		ReportedBy string `cel:"reported_by"`
		Detector   string `cel:"detector"`
	}
	serviceVar struct {
		Kind     string `cel:"kind"`
		Name     string `cel:"name"`
		Revision string `cel:"revision"`
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
		Path   string   `cel:"path"`
		SHA256 string   `cel:"sha256"`
		Args   []string `cel:"args"`
		Runner string   `cel:"runner"`
	}
	connectionVar struct {
		Protocol        string `cel:"protocol"`
		DestinationIP   string `cel:"destination_ip"`
		DestinationPort int64  `cel:"destination_port"`
		SourceIP        string `cel:"source_ip"`
		SourcePort      int64  `cel:"source_port"`
	}
	verdictVar struct {
		Level  string `cel:"level"`
		Label  string `cel:"label"`
		Source string `cel:"source"`
	}
)

// Policy is a compiled file. It is safe for use by several goroutines, as long as none
// changes it.
type Policy struct {
	Rules      []Rule
	Exceptions allowlist.List
	Routes     []Route
	Guards     guards.Guards

	EscalateAfter EscalateAfter
	Digest        Digest
	// Warnings name what may be a mistake: keys that are called otherwise now, rules that are
	// never reached, labels that are read without a test, exceptions that have expired.
	Warnings []string
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
	for _, w := range p.Warnings {
		slog.Warn("policy file", "file", path, "warning", w)
	}
	return p, nil
}

// AddExceptions adds the exceptions of another file; "": none.
func (p *Policy) AddExceptions(file string) error {
	if file == "" {
		return nil
	}
	further, err := allowlist.Load(file)
	p.Exceptions = slices.Concat(p.Exceptions, further)
	return err
}

// Parse compiles a policy. It reports every mistake with its place, not only the first.
func Parse(body []byte) (*Policy, error) {
	var f File
	k, root, err := decode(body, &f)
	if err != nil {
		return nil, err
	}
	k.refuseNull(root.key("rules"))
	k.refuseNull(root.key("routes"))
	for i := range f.Rules {
		r := &f.Rules[i]
		at := root.key("rules").item(i, fmt.Sprintf("rule %d (%q)", i+1, r.Name))
		r.renamed(k, at)
		r.compile(k, at)
	}
	unreachable(k, f.Rules, root.key("rules"))
	k.errs = append(k.errs, f.Exceptions.Check(), f.Guards.Complete())
	for i := range f.Routes {
		f.Routes[i].compile(k, root.key("routes").item(i, fmt.Sprintf("route %d", i+1)))
	}
	f.EscalateAfter.compile(k, root.key("escalate_after").named("escalate_after"))
	f.Digest.compile(k, root.key("digest").named("digest"))
	for _, e := range f.Exceptions.Expired(time.Now()) {
		k.warn(place{}, "exception of %s (%s) has expired: its last day was %s", e.Owner, e.Reason, e.Until)
	}
	return &Policy{Rules: f.Rules, Exceptions: f.Exceptions, Routes: f.Routes, Guards: f.Guards,
			EscalateAfter: f.EscalateAfter, Digest: f.Digest, Warnings: k.warnings},
		errors.Join(k.errs...)
}

// decode reads a file of one YAML document. What has the wrong keys or types is among the
// checker's mistakes, and the rest is checked all the same.
func decode(body []byte, f *File) (*checker, place, error) {
	env, err := environment()
	if err != nil {
		return nil, place{}, err
	}
	k := &checker{env: env}
	d := yaml.NewDecoder(bytes.NewReader(body))
	d.KnownFields(true)
	var wrong *yaml.TypeError
	switch err := d.Decode(f); {
	case errors.As(err, &wrong):
		for _, text := range wrong.Errors {
			k.errs = append(k.errs, errors.New(unknownKey.ReplaceAllString(text, "unknown key $1")))
		}
	case errors.Is(err, io.EOF):
		return nil, place{}, errEmpty
	case err != nil:
		return nil, place{}, err
	}
	var doc, more yaml.Node
	if err := yaml.Unmarshal(body, &doc); err != nil {
		return nil, place{}, err
	}
	if isNull(doc.Content[0]) {
		return nil, place{}, errEmpty
	}
	root := place{node: doc.Content[0], lines: strings.Split(string(body), "\n")}
	if err := d.Decode(&more); !errors.Is(err, io.EOF) {
		k.wrong(place{node: &more}, "a second YAML document (after ---), which would be ignored: a policy is one document")
	}
	return k, root, nil
}

var errEmpty = errors.New("the policy file is empty")

// unknownKey is how the YAML package reports a key that a struct does not have.
var unknownKey = regexp.MustCompile(`field (\S+) not found in type \S+`)

// unreachable warns of rules after one that always matches.
func unreachable(k *checker, rules []Rule, at place) {
	always := slices.IndexFunc(rules, func(r Rule) bool { return strings.TrimSpace(r.When) == "true" })
	for i := always + 1; always >= 0 && i < len(rules); i++ {
		k.warn(at.item(i, fmt.Sprintf("rule %d (%q)", i+1, rules[i].Name)), "it is never reached: rule %d (%q) always matches", always+1, rules[always].Name)
	}
}

// variableTypes are the variables of a rule by name. connection is the first of
// connections, and zero where there is none.
var variableTypes = map[string]any{
	"finding": findingVar{}, "service": serviceVar{}, "pod": podVar{}, "container": containerVar{},
	"process": processVar{}, "connection": connectionVar{}, "verdict": verdictVar{},
}

func environment() (*cel.Env, error) {
	types := []any{ext.ParseStructTags(true)}
	options := []cel.EnvOption{cel.Variable("connections", cel.ListType(celType(connectionVar{})))}
	for name, v := range variableTypes {
		types = append(types, reflect.TypeOf(v))
		options = append(options, cel.Variable(name, celType(v)))
	}
	return cel.NewEnv(append([]cel.EnvOption{ext.NativeTypes(types...)}, options...)...)
}

func celType(v any) *cel.Type { return cel.ObjectType(reflect.TypeOf(v).String()) }

func (r *Rule) compile(k *checker, at place) {
	if r.Name == "" || len(r.Do) == 0 {
		k.wrong(at, "name and do are required")
	}
	for _, action := range r.Do {
		if !slices.Contains(known, action) {
			k.wrong(at.key("do"), "do: unknown action %q; known are %s", action, strings.Join(known, ", "))
		}
	}
	for _, action := range r.Fallback {
		if !slices.Contains(cases.Containments, action) {
			k.wrong(at.key("fallback"), "fallback: %q is not a containment; known are %s", action, strings.Join(cases.Containments, ", "))
		}
	}
	r.checkActions(k, at)
	r.checkExpiry(k, at)
	if r.When == "" {
		r.When = "true"
	}
	r.program = k.condition(r.When, at.key("when"))
}

// checkActions checks what a rule does against what it needs.
func (r *Rule) checkActions(k *checker, at place) {
	all := slices.Concat(r.Do, r.Fallback)
	if slices.ContainsFunc(all, cases.Destroys) && !slices.Contains(all, cases.Evidence) {
		k.wrong(at.key("do"), "do: evict and delete destroy what has run: add evidence")
	}
	contains := len(cases.InOrder(r.Do)) > 0
	pages := slices.Contains(r.Do, cases.Page)
	switch {
	case r.RequireApproval && !contains:
		k.wrong(at.key("require_approval"), "require_approval: do has no containment to approve")
	case r.RequireApproval && !pages:
		k.wrong(at.key("require_approval"), "require_approval: add page to do, else no person is asked")
	case contains && !pages && !slices.Equal(r.Do, []string{cases.Evidence}):
		k.warn(at.key("do"), "do: it contains, and nobody is notified: add page")
	}
}

// checkExpiry checks what holds only for a time, and what follows.
func (r *Rule) checkExpiry(k *checker, at place) {
	if r.HoldFor < 0 || r.HoldFor > longest {
		k.wrong(at.key("hold_for"), "hold_for: %s is not between 0 and %s", r.HoldFor, longest)
	}
	expires := slices.Contains(r.Do, cases.Freeze) || slices.Contains(r.Do, cases.Isolate)
	switch {
	case r.OnExpiry == "":
	case r.OnExpiry != onExpiryRelease && r.OnExpiry != onExpiryFallback:
		k.wrong(at.key("on_expiry"), "on_expiry: %q is neither %q nor %q", r.OnExpiry, onExpiryRelease, onExpiryFallback)
	case r.OnExpiry == onExpiryFallback && len(r.Fallback) == 0:
		k.wrong(at.key("on_expiry"), "on_expiry: fallback is empty")
	case !expires:
		k.wrong(at.key("on_expiry"), "on_expiry: nothing in do expires: freeze and isolate do")
	}
}

// Decide returns what the first rule that matches asks for. A rule that cannot be evaluated
// adds a page, and the next is tried: what an attacker writes into a finding must not keep
// the rules after it from being asked. An error of a detector is paged, whatever the rules say.
func (p *Policy) Decide(f finding.Finding, v cases.Verdict) cases.Decision {
	if f.Kind() == finding.DetectorHealth {
		return cases.Decision{Rule: "(a detector does not see what it should)", Do: []string{cases.Page}}
	}
	vars := variables(f, v)
	var failed []string
	for _, r := range p.Rules {
		out, _, err := r.program.Eval(vars)
		if err != nil {
			failed = append(failed, fmt.Sprintf("rule %q could not be evaluated: %v", r.Name, err))
			continue
		}
		if out.Value() == true {
			return pagedAsWell(p.guarded(p.decisionOf(r, f), f), failed)
		}
	}
	return pagedAsWell(cases.Decision{Rule: "(no rule matches)", Do: []string{cases.Page}}, failed)
}

func (p *Policy) decisionOf(r Rule, f finding.Finding) cases.Decision {
	d := cases.Decision{Rule: r.Name, Do: slices.Clone(r.Do), DryRun: p.Guards.DryRun,
		Fallback: slices.Clone(r.Fallback), HoldFor: r.HoldFor, RequireApproval: r.RequireApproval, FallbackOnExpiry: r.OnExpiry == onExpiryFallback}
	if f.Type().Malicious { // Security Command Center says so already
		d.Do = slices.DeleteFunc(d.Do, func(action string) bool { return action == cases.Escalate })
	}
	return d
}

// pagedAsWell adds a page to a decision where rules before it could not be evaluated.
func pagedAsWell(d cases.Decision, failed []string) cases.Decision {
	if len(failed) == 0 {
		return d
	}
	if !d.Includes(cases.Page) {
		d.Do = append(d.Do, cases.Page)
	}
	if d.Why != "" {
		failed = append(failed, d.Why)
	}
	d.Why = strings.Join(failed, "; ")
	return d
}

// guarded removes from a decision what the guards refuse whatever the state of the cluster:
// the page announces nothing, and asks to approve nothing, that will not be done. The
// guards run again before anything is done.
func (p *Policy) guarded(d cases.Decision, f finding.Finding) cases.Decision {
	touches := func(action string) bool {
		reads := action == cases.Evidence && f.Service.Kind == "" // of a service there is nothing to read
		return !reads && slices.Contains(cases.Containments, action)
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

// Variables returns what rules see of a finding, as they name it.
func Variables(f finding.Finding, v cases.Verdict) map[string]any {
	out := map[string]any{}
	for name, value := range variables(f, v) {
		out[name] = named(reflect.ValueOf(value))
	}
	return out
}

// named returns a value with the fields of structs under the names that rules use.
func named(v reflect.Value) any {
	switch v.Kind() {
	case reflect.Struct:
		fields := map[string]any{}
		for i := range v.NumField() {
			fields[v.Type().Field(i).Tag.Get("cel")] = named(v.Field(i))
		}
		return fields
	case reflect.Slice:
		items := []any{}
		for i := range v.Len() {
			items = append(items, named(v.Index(i)))
		}
		return items
	}
	return v.Interface()
}

func variables(f finding.Finding, v cases.Verdict) map[string]any {
	fv := findingVar{Category: f.Category, Severity: f.Severity, Project: f.Project, Location: f.Location, Cluster: f.Cluster, Node: f.Node,
		ReportedBy: string(f.ReportedBy), Detector: f.Detector}
	if f.Sensor != nil {
		fv.Route, fv.SameAs = f.Sensor.Route, f.Sensor.SameAs
	}
	process := processVar{Path: f.Process.Path, SHA256: f.Process.SHA256, Args: f.Process.Args}
	if f.Process.Runner != nil {
		process.Runner = f.Process.Runner.Path
	}
	connections := make([]connectionVar, 0, len(f.Connections))
	for _, c := range f.Connections {
		connections = append(connections, connectionVar{c.Protocol, c.DestinationIP, c.DestinationPort, c.SourceIP, c.SourcePort})
	}
	return map[string]any{
		"finding": fv, "service": serviceVar{string(f.Service.Kind), f.Service.Name, f.Service.Revision},
		"pod":       podVar{f.Pod.Namespace, f.Pod.Name, notNil(f.Pod.Labels)},
		"container": containerVar{f.Container.ID, f.Container.Name, f.Container.Image, f.Container.Digest, notNil(f.Container.Labels)},
		"process":   process, "connection": append(connections, connectionVar{})[0], "connections": connections,
		"verdict": verdictVar{string(v.Level), v.Label, v.Source},
	}
}

func notNil(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}
