// Package workflows reads, checks and runs exactly the subset of Cloud Workflows
// that workflows/case.yaml uses, and refuses the rest: it is how one machine drives
// cases with the very file that is deployed. Semantics follow Google's reference
// (https://cloud.google.com/workflows/docs/reference/syntax), named at each
// construct. Nothing that is deployed imports it.
package workflowlang

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// MaxDefinition is Workflows' limit, in bytes.
const MaxDefinition = 128 << 10

// Definition is a workflow that was read and checked.
type Definition struct {
	subs map[string]*sub
}

// sub is a workflow or subworkflow.
type sub struct {
	params []string
	steps  []*step
}

// step does one thing.
type step struct {
	name   string
	assign []assignment
	call   string
	args   any // with expressions in it
	result string
	cases  []choice
	try    *step // its body; for a retry and an except
	retry  *retryPolicy
	as     string
	except []*step
	next   string
	ret    any
	isRet  bool
	raise  any
	isErr  bool
	nested []*step
}

type assignment struct {
	name  string
	value any
}

// choice of a switch.
type choice struct {
	when expr
	step *step // next, return, or steps
}

type retryPolicy struct {
	predicate  string
	maxRetries int
	initial    float64
	max        float64
	multiplier float64
}

// calls of the standard library that are taken, with their arguments, all of which are
// to be given.
var calls = map[string][]string{
	"http.post":                       {"url", "timeout", "auth", "body"},
	"events.create_callback_endpoint": {"http_callback_method"},
	"events.await_callback":           {"callback", "timeout"},
}

// names of steps and variables that are taken; Workflows takes more.
var nameForm = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// reserved words are no variables.
var reserved = []string{"and", "or", "not", "in", "true", "false", "null"}

// formula is a value that is an expression.
type formula struct{ expr }

// Parse reads a definition; it reports every mistake in it, with its line.
func Parse(text []byte) (*Definition, error) {
	if len(text) > MaxDefinition {
		return nil, fmt.Errorf("definition of %d bytes, at most %d are taken", len(text), MaxDefinition)
	}
	var doc, more yaml.Node
	in := yaml.NewDecoder(bytes.NewReader(text))
	if err := in.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, errors.New("the definition is empty")
	} else if err != nil {
		return nil, err
	}
	if err := in.Decode(&more); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("line %d: a second document", more.Line)
	}
	l := &linter{}
	d := &Definition{subs: map[string]*sub{}}
	l.each(doc.Content[0], func(name string, n *yaml.Node) { d.subs[name] = l.sub(n) })
	if d.subs["main"] == nil {
		l.fail(doc.Content[0], "there is no main")
	}
	for name, s := range d.subs {
		l.targets(d, name, s.steps, nil)
	}
	return d, errors.Join(l.errs...)
}

// Steps are the names of all steps, at whatever depth, in the order of the text of each
// subworkflow; main's first.
func (d *Definition) Steps() (out []string) {
	subs := slices.Sorted(maps.Keys(d.subs))
	slices.SortStableFunc(subs, func(a, b string) int {
		return cmp.Compare(map[bool]int{true: 0, false: 1}[a == "main"], map[bool]int{true: 0, false: 1}[b == "main"])
	})
	for _, name := range subs {
		each(d.subs[name].steps, func(s *step) {
			if s.name != "" {
				out = append(out, s.name)
			}
		})
	}
	return out
}

// each calls f for steps and all that is in them.
func each(steps []*step, f func(*step)) {
	for _, s := range steps {
		f(s)
		for _, c := range s.cases {
			each([]*step{c.step}, f)
		}
		if s.try != nil {
			each([]*step{s.try}, f)
		}
		each(s.except, f)
		each(s.nested, f)
	}
}

type linter struct {
	errs  []error
	lines map[*step]int
	reads map[string]int  // variables that the expressions of this subworkflow read, with a line of each
	sets  map[string]bool // variables that something in it sets
	names map[string]bool // of its steps
}

