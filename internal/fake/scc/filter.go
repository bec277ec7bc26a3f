package scc

import (
	"fmt"
	"strings"
	"time"

	pb "cloud.google.com/go/securitycenter/apiv2/securitycenterpb"
	"go.einride.tech/aip/filtering"
	expr "google.golang.org/genproto/googleapis/api/expr/v1alpha1"
)

// filter tells whether a finding is meant. nil means all.
type filter func(*pb.Finding) bool

// parseFilter reads the part of the API's filter language that is used here:
// =, !=, <, <=, >, >=, : (contains), AND, OR (which binds tighter), NOT, -.
func parseFilter(text string) (filter, error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	var p filtering.Parser
	p.Init(text)
	parsed, err := p.Parse()
	if err != nil {
		return nil, err
	}
	return compile(parsed.GetExpr())
}

func compile(e *expr.Expr) (filter, error) {
	call := e.GetCallExpr()
	if call == nil {
		return nil, fmt.Errorf("a comparison is wanted, not %v", e)
	}
	switch call.Function {
	case filtering.FunctionNot:
		inner, err := compile(call.Args[0])
		return func(f *pb.Finding) bool { return !inner(f) }, err
	case filtering.FunctionAnd, filtering.FunctionFuzzyAnd, filtering.FunctionOr:
		left, err := compile(call.Args[0])
		if err != nil {
			return nil, err
		}
		right, err := compile(call.Args[1])
		if call.Function == filtering.FunctionOr {
			return func(f *pb.Finding) bool { return left(f) || right(f) }, err
		}
		return func(f *pb.Finding) bool { return left(f) && right(f) }, err
	}
	return comparison(call)
}

func comparison(call *expr.Expr_Call) (filter, error) {
	if len(call.Args) != 2 {
		return nil, fmt.Errorf("operator %q is not known here", call.Function)
	}
	name, err := fieldName(call.Args[0])
	if err != nil {
		return nil, err
	}
	get, err := field(name)
	if err != nil {
		return nil, err
	}
	want := call.Args[1].GetConstExpr().GetStringValue()
	if ident := call.Args[1].GetIdentExpr(); ident != nil {
		want = ident.Name
	}
	isTime := strings.HasSuffix(name, "_time")
	if isTime {
		if _, err := time.Parse(time.RFC3339, want); err != nil {
			return nil, fmt.Errorf("%s: %q is no RFC 3339 time", name, want)
		}
	}
	compare := func(f *pb.Finding) int {
		if isTime {
			a, _ := time.Parse(time.RFC3339Nano, get(f))
			b, _ := time.Parse(time.RFC3339, want)
			return a.Compare(b)
		}
		return strings.Compare(get(f), want)
	}
	switch call.Function {
	case filtering.FunctionEquals:
		return func(f *pb.Finding) bool { return compare(f) == 0 }, nil
	case filtering.FunctionNotEquals:
		return func(f *pb.Finding) bool { return compare(f) != 0 }, nil
	case filtering.FunctionLessThan:
		return func(f *pb.Finding) bool { return compare(f) < 0 }, nil
	case filtering.FunctionLessEquals:
		return func(f *pb.Finding) bool { return compare(f) <= 0 }, nil
	case filtering.FunctionGreaterThan:
		return func(f *pb.Finding) bool { return compare(f) > 0 }, nil
	case filtering.FunctionGreaterEquals:
		return func(f *pb.Finding) bool { return compare(f) >= 0 }, nil
	case filtering.FunctionHas:
		return func(f *pb.Finding) bool { return strings.Contains(get(f), want) }, nil
	}
	return nil, fmt.Errorf("operator %q is not known here", call.Function)
}

func fieldName(e *expr.Expr) (string, error) {
	if i := e.GetIdentExpr(); i != nil {
		return i.Name, nil
	}
	if s := e.GetSelectExpr(); s != nil {
		base, err := fieldName(s.Operand)
		return base + "." + s.Field, err
	}
	return "", fmt.Errorf("a field is wanted on the left, not %v", e)
}

func field(name string) (func(*pb.Finding) string, error) {
	switch name {
	case "name":
		return (*pb.Finding).GetName, nil
	case "parent":
		return (*pb.Finding).GetParent, nil
	case "resource_name":
		return (*pb.Finding).GetResourceName, nil
	case "category":
		return (*pb.Finding).GetCategory, nil
	case "state":
		return func(f *pb.Finding) string { return f.State.String() }, nil
	case "severity":
		return func(f *pb.Finding) string { return f.Severity.String() }, nil
	case "mute":
		return func(f *pb.Finding) string { return f.Mute.String() }, nil
	case "event_time":
		return func(f *pb.Finding) string { return f.EventTime.AsTime().Format(time.RFC3339Nano) }, nil
	case "create_time":
		return func(f *pb.Finding) string { return f.CreateTime.AsTime().Format(time.RFC3339Nano) }, nil
	}
	if key, ok := strings.CutPrefix(name, "security_marks.marks."); ok {
		return func(f *pb.Finding) string { return f.GetSecurityMarks().GetMarks()[key] }, nil
	}
	if key, ok := strings.CutPrefix(name, "source_properties."); ok {
		return func(f *pb.Finding) string { return f.SourceProperties[key].GetStringValue() }, nil
	}
	return nil, fmt.Errorf("field %q cannot be filtered on", name)
}
