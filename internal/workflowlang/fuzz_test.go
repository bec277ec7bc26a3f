package workflowlang_test

import (
	"testing"

	"github.com/contraband-dev/contraband/internal/workflowlang"
	deployed "github.com/contraband-dev/contraband/workflows"
)

// FuzzParse: no file makes the check fail otherwise than by naming its mistakes.
func FuzzParse(f *testing.F) {
	f.Add([]byte(deployed.Case))
	f.Add([]byte("main:\n  steps:\n    - a:\n        assign:\n          - x: ${1 + \"a\"}\n"))
	f.Add([]byte("main: {steps: [{a: {switch: [{condition: '${not x}', next: b}]}}]}"))
	f.Add([]byte("a: &a [*a]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := workflowlang.Parse(text)
		if err == nil && d == nil || err != nil && err.Error() == "" {
			t.Errorf("%q: %v, %v", text, d, err)
		}
	})
}
