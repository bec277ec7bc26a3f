package workflowlang

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// maxExpression is Workflows' limit, in characters.
const maxExpression = 400

// expr is a parsed expression. Values are nil, bool, int64, float64, string,
// []any and map[string]any.
type expr interface {
	eval(s *scope) (any, error)
}

type (
	literal  struct{ v any }
	variable struct{ name string }
	member   struct {
		of  expr
		key expr
	}
	not    struct{ x expr }
	binary struct {
		op   string
		x, y expr
	}
	call struct {
		name string
		args []expr
	}
)

// functions of expressions, with the number of their arguments.
var functions = map[string]int{"map.get": 2, "sys.get_env": 1}

// parse reads what stands inside ${...}; reads are the variables that it needs.
func parse(text string) (e expr, reads []string, err error) {
	if len([]rune(text)) > maxExpression {
		return nil, nil, fmt.Errorf("expression of %d characters, at most %d are taken", len([]rune(text)), maxExpression)
	}
	tokens, err := tokenize(text)
	if err != nil {
		return nil, nil, fmt.Errorf("expression %q: %w", text, err)
	}
	p := &parser{tokens: tokens}
	e, err = p.or()
	if err == nil && p.at < len(p.tokens) {
		err = fmt.Errorf("%q is not expected", p.tokens[p.at].text)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("expression %q: %w", text, err)
	}
	return e, p.reads, nil
}

type token struct {
	kind rune // 'i' identifier, 's' string, 'n' number, 'o' operator
	text string
}

func tokenize(s string) (out []token, err error) {
	for i := 0; i < len(s); {
		c := rune(s[i])
		switch {
		case unicode.IsSpace(c):
			i++
		case c == '"':
			end := i + 1
			for end < len(s) && s[end] != '"' {
				if s[end] == '\\' {
					end++
				}
				end++
			}
			if end >= len(s) {
				return nil, fmt.Errorf("a string without an end")
			}
			text, err := strconv.Unquote(s[i : end+1])
			if err != nil {
				return nil, fmt.Errorf("string %s: %w", s[i:end+1], err)
			}
			out = append(out, token{'s', text})
			i = end + 1
		case unicode.IsDigit(c):
			end := i
			for end < len(s) && unicode.IsDigit(rune(s[end])) {
				end++
			}
			out = append(out, token{'n', s[i:end]})
			i = end
		case unicode.IsLetter(c) || c == '_':
			end := i
			for end < len(s) && (unicode.IsLetter(rune(s[end])) || unicode.IsDigit(rune(s[end])) || s[end] == '_') {
				end++
			}
			out = append(out, token{'i', s[i:end]})
			i = end
		default:
			op := s[i : i+1]
			if i+1 < len(s) && slices.Contains([]string{"==", "!=", "<=", ">="}, s[i:i+2]) {
				op = s[i : i+2]
			}
			if !strings.Contains("== != <= >= < > ( ) [ ] . ,", op) {
				return nil, fmt.Errorf("%q is not known here", op)
			}
			out = append(out, token{'o', op})
			i += len(op)
		}
	}
	return out, nil
}

type parser struct {
	tokens []token
	at     int
	reads  []string
}

func (p *parser) is(texts ...string) (string, bool) {
	if p.at < len(p.tokens) && p.tokens[p.at].kind != 's' && slices.Contains(texts, p.tokens[p.at].text) {
		return p.tokens[p.at].text, true
	}
	return "", false
}

func (p *parser) take(texts ...string) (string, bool) {
	text, ok := p.is(texts...)
	if ok {
		p.at++
	}
	return text, ok
}

func (p *parser) want(text string) error {
	if _, ok := p.take(text); !ok {
		return fmt.Errorf("%q is missing", text)
	}
	return nil
}

func (p *parser) or() (expr, error)  { return p.chain(p.and, "or") }
func (p *parser) and() (expr, error) { return p.chain(p.not, "and") }

func (p *parser) not() (expr, error) {
	if _, ok := p.take("not"); ok {
		x, err := p.not()
		return not{x}, err
	}
	return p.compare()
}

