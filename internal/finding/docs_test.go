package finding

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// decodedOf is what the documentation says of each subject.
var decodedOf = map[Subject]string{
	SubjectProgram:    "program: path, SHA-256, size, arguments, process IDs",
	SubjectLibrary:    "library: path, SHA-256, size; the program that loaded it",
	SubjectScript:     "script: path, SHA-256, contents (bounded, redacted); its interpreter",
	SubjectConnection: "program, and its connections: protocol, addresses, ports",
	SubjectFile:       "program, and the files that it changed or read",
	SubjectDetector:   "what is not seen, since when, what to do",
}

// TestTableOfTypesIsTheRegistry: docs/findings.md lists every type as the registry has it.
// CONTRABAND_UPDATE=1 writes the table.
func TestTableOfTypesIsTheRegistry(t *testing.T) {
	const path, begin, end = "../../docs/findings.md", "<!-- types: begin -->\n", "<!-- types: end -->"
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(raw), begin)
	table, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no markers", path)
	}
	var want strings.Builder
	want.WriteString("\n| finding | decoded | playbook | the detector's verdict counts |\n|---|---|---|---|\n")
	for _, ty := range Types() {
		if decodedOf[ty.Subject] == "" {
			t.Errorf("%s: subject %q is not documented", ty.Category, ty.Subject)
		}
		verdict := ""
		if ty.Malicious {
			verdict = "malicious"
		}
		fmt.Fprintf(&want, "| %s | %s | %s | %s |\n", ty.Category, decodedOf[ty.Subject], ty.Kind, verdict)
	}
	want.WriteString("\n")
	if table == want.String() {
		return
	}
	if os.Getenv("CONTRABAND_UPDATE") == "" {
		t.Fatalf("the table in %s is not the registry's: CONTRABAND_UPDATE=1 go test ./internal/finding -run TestTableOfTypes", path)
	}
	if err := os.WriteFile(path, []byte(before+begin+want.String()+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}
