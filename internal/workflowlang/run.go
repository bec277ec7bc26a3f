package workflowlang

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"
)

// Limits of one execution, as Workflows has them.
const (
	maxSteps = 100_000
	maxDepth = 20
)

// Env is what a workflow can reach. Errors that are raised in the workflow are
// *Error; others end the execution.
type Env interface {
	Getenv(name string) (value string, ok bool)
	Sleep(ctx context.Context, d time.Duration) error // between the tries of a retry
	// Post sends a request and returns {body, code, headers}; the reply's body is
	// parsed where it is JSON. An answer of 400 and above is an *Error.
	Post(ctx context.Context, args map[string]any) (map[string]any, error)
	// CreateCallback returns {url: ...}.
	CreateCallback(ctx context.Context, method string) (map[string]any, error)
	// AwaitCallback waits for a request to a callback; a time-out is an *Error with
	// the tag TimeoutError.
	AwaitCallback(ctx context.Context, callback map[string]any, timeout time.Duration) (map[string]any, error)
}

// Error is raised in a workflow: a map as except sees it.
// https://cloud.google.com/workflows/docs/reference/syntax/error-types
type Error struct{ Value any }

func (e *Error) Error() string { return fmt.Sprintf("workflow error: %v", e.Value) }

// Raise makes an Error with a tag, and a code where it is not 0.
func Raise(tag, message string, code int) *Error {
	m := map[string]any{"tags": []any{tag}, "message": message}
	if code != 0 {
		m["code"] = int64(code)
	}
	return &Error{m}
}

func raise(tag, format string, args ...any) error { return Raise(tag, fmt.Sprintf(format, args...), 0) }

// Observer is called before each step, with its name; an error ends the execution
// there, as a machine that dies does.
type Observer func(step string) error

type execution struct {
	def     *Definition
	env     Env
	observe Observer
	steps   int
}

type scope struct {
	run   *execution
	vars  map[string]any
	depth int
}

// Run runs main with an argument, to its return value.
func (d *Definition) Run(ctx context.Context, env Env, argument any, observe Observer) (any, error) {
	e := &execution{def: d, env: env, observe: observe}
	var args []any
	if len(d.subs["main"].params) > 0 {
		args = []any{argument}
	}
	return e.call(ctx, "main", args, 0)
}

func (e *execution) call(ctx context.Context, name string, args []any, depth int) (any, error) {
	if depth > maxDepth {
		return nil, raise("RecursionError", "calls are %d deep", depth)
	}
	s := &scope{run: e, vars: map[string]any{}, depth: depth} // subworkflows have variables of their own
	for i, p := range e.def.subs[name].params {
		if i < len(args) {
			s.vars[p] = args[i]
		}
	}
	f, err := s.list(ctx, e.def.subs[name].steps)
	if err != nil {
		return nil, err
	}
	return f.value, nil
}

// flow is where a step leads: on, to a step, or to the end of the workflow.
type flow struct {
	next     string
	returned bool
	value    any
}

// list runs steps in order; a jump to one that is not of the list is for the list
// around it. https://cloud.google.com/workflows/docs/reference/syntax/jumps
func (s *scope) list(ctx context.Context, steps []*step) (flow, error) {
	for i := 0; i < len(steps); {
		f, err := s.step(ctx, steps[i])
		switch {
		case err != nil || f.returned:
			return f, err
		case f.next == endTarget:
			return flow{returned: true}, nil
		case f.next == "":
			i++
			continue
		}
		to := -1
		for j, other := range steps {
			if other.name == f.next {
				to = j
			}
		}
		if to < 0 {
			return f, nil
		}
		i = to
	}
	return flow{}, nil
}

func (s *scope) step(ctx context.Context, st *step) (flow, error) {
	if err := ctx.Err(); err != nil {
		return flow{}, err
	}
	if s.run.steps++; s.run.steps > maxSteps {
		return flow{}, raise("ResourceLimitError", "more than %d steps", maxSteps)
	}
	if s.run.observe != nil && st.name != "" {
		if err := s.run.observe(st.name); err != nil {
			return flow{}, err
		}
	}
	f, err := s.do(ctx, st)
	if err == nil && !f.returned && f.next == "" {
		f.next = st.next
	}
	return f, err
}