func (p *parser) compare() (expr, error) {
	x, err := p.primary()
	if err != nil {
		return nil, err
	}
	if op, ok := p.take("==", "!=", "<=", ">=", "<", ">", "in"); ok {
		y, err := p.primary()
		return binary{op, x, y}, err
	}
	return x, nil
}

func (p *parser) chain(next func() (expr, error), ops ...string) (expr, error) {
	x, err := next()
	for err == nil {
		op, ok := p.take(ops...)
		if !ok {
			return x, nil
		}
		var y expr
		if y, err = next(); err == nil {
			x = binary{op, x, y}
		}
	}
	return nil, err
}

func (p *parser) primary() (expr, error) {
	if p.at >= len(p.tokens) {
		return nil, fmt.Errorf("it ends too early")
	}
	t := p.tokens[p.at]
	p.at++
	switch {
	case t.kind == 's':
		return p.rest(literal{t.text})
	case t.kind == 'n':
		n, err := strconv.ParseInt(t.text, 10, 64)
		return literal{n}, err
	case t.text == "(" && t.kind == 'o':
		x, err := p.or()
		if err == nil {
			err = p.want(")")
		}
		if err != nil {
			return nil, err
		}
		return p.rest(x)
	case t.kind == 'i':
		return p.named(t.text)
	}
	return nil, fmt.Errorf("%q is not expected", t.text)
}

// named is a constant, a function's call or a variable.
func (p *parser) named(name string) (expr, error) {
	switch name {
	case "true", "false":
		return literal{name == "true"}, nil
	case "null":
		return literal{nil}, nil
	}
	dotted, at := name, p.at
	for {
		if _, ok := p.is("("); ok {
			p.at++
			args, err := p.items(")")
			if err != nil {
				return nil, err
			}
			if n, ok := functions[dotted]; !ok || n != len(args) {
				return nil, fmt.Errorf("function %q with %d arguments is not known here", dotted, len(args))
			}
			return p.rest(call{dotted, args})
		}
		if _, ok := p.is("."); !ok || p.at+1 >= len(p.tokens) || p.tokens[p.at+1].kind != 'i' {
			break
		}
		dotted += "." + p.tokens[p.at+1].text
		p.at += 2
	}
	p.at = at // no call: a variable, and its members
	p.reads = append(p.reads, name)
	return p.rest(variable{name})
}

// rest is what follows a value: .name and [expression].
func (p *parser) rest(x expr) (expr, error) {
	for {
		if _, ok := p.take("."); ok {
			if p.at >= len(p.tokens) || p.tokens[p.at].kind != 'i' {
				return nil, fmt.Errorf("a name is missing after the dot")
			}
			x = member{x, literal{p.tokens[p.at].text}}
			p.at++
			continue
		}
		if _, ok := p.take("["); ok {
			key, err := p.or()
			if err == nil {
				err = p.want("]")
			}
			if err != nil {
				return nil, err
			}
			x = member{x, key}
			continue
		}
		return x, nil
	}
}

func (p *parser) items(end string) (out []expr, err error) {
	if _, ok := p.take(end); ok {
		return nil, nil
	}
	for {
		x, err := p.or()
		if err != nil {
			return nil, err
		}
		out = append(out, x)
		if _, ok := p.take(","); ok {
			continue
		}
		return out, p.want(end)
	}
}

func (l literal) eval(*scope) (any, error) { return l.v, nil }

func (v variable) eval(s *scope) (any, error) {
	x, ok := s.vars[v.name]
	if !ok {
		return nil, raise("KeyError", "variable %q is not set", v.name)
	}
	return x, nil
}

