package main

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/contraband-dev/contraband/internal/local"
	"github.com/contraband-dev/contraband/internal/policy"
)

// shapesPolicy asks for everything, so that what is refused is seen to be.
const shapesPolicy = `
rules:
  - name: malware
    when: verdict.level == "malicious"
    do: [escalate, page, freeze, evidence]
  - name: a connection out
    when: connections.exists(c, c.destination_port != 0)
    do: [page, isolate, evidence]
  - name: everything else
    do: [page]
`

var lookedUpAgain = regexp.MustCompile(`looked up again at .*`)

// TestShapesOfFindings has for every recorded finding what it becomes: what people are
// notified of, the case on the command line, the decision, and what rules see.
func TestShapesOfFindings(t *testing.T) {
	inputs, err := filepath.Glob("../../internal/finding/testdata/*.json")
	if err != nil || len(inputs) < 20 {
		t.Fatalf("%d inputs, %v", len(inputs), err)
	}
	rules, err := policy.Parse([]byte(shapesPolicy))
	if err != nil {
		t.Fatal(err)
	}
	for _, input := range inputs {
		name := strings.TrimSuffix(filepath.Base(input), ".json")
		t.Run(name, func(t *testing.T) {
			body, err := os.ReadFile(input)
			if err != nil {
				t.Fatal(err)
			}
			c, err := caseOfFinding(t.Context(), body, rules)
			if err != nil {
				t.Fatal(err)
			}
			var out, shown bytes.Buffer
			if err := previewCase(&out, c, rules, previewOptions{}); err != nil {
				t.Fatal(err)
			}
			if err := showCase(&shown, local.CaseView{Case: c}); err != nil {
				t.Fatal(err)
			}
			before, _, _ := strings.Cut(shown.String(), "\nms since the start:")
			_, commands, _ := strings.Cut(shown.String(), "\ncommands:")
			out.WriteString("\n--- case\n" + before + "\ncommands:" + commands + "\n--- policy\n")
			if err := explain(&out, rules, c.Decided.Finding, c.Decided.Verdict); err != nil {
				t.Fatal(err)
			}
			if err := printVariables(&out, c.Decided.Finding, c.Decided.Verdict); err != nil {
				t.Fatal(err)
			}
			checkGolden(t, filepath.Join("shapes", name+".txt"), lookedUpAgain.ReplaceAllString(out.String(), "looked up again at TIME"))
		})
	}
}