// text reads a plain string.
func (l *linter) text(n *yaml.Node, what string) string {
	if n.Kind != yaml.ScalarNode {
		l.fail(n, "%s: a string is wanted", what)
	}
	return n.Value
}

// variable reads the name of a variable that is set.
func (l *linter) variable(n *yaml.Node) string {
	name := l.text(n, "a variable's name")
	if !nameForm.MatchString(name) || slices.Contains(reserved, name) {
		l.fail(n, "%q is no variable's name that is taken here", name)
	}
	l.sets[name] = true
	return name
}

func (l *linter) fail(n *yaml.Node, format string, args ...any) {
	l.errs = append(l.errs, fmt.Errorf("line %d: %s", n.Line, fmt.Sprintf(format, args...)))
}

// each calls f for each key of a map.
func (l *linter) each(n *yaml.Node, f func(name string, value *yaml.Node)) {
	if n.Kind != yaml.MappingNode {
		l.fail(n, "a map is wanted")
		return
	}
	seen := map[string]bool{}
	for i := 0; i < len(n.Content); i += 2 {
		name := n.Content[i].Value
		if seen[name] {
			l.fail(n.Content[i], "key %q twice", name)
		}
		seen[name] = true
		f(name, n.Content[i+1])
	}
}

func (l *linter) sub(n *yaml.Node) *sub {
	s := &sub{}
	l.reads, l.sets, l.names = map[string]int{}, map[string]bool{}, map[string]bool{}
	l.each(n, func(key string, v *yaml.Node) {
		switch key {
		case "params":
			if v.Kind != yaml.SequenceNode {
				l.fail(v, "params: a list is wanted")
			}
			for _, p := range v.Content {
				if slices.Contains(s.params, p.Value) {
					l.fail(p, "parameter %q twice", p.Value)
				}
				s.params = append(s.params, l.variable(p))
			}
		case "steps":
			s.steps = l.steps(v)
		default:
			l.fail(v, "key %q is not known in a workflow", key)
		}
	})
	if len(s.steps) == 0 {
		l.fail(n, "a workflow needs steps")
	}
	for _, name := range slices.Sorted(maps.Keys(l.reads)) {
		if !l.sets[name] {
			l.fail(&yaml.Node{Line: l.reads[name]}, "nothing sets the variable %q", name)
		}
	}
	return s
}

func (l *linter) steps(n *yaml.Node) (out []*step) {
	if n.Kind != yaml.SequenceNode {
		l.fail(n, "a list of steps is wanted")
		return nil
	}
	for _, item := range n.Content {
		if item.Kind != yaml.MappingNode || len(item.Content) != 2 {
			l.fail(item, "a step is one name and what it does")
			continue
		}
		name := l.text(item.Content[0], "a step's name")
		if !nameForm.MatchString(name) {
			l.fail(item, "%q is no step's name that is taken here", name)
		}
		if l.names[name] { // at whatever depth: a jump names one step
			l.fail(item, "step %q twice", name)
		}
		l.names[name] = true
		s := l.step(item.Content[1])
		s.name = name
		out = append(out, s)
	}
	return out
}

