package scc

import (
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	pb "cloud.google.com/go/securitycenter/apiv2/securitycenterpb"
)

// filter reports whether a finding is selected. nil selects all.
type filter func(*pb.Finding) bool

// parseFilter parses SCC's filter language as Google documents it for ListFindings and for
// notification configurations: restrictions FIELD OPERATOR VALUE, each perhaps with - in
// front, combined by AND and OR (which binds tighter), grouped by parentheses. Everything
// else is refused: NOT, a - before a group, !=, and operators that a field does not have.
func parseFilter(text string, fields map[string]field) (filter, error) {
	tokens, err := tokenize(text)
	if err != nil || len(tokens) == 0 {
		return nil, err
	}
	p := parser{tokens: tokens, fields: fields}
	f, err := p.and()
	if err == nil && len(p.tokens) > 0 {
		err = fmt.Errorf("unexpected %q", p.tokens[0].text)
	}
	return f, err
}

type token struct {
	text    string
	literal bool // a quoted string, unquoted
}

// tokenize splits a filter into words, quoted strings, operators and parentheses.
func tokenize(text string) ([]token, error) {
	var out []token
	for text = strings.TrimSpace(text); text != ""; text = strings.TrimLeft(text, " \t\n") {
		switch {
		case text[0] == '"':
			quoted, err := strconv.QuotedPrefix(text)
			if err != nil {
				return nil, fmt.Errorf("unterminated string %.20q", text)
			}
			value, err := strconv.Unquote(quoted)
			if err != nil {
				return nil, fmt.Errorf("invalid string %.20q", quoted)
			}
			out, text = append(out, token{value, true}), text[len(quoted):]
		case strings.HasPrefix(text, ">="), strings.HasPrefix(text, "<="):
			out, text = append(out, token{text: text[:2]}), text[2:]
		case strings.IndexByte("()=<>:-", text[0]) >= 0:
			out, text = append(out, token{text: text[:1]}), text[1:]
		default:
			n := strings.IndexFunc(text, func(r rune) bool { return !isWord(r) })
			if n < 0 {
				n = len(text)
			}
			if n == 0 {
				return nil, fmt.Errorf("unexpected %.1q", text)
			}
			out, text = append(out, token{text: text[:n]}), text[n:]
		}
	}
	return out, nil
}

func isWord(r rune) bool {
	return r == '_' || r == '.' || r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z'
}

type parser struct {
	tokens []token
	fields map[string]field
}

func (p *parser) peek(text string) bool {
	return len(p.tokens) > 0 && !p.tokens[0].literal && p.tokens[0].text == text
}

func (p *parser) accept(text string) bool {
	if !p.peek(text) {
		return false
	}
	p.tokens = p.tokens[1:]
	return true
}

func (p *parser) next() (token, error) {
	if len(p.tokens) == 0 {
		return token{}, errors.New("the filter is incomplete")
	}
	t := p.tokens[0]
	p.tokens = p.tokens[1:]
	return t, nil
}

func (p *parser) and() (filter, error) {
	return p.combined("AND", p.or, func(a, b filter) filter {
		return func(f *pb.Finding) bool { return a(f) && b(f) }
	})
}

func (p *parser) or() (filter, error) {
	return p.combined("OR", p.operand, func(a, b filter) filter {
		return func(f *pb.Finding) bool { return a(f) || b(f) }
	})
}

func (p *parser) combined(operator string, operand func() (filter, error), combine func(a, b filter) filter) (filter, error) {
	left, err := operand()
	for err == nil && p.accept(operator) {
		var right filter
		if right, err = operand(); err == nil {
			left = combine(left, right)
		}
	}
	return left, err
}

func (p *parser) operand() (filter, error) {
	if p.accept("(") {
		inner, err := p.and()
		if err == nil && !p.accept(")") {
			err = errors.New("a closing parenthesis is missing")
		}
		return inner, err
	}
	if !p.accept("-") {
		return p.restriction()
	}
	if p.peek("(") {
		return nil, errors.New("- stands before one restriction, not before a group")
	}
	inner, err := p.restriction()
	return func(f *pb.Finding) bool { return !inner(f) }, err
}

