// Package workflows reads, checks and runs exactly the subset of Cloud Workflows
// that workflows/case.yaml uses, and refuses the rest: it is how one machine drives
// cases with the very file that is deployed. Semantics follow Google's reference
// (https://cloud.google.com/workflows/docs/reference/syntax), named at each
// construct. Nothing that is deployed imports it.
package workflows

import (
	"errors"
	"fmt"
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

// calls of the standard library that are taken, with their arguments.
var calls = map[string][]string{
	"http.post":                       {"url", "timeout", "auth", "headers", "body"},
	"events.create_callback_endpoint": {"http_callback_method"},
	"events.await_callback":           {"callback", "timeout"},
	"sys.sleep":                       {"seconds"},
}

// formula is a value that is an expression.
type formula struct{ expr }

// Parse reads a definition; every mistake in it is told, with its line.
func Parse(text []byte) (*Definition, error) {
	if len(text) > MaxDefinition {
		return nil, fmt.Errorf("definition of %d bytes, at most %d are taken", len(text), MaxDefinition)
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, err
	}
	if len(doc.Content) != 1 {
		return nil, errors.New("the definition is empty")
	}
	l := &linter{}
	d := &Definition{subs: map[string]*sub{}}
	l.each(doc.Content[0], func(name string, n *yaml.Node) { d.subs[name] = l.sub(n) })
	if d.subs["main"] == nil {
		l.fail(doc.Content[0], "there is no main")
	}
	for name, s := range d.subs {
		if s != nil {
			l.targets(d, name, s.steps, nil)
		}
	}
	return d, errors.Join(l.errs...)
}

type linter struct {
	errs  []error
	lines map[*step]int
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
	l.each(n, func(key string, v *yaml.Node) {
		switch key {
		case "params":
			for _, p := range v.Content {
				s.params = append(s.params, p.Value)
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
		s := l.step(item.Content[1])
		s.name = item.Content[0].Value
		if slices.ContainsFunc(out, func(o *step) bool { return o.name == s.name }) {
			l.fail(item, "step %q twice", s.name)
		}
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
			for _, item := range v.Content {
				l.each(item, func(name string, value *yaml.Node) { s.assign = append(s.assign, assignment{name, l.value(value)}) })
			}
		case "call":
			does++
			s.call = v.Value
		case "args":
			s.args = l.value(v)
		case "result":
			s.result = v.Value
		case "switch":
			does++
			s.cases = l.cases(v)
		case "try":
			does++
			s.try = l.step(v)
		case "retry":
			s.retry = l.retry(v)
		case "except":
			l.each(v, func(key string, v *yaml.Node) {
				switch key {
				case "as":
					s.as = v.Value
				case "steps":
					s.except = l.steps(v)
				default:
					l.fail(v, "key %q is not known in an except", key)
				}
			})
		case "next":
			s.next = v.Value
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

func (l *linter) checkCall(n *yaml.Node, s *step) {
	known, ok := calls[s.call]
	if s.call == "" || !ok {
		return // a subworkflow's name is checked with the targets
	}
	args, isMap := s.args.(map[string]any)
	if s.args != nil && !isMap {
		l.fail(n, "args of %s: a map is wanted", s.call)
	}
	for name := range args {
		if !slices.Contains(known, name) {
			l.fail(n, "args of %s: %q is not known; there are %s", s.call, name, strings.Join(known, ", "))
		}
	}
}

func (l *linter) cases(n *yaml.Node) (out []choice) {
	if n.Kind != yaml.SequenceNode {
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
		e, err := parse(inner)
		if err != nil {
			l.fail(n, "%v", err)
			return nil
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
	if _, ok := calls[s.call]; s.call != "" && !ok && d.subs[s.call] == nil {
		l.fail(at, "%s: %q cannot be called here", name, s.call)
	}
	if s.retry != nil && (d.subs[s.retry.predicate] == nil || len(d.subs[s.retry.predicate].params) != 1) {
		l.fail(at, "%s: predicate %q is no subworkflow of one parameter", name, s.retry.predicate)
	}
	for _, c := range s.cases {
		l.target(d, name, c.step, names)
	}
	if s.try != nil {
		l.target(d, name, s.try, names)
	}
	l.targets(d, name, s.except, names)
	l.targets(d, name, s.nested, names)
}