// step reads what a step, or the body of a try, does.
func (l *linter) step(n *yaml.Node) *step {
	s := &step{}
	if l.lines == nil {
		l.lines = map[*step]int{}
	}
	l.lines[s] = n.Line
	does := 0
	l.each(n, func(key string, v *yaml.Node) {
		switch key {
		case "assign":
			does++
			s.assign = l.assign(v)
		case "call":
			does++
			s.call = l.text(v, "call")
		case "args":
			s.args = l.value(v)
		case "result":
			s.result = l.variable(v)
		case "switch":
			does++
			s.cases = l.cases(v)
		case "try":
			does++
			s.try = l.step(v)
			if s.try.next != "" {
				l.fail(v, "a jump does not leave a try")
			}
		case "retry":
			s.retry = l.retry(v)
		case "except":
			l.each(v, func(key string, v *yaml.Node) {
				switch key {
				case "as":
					s.as = l.variable(v)
				case "steps":
					s.except = l.steps(v)
				default:
					l.fail(v, "key %q is not known in an except", key)
				}
			})
		case "next":
			s.next = l.text(v, "next")
		case "return":
			does++
			s.ret, s.isRet = l.value(v), true
		case "raise":
			does++
			s.raise, s.isErr = l.value(v), true
		case "steps":
			does++
			s.nested = l.steps(v)
		default:
			l.fail(v, "key %q is not known in a step", key)
		}
	})
	switch {
	case does > 1:
		l.fail(n, "a step does one thing")
	case does == 0 && s.next == "":
		l.fail(n, "a step does something")
	case s.call == "" && (s.args != nil || s.result != ""):
		l.fail(n, "args and result belong to a call")
	case s.try == nil && (s.retry != nil || s.except != nil):
		l.fail(n, "retry and except belong to a try")
	}
	l.checkCall(n, s)
	return s
}

// assign reads assignments: one variable each, in order.
func (l *linter) assign(n *yaml.Node) (out []assignment) {
	if n.Kind != yaml.SequenceNode || len(n.Content) == 0 {
		l.fail(n, "assign: a list of assignments is wanted")
	}
	for _, item := range n.Content {
		if item.Kind != yaml.MappingNode || len(item.Content) != 2 {
			l.fail(item, "an assignment is one variable and its value")
			continue
		}
		value := l.value(item.Content[1])
		out = append(out, assignment{l.variable(item.Content[0]), value})
	}
	return out
}

func (l *linter) checkCall(n *yaml.Node, s *step) {
	if known, ok := calls[s.call]; ok { // a subworkflow is checked with the targets
		l.checkArgs(n, s, known)
	}
}