func (p *parser) restriction() (filter, error) {
	name, err := p.next()
	if err != nil {
		return nil, err
	}
	if name.literal || name.text == "NOT" {
		return nil, fmt.Errorf("unexpected %q: a field is expected", name.text)
	}
	of, err := lookUp(p.fields, name.text)
	if err != nil {
		return nil, err
	}
	operator, err := p.next()
	if err != nil {
		return nil, err
	}
	if operator.literal || !strings.Contains(of.operators, " "+operator.text+" ") {
		return nil, fmt.Errorf("field %q does not have the operator %q", name.text, operator.text)
	}
	value, err := p.next()
	if err != nil {
		return nil, err
	}
	return of.compare(name.text, operator.text, value)
}

// field is something that can be filtered on.
type field struct {
	operators string // each between spaces
	get       func(*pb.Finding) string
	time      bool
}

// Operators of fields.
const (
	equal    = " = "
	textual  = " = : "
	temporal = " = > < >= <= "
)

func (d field) compare(name, operator string, value token) (filter, error) {
	if d.time {
		return d.compareTime(name, operator, value)
	}
	if !value.literal {
		return nil, fmt.Errorf("%s: %q is not a string in quotes", name, value.text)
	}
	if operator == ":" {
		return func(f *pb.Finding) bool { return strings.Contains(d.get(f), value.text) }, nil
	}
	return func(f *pb.Finding) bool { return d.get(f) == value.text }, nil
}

func (d field) compareTime(name, operator string, value token) (filter, error) {
	want, err := time.Parse(time.RFC3339, value.text)
	if ms, parseErr := strconv.ParseInt(value.text, 10, 64); !value.literal && parseErr == nil {
		want, err = time.UnixMilli(ms), nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %q is neither an RFC 3339 time in quotes nor milliseconds", name, value.text)
	}
	return func(f *pb.Finding) bool {
		at, _ := time.Parse(time.RFC3339Nano, d.get(f))
		switch operator {
		case ">":
			return at.After(want)
		case "<":
			return at.Before(want)
		case ">=":
			return !at.Before(want)
		case "<=":
			return !at.After(want)
		}
		return at.Equal(want)
	}, nil
}

// listFields are what ListFindings filters on, with the operators of each.
var listFields = map[string]field{
	"name":          {operators: equal, get: (*pb.Finding).GetName},
	"parent":        {operators: textual, get: (*pb.Finding).GetParent},
	"resource_name": {operators: textual, get: (*pb.Finding).GetResourceName},
	"category":      {operators: textual, get: (*pb.Finding).GetCategory},
	"external_uri":  {operators: textual, get: (*pb.Finding).GetExternalUri},
	"state":         {operators: textual, get: func(f *pb.Finding) string { return f.State.String() }},
	"severity":      {operators: textual, get: func(f *pb.Finding) string { return f.Severity.String() }},
	"event_time":    {operators: temporal, time: true, get: func(f *pb.Finding) string { return f.EventTime.AsTime().Format(time.RFC3339Nano) }},
}

// notificationFields are what a notification configuration filters on: any field of a
// finding. These are the ones in use.
var notificationFields = func() map[string]field {
	out := maps.Clone(listFields)
	out["finding_class"] = field{operators: textual, get: func(f *pb.Finding) string { return f.FindingClass.String() }}
	out["mute"] = field{operators: textual, get: func(f *pb.Finding) string { return f.Mute.String() }}
	return out
}()

func lookUp(fields map[string]field, name string) (field, error) {
	if f, ok := fields[name]; ok {
		return f, nil
	}
	if key, ok := strings.CutPrefix(name, "security_marks.marks."); ok {
		return field{operators: textual, get: func(f *pb.Finding) string { return f.GetSecurityMarks().GetMarks()[key] }}, nil
	}
	return field{}, fmt.Errorf("field %q cannot be filtered on", name)
}
