package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/cost"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/internal/sensorapi"
)

// Bounds of what a condition sees. A finding is decoded within them, so a condition that is
// accepted never exceeds its cost, whatever an attacker names a file.
const (
	maxText  = sensorapi.MaxString // bytes of one string
	maxItems = sensorapi.MaxArgs   // of a list or a map
	// maxCost is in CEL's units; evaluating that much takes about 0.1 s
	// (go test ./internal/policy -bench Condition).
	maxCost = 2_000_000
)

// checker collects every mistake of a file, and what may be one.
type checker struct {
	env      *cel.Env
	errs     []error
	warnings []string
}

func (k *checker) wrong(p place, format string, args ...any) {
	k.errs = append(k.errs, errors.New(p.text(problem{text: fmt.Sprintf(format, args...)})))
}

func (k *checker) warn(p place, format string, args ...any) {
	k.warnings = append(k.warnings, p.text(problem{text: fmt.Sprintf(format, args...)}))
}

// problem is a mistake, at a place within an expression: line from 1, column from 0.
type problem struct {
	line, column int
	text         string
}

// condition compiles a CEL expression that yields true or false, which stands at a place
// of the file.
func (k *checker) condition(when string, p place) cel.Program {
	checked, issues := k.env.Compile(when)
	if issues.Err() != nil {
		for _, e := range issues.Errors() {
			k.errs = append(k.errs, errors.New(p.text(problem{e.Location.Line(), e.Location.Column(), "when: " + e.Message})))
		}
		return nil
	}
	if checked.OutputType() != cel.BoolType {
		k.wrong(p, "when: it yields a %s, not a bool", checked.OutputType())
		return nil
	}
	wrong, warnings := lint(checked.NativeRep())
	for _, w := range wrong {
		k.errs = append(k.errs, errors.New(p.text(w)))
	}
	for _, w := range warnings {
		k.warnings = append(k.warnings, p.text(w))
	}
	estimate, err := k.env.EstimateCost(checked, sizes{})
	if err == nil && estimate.Max > maxCost {
		err = fmt.Errorf("evaluating it can cost %d, and at most %d is allowed: search fewer strings, or compare fewer pairs", estimate.Max, maxCost)
	}
	if err != nil {
		k.wrong(p, "when: %v", err)
		return nil
	}
	program, err := k.env.Program(checked, cel.CostLimit(maxCost))
	if err != nil {
		k.wrong(p, "when: %v", err)
	}
	return program
}

// sizes estimates the sizes of variables by the bounds of a finding.
type sizes struct{}

// EstimateSize implements cost.Estimator.
func (sizes) EstimateSize(n cost.AstNode) *cost.SizeEstimate {
	switch n.Type().Kind() {
	case types.StringKind, types.BytesKind:
		return &cost.SizeEstimate{Min: 0, Max: maxText}
	case types.ListKind, types.MapKind:
		return &cost.SizeEstimate{Min: 0, Max: maxItems}
	}
	return nil
}

// EstimateCallCost implements cost.Estimator: CEL's own estimates.
func (sizes) EstimateCallCost(string, string, *cost.AstNode, []cost.AstNode) *cost.CallEstimate {
	return nil
}

// constants are the values that a field can have: an expression that compares it with
// another is never true.
var constants = map[string][]string{
	"verdict.level":       {string(cases.Malicious), string(cases.Suspicious), string(cases.Unknown), string(cases.NotLookedUp)},
	"finding.severity":    {"CRITICAL", "HIGH", "MEDIUM", "LOW", "SEVERITY_UNSPECIFIED", ""},
	"finding.reported_by": {string(finding.ReporterOurs), string(finding.ReporterGoogle), string(finding.ReporterOther)},
	"finding.route":       append(routes(), ""),
	"service.kind":        {string(finding.CloudRunService), string(finding.CloudRunJob), string(finding.AgentEngine), ""},
}

// lint returns what is certainly wrong with an expression, and what may be.
func lint(expr *ast.AST) (wrong, warnings []problem) {
	tested := testedLabels(expr)
	visit(expr, func(e ast.Expr) {
		if e.Kind() != ast.CallKind {
			return
		}
		call := e.AsCall()
		switch call.FunctionName() {
		case operators.Equals, operators.NotEquals, operators.In:
			a, b := call.Args()[0], call.Args()[1]
			for _, p := range append(unknownConstants(a, b), unknownConstants(b, a)...) {
				wrong = append(wrong, at(expr, e, p))
			}
		case operators.Index:
			labels, key := pathOf(call.Args()[0]), literal(call.Args()[1])
			if strings.HasSuffix(labels, ".labels") && key != "" && !slices.Contains(tested, labels+" "+key) {
				warnings = append(warnings, at(expr, e, fmt.Sprintf("when: %s[%q] cannot be evaluated where the label is absent: put %q in %s && before it", labels, key, key, labels)))
			}
		}
	})
	return wrong, warnings
}

// testedLabels returns the labels whose presence an expression tests, as "pod.labels key".
func testedLabels(expr *ast.AST) (out []string) {
	visit(expr, func(e ast.Expr) {
		switch {
		case e.Kind() == ast.CallKind && e.AsCall().FunctionName() == operators.In:
			out = append(out, pathOf(e.AsCall().Args()[1])+" "+literal(e.AsCall().Args()[0]))
		case e.Kind() == ast.SelectKind && e.AsSelect().IsTestOnly():
			out = append(out, pathOf(e.AsSelect().Operand())+" "+e.AsSelect().FieldName())
		}
	})
	return out
}

// unknownConstants returns what is wrong with comparing a field with one or several values.
func unknownConstants(field, values ast.Expr) (out []string) {
	known, ok := constants[pathOf(field)]
	if !ok {
		return nil
	}
	compared := []ast.Expr{values}
	if values.Kind() == ast.ListKind {
		compared = values.AsList().Elements()
	}
	for _, v := range compared {
		text, ok := stringOf(v)
		if ok && !slices.Contains(known, text) {
			out = append(out, fmt.Sprintf("when: %s is never %q; it is one of %q", pathOf(field), text, known))
		}
	}
	return out
}

// pathOf returns a chain of fields, such as "pod.labels"; "" for other expressions.
func pathOf(e ast.Expr) string {
	switch e.Kind() {
	case ast.IdentKind:
		return e.AsIdent()
	case ast.SelectKind:
		if of := pathOf(e.AsSelect().Operand()); of != "" && !e.AsSelect().IsTestOnly() {
			return of + "." + e.AsSelect().FieldName()
		}
	}
	return ""
}

func stringOf(e ast.Expr) (string, bool) {
	if e.Kind() != ast.LiteralKind {
		return "", false
	}
	s, ok := e.AsLiteral().Value().(string)
	return s, ok
}

func literal(e ast.Expr) string {
	s, _ := stringOf(e)
	return s
}

func visit(expr *ast.AST, f func(ast.Expr)) {
	ast.PreOrderVisit(expr.Expr(), ast.NewExprVisitor(f))
}

func at(expr *ast.AST, e ast.Expr, text string) problem {
	start := expr.SourceInfo().GetStartLocation(e.ID())
	return problem{start.Line(), start.Column(), text}
}

func routes() (out []string) {
	for _, r := range sensorapi.Routes {
		out = append(out, string(r))
	}
	return out
}