func (s *scope) do(ctx context.Context, st *step) (flow, error) {
	switch {
	case st.assign != nil: // in order: https://cloud.google.com/workflows/docs/reference/syntax/variables
		for _, a := range st.assign {
			v, err := s.value(a.value)
			if err != nil {
				return flow{}, err
			}
			s.vars[a.name] = v
		}
	case st.call != "":
		v, err := s.callStep(ctx, st)
		if err != nil {
			return flow{}, err
		}
		if st.result != "" {
			s.vars[st.result] = v
		}
	case st.cases != nil: // https://cloud.google.com/workflows/docs/reference/syntax/conditions
		for _, c := range st.cases {
			v, err := c.when.eval(s)
			if err != nil {
				return flow{}, err
			}
			yes, ok := v.(bool)
			if !ok {
				return flow{}, raise("TypeError", "a condition is a %T", v)
			}
			if yes {
				return s.step(ctx, c.step)
			}
		}
	case st.try != nil:
		return s.tryStep(ctx, st)
	case st.isRet:
		v, err := s.value(st.ret)
		return flow{returned: true, value: v}, err
	case st.isErr: // https://cloud.google.com/workflows/docs/reference/syntax/raising-errors
		v, err := s.value(st.raise)
		if err != nil {
			return flow{}, err
		}
		return flow{}, &Error{v}
	case st.nested != nil:
		return s.list(ctx, st.nested)
	}
	return flow{}, nil
}

// tryStep repeats the whole block while the predicate says so, at most 1 +
// max_retries times, then hands the error to except.
// https://cloud.google.com/workflows/docs/reference/syntax/retrying
// https://cloud.google.com/workflows/docs/reference/syntax/catching-errors
func (s *scope) tryStep(ctx context.Context, st *step) (flow, error) {
	f, err := s.step(ctx, st.try)
	delay := 0.0
	for i := 0; st.retry != nil && i < st.retry.maxRetries; i++ {
		var raised *Error
		if !errors.As(err, &raised) {
			break
		}
		again, perr := s.run.call(ctx, st.retry.predicate, []any{raised.Value}, s.depth+1)
		if perr != nil {
			return flow{}, perr
		}
		if again != true {
			break
		}
		if delay = delay * st.retry.multiplier; i == 0 {
			delay = st.retry.initial
		}
		delay = min(delay, st.retry.max)
		if serr := s.run.env.Sleep(ctx, time.Duration(delay*float64(time.Second))); serr != nil {
			return flow{}, serr
		}
		f, err = s.step(ctx, st.try)
	}
	var raised *Error
	if st.except == nil || !errors.As(err, &raised) {
		return f, err
	}
	before := maps.Clone(s.vars) // what is first set inside except is known there alone
	defer func() {
		for name := range s.vars {
			if _, known := before[name]; !known {
				delete(s.vars, name)
			}
		}
	}()
	if st.as != "" {
		s.vars[st.as] = raised.Value
	}
	return s.list(ctx, st.except)
}

func (s *scope) callStep(ctx context.Context, st *step) (any, error) {
	v, err := s.value(st.args)
	if err != nil {
		return nil, err
	}
	args, _ := v.(map[string]any)
	switch st.call {
	case "http.post": // https://cloud.google.com/workflows/docs/reference/stdlib/http/post
		return s.run.env.Post(ctx, args)
	case "events.create_callback_endpoint": // https://cloud.google.com/workflows/docs/reference/stdlib/events/create_callback_endpoint
		method, _ := args["http_callback_method"].(string)
		return s.run.env.CreateCallback(ctx, method)
	case "events.await_callback": // https://cloud.google.com/workflows/docs/reference/stdlib/events/await_callback
		callback, ok := args["callback"].(map[string]any)
		if !ok {
			return nil, raise("TypeError", "callback is a %T", args["callback"])
		}
		seconds, ok := number(args["timeout"])
		if !ok {
			return nil, raise("TypeError", "timeout is a %T", args["timeout"])
		}
		return s.run.env.AwaitCallback(ctx, callback, time.Duration(seconds*float64(time.Second)))
	}
	sub := s.run.def.subs[st.call] // by name: https://cloud.google.com/workflows/docs/reference/syntax/subworkflows
	list := make([]any, len(sub.params))
	for i, p := range sub.params {
		list[i] = args[p]
	}
	return s.run.call(ctx, st.call, list, s.depth+1)
}

// value evaluates the expressions in a value.
func (s *scope) value(v any) (any, error) {
	switch v := v.(type) {
	case formula:
		return v.eval(s)
	case map[string]any:
		out := map[string]any{}
		for name, x := range v {
			y, err := s.value(x)
			if err != nil {
				return nil, err
			}
			out[name] = y
		}
		return out, nil
	case []any:
		out := make([]any, len(v))
		for i, x := range v {
			y, err := s.value(x)
			if err != nil {
				return nil, err
			}
			out[i] = y
		}
		return out, nil
	}
	return v, nil
}