// checkArgs wants each of the arguments, and no other.
func (l *linter) checkArgs(n *yaml.Node, s *step, known []string) {
	args, isMap := s.args.(map[string]any)
	if s.args != nil && !isMap {
		l.fail(n, "args of %s: a map is wanted", s.call)
		return
	}
	for _, name := range known {
		if _, ok := args[name]; !ok {
			l.fail(n, "args of %s: %q is missing", s.call, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(args)) {
		if !slices.Contains(known, name) {
			l.fail(n, "args of %s: %q is not known; there are %s", s.call, name, strings.Join(known, ", "))
		}
	}
}

func (l *linter) cases(n *yaml.Node) (out []choice) {
	if n.Kind != yaml.SequenceNode || len(n.Content) == 0 {
		l.fail(n, "a list of conditions is wanted")
		return nil
	}
	for _, item := range n.Content {
		c := choice{}
		rest := &yaml.Node{Kind: yaml.MappingNode, Line: item.Line}
		l.each(item, func(key string, v *yaml.Node) {
			if key != "condition" {
				rest.Content = append(rest.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: key, Line: v.Line}, v)
				return
			}
			f, ok := l.value(v).(formula)
			if !ok {
				l.fail(v, "a condition is an expression, ${...}")
				return
			}
			c.when = f.expr
		})
		if c.when == nil {
			l.fail(item, "a condition is missing")
		}
		c.step = l.step(rest)
		out = append(out, c)
	}
	return out
}

func (l *linter) retry(n *yaml.Node) *retryPolicy {
	r := &retryPolicy{initial: 1, max: 60, multiplier: 1.25}
	num := func(v *yaml.Node, into *float64) {
		if err := v.Decode(into); err != nil || *into < 0 {
			l.fail(v, "a number is wanted")
		}
	}
	l.each(n, func(key string, v *yaml.Node) {
		switch key {
		case "predicate":
			name, ok := strings.CutPrefix(v.Value, "${")
			if r.predicate, ok = strings.CutSuffix(name, "}"); !ok {
				l.fail(v, "a predicate is a subworkflow, ${name}")
			}
		case "max_retries":
			if err := v.Decode(&r.maxRetries); err != nil || r.maxRetries < 0 {
				l.fail(v, "a number is wanted")
			}
		case "backoff":
			l.each(v, func(key string, v *yaml.Node) {
				switch key {
				case "initial_delay":
					num(v, &r.initial)
				case "max_delay":
					num(v, &r.max)
				case "multiplier":
					num(v, &r.multiplier)
				default:
					l.fail(v, "key %q is not known in a backoff", key)
				}
			})
		default:
			l.fail(v, "key %q is not known in a retry", key)
		}
	})
	return r
}

// value reads a value, in which any string may be an expression.
func (l *linter) value(n *yaml.Node) any {
	switch n.Kind {
	case yaml.MappingNode:
		out := map[string]any{}
		l.each(n, func(name string, v *yaml.Node) { out[name] = l.value(v) })
		return out
	case yaml.SequenceNode:
		out := []any{}
		for _, item := range n.Content {
			out = append(out, l.value(item))
		}
		return out
	case yaml.ScalarNode:
		return l.scalar(n)
	}
	l.fail(n, "aliases are not taken")
	return nil
}

func (l *linter) scalar(n *yaml.Node) any {
	if inner, ok := strings.CutPrefix(n.Value, "${"); ok && n.Tag == "!!str" {
		inner, closed := strings.CutSuffix(inner, "}")
		if !closed {
			l.fail(n, "an expression is the whole of a string, ${...}")
			return nil
		}
		e, reads, err := parse(inner)
		if err != nil {
			l.fail(n, "%v", err)
			return nil
		}
		for _, name := range reads {
			l.reads[name] = n.Line
		}
		return formula{e}
	}
	if strings.Contains(n.Value, "${") {
		l.fail(n, "an expression is the whole of a string, ${...}")
	}
	switch n.Tag {
	case "!!int":
		var v int64
		if err := n.Decode(&v); err != nil {
			l.fail(n, "%v", err)
		}
		return v
	case "!!float":
		var v float64
		if err := n.Decode(&v); err != nil {
			l.fail(n, "%v", err)
		}
		return v
	case "!!bool":
		return n.Value == "true"
	case "!!null":
		return nil
	}
	return n.Value
}

// endTarget is a jump that ends the workflow.
const endTarget = "end"

// targets checks jumps, calls and predicates. A jump may go to a step of its own
// list or of one around it.
func (l *linter) targets(d *Definition, name string, steps []*step, around []string) {
	names := slices.Clone(around)
	for _, s := range steps {
		names = append(names, s.name)
	}
	for _, s := range steps {
		l.target(d, name, s, names)
	}
}

func (l *linter) target(d *Definition, name string, s *step, names []string) {
	at := &yaml.Node{Line: l.lines[s]}
	if s.next != "" && s.next != endTarget && !slices.Contains(names, s.next) {
		l.fail(at, "%s: there is no step %q to go to", name, s.next)
	}
	if _, ok := calls[s.call]; s.call != "" && !ok {
		if sub := d.subs[s.call]; sub != nil {
			l.checkArgs(at, s, sub.params)
		} else {
			l.fail(at, "%s: %q cannot be called here", name, s.call)
		}
	}
	if s.retry != nil && (d.subs[s.retry.predicate] == nil || len(d.subs[s.retry.predicate].params) != 1) {
		l.fail(at, "%s: predicate %q is no subworkflow of one parameter", name, s.retry.predicate)
	}
	for _, c := range s.cases {
		l.target(d, name, c.step, names)
	}
	if s.try != nil { // a jump does not leave it
		l.target(d, name, s.try, nil)
	}
	l.targets(d, name, s.except, names)
	l.targets(d, name, s.nested, names)
}