func (m member) eval(s *scope) (any, error) {
	of, err := m.of.eval(s)
	if err != nil {
		return nil, err
	}
	key, err := m.key.eval(s)
	if err != nil {
		return nil, err
	}
	switch of := of.(type) {
	case map[string]any:
		name, ok := key.(string)
		if !ok {
			return nil, raise("TypeError", "a map's key is a string, not %T", key)
		}
		v, ok := of[name]
		if !ok {
			return nil, raise("KeyError", "key not found: %s", name)
		}
		return v, nil
	case []any:
		n, ok := key.(int64)
		if !ok {
			return nil, raise("TypeError", "a list's index is a number, not %T", key)
		}
		if n < 0 || n >= int64(len(of)) {
			return nil, raise("IndexError", "index %d of a list of %d", n, len(of))
		}
		return of[n], nil
	}
	return nil, raise("TypeError", "a %T has no members", of)
}

func (n not) eval(s *scope) (any, error) {
	x, err := n.x.eval(s)
	if err != nil {
		return nil, err
	}
	v, ok := x.(bool)
	if !ok {
		return nil, raise("TypeError", "not of a %T", x)
	}
	return !v, nil
}

func (b binary) eval(s *scope) (any, error) {
	x, err := b.x.eval(s)
	if err != nil {
		return nil, err
	}
	if b.op == "and" || b.op == "or" { // the second is evaluated when it matters
		v, ok := x.(bool)
		if !ok {
			return nil, raise("TypeError", "%s of a %T", b.op, x)
		}
		if v == (b.op == "or") {
			return v, nil
		}
		y, err := b.y.eval(s)
		if err != nil {
			return nil, err
		}
		if w, ok := y.(bool); ok {
			return w, nil
		}
		return nil, raise("TypeError", "%s of a %T", b.op, y)
	}
	y, err := b.y.eval(s)
	if err != nil {
		return nil, err
	}
	switch b.op {
	case "==":
		return equal(x, y), nil
	case "!=":
		return !equal(x, y), nil
	case "in":
		return contains(x, y)
	}
	return order(b.op, x, y)
}

func equal(x, y any) bool {
	if a, ok := number(x); ok {
		b, ok := number(y)
		return ok && a == b
	}
	switch x.(type) {
	case []any, map[string]any:
		return fmt.Sprint(x) == fmt.Sprint(y)
	}
	return x == y
}

func number(v any) (float64, bool) {
	switch n := v.(type) {
	case int64:
		return float64(n), true
	case float64:
		return n, true
	}
	return 0, false
}

func contains(x, y any) (any, error) {
	switch in := y.(type) {
	case []any:
		return slices.ContainsFunc(in, func(v any) bool { return equal(x, v) }), nil
	case map[string]any:
		name, ok := x.(string)
		_, has := in[name]
		return ok && has, nil
	}
	return nil, raise("TypeError", "in a %T", y)
}

func order(op string, x, y any) (any, error) {
	less, same := false, false
	if a, ok := x.(string); ok {
		b, ok := y.(string)
		if !ok {
			return nil, raise("TypeError", "%T %s %T", x, op, y)
		}
		less, same = a < b, a == b
	} else {
		a, ok1 := number(x)
		b, ok2 := number(y)
		if !ok1 || !ok2 {
			return nil, raise("TypeError", "%T %s %T", x, op, y)
		}
		less, same = a < b, a == b
	}
	switch op {
	case "<":
		return less, nil
	case "<=":
		return less || same, nil
	case ">":
		return !less && !same, nil
	default:
		return !less, nil
	}
}

func (c call) eval(s *scope) (any, error) {
	args := make([]any, len(c.args))
	for i, a := range c.args {
		var err error
		if args[i], err = a.eval(s); err != nil {
			return nil, err
		}
	}
	switch c.name {
	case "map.get":
		m, ok := args[0].(map[string]any)
		name, isName := args[1].(string)
		if !ok || !isName {
			return nil, raise("TypeError", "map.get of a %T and a %T", args[0], args[1])
		}
		return m[name], nil // null when it is absent
	case "sys.get_env":
		name, ok := args[0].(string)
		if !ok {
			return nil, raise("TypeError", "sys.get_env of a %T", args[0])
		}
		v, ok := s.run.env.Getenv(name)
		if !ok {
			return nil, raise("KeyError", "environment variable %q is not set", name)
		}
		return v, nil
	}
	return nil, raise("TypeError", "function %q", c.name)
}
