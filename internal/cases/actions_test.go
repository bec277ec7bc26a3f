package cases_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/contraband-dev/contraband/internal/cases"
)

// TestEveryContainmentIsComplete names what is missing of a containment that was added: in
// the table, in the documentation, in what carries it out, and in what the cluster accepts.
func TestEveryContainmentIsComplete(t *testing.T) {
	read := func(file string) string {
		t.Helper()
		text, err := os.ReadFile("../../" + file)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	containment, policy, cluster := read("docs/containment.md"), read("docs/policy.md"), read("internal/contain/kubernetes.go")
	orders := read("manifests/cluster/containmentorder.yaml")
	_, enum, _ := strings.Cut(orders, "action: {type: string, enum: [")
	enum, _, _ = strings.Cut(enum, "]")
	accepted := strings.Split(enum, ", ")

	var names []string
	for _, c := range cases.Table() {
		names = append(names, c.Name, c.Undo)
		missing := func(what string, is bool) {
			t.Helper()
			if is {
				t.Errorf("%s: %s", c.Name, what)
			}
		}
		missing("Done and Word", c.Name == "" || c.Done == "" || c.Word == "")
		missing("UndoDone, UndoWord and State, or no Undo", (c.Undo == "") != (c.UndoDone == "" && c.UndoWord == "" && c.State == ""))
		missing("what destroys cannot be undone", c.Destroys && c.Undo != "")
		missing("a row of docs/containment.md", !strings.Contains(containment, "| `"+c.Name+"` |"))
		missing("docs/policy.md", !strings.Contains(policy, "`"+c.Name+"`"))
		missing("internal/contain/kubernetes.go", !strings.Contains(cluster, "case cases."+strings.ToUpper(c.Name[:1])+c.Name[1:]))
		missing("what undoes it in docs/containment.md", c.Undo != "" && !strings.Contains(containment, "`"+c.Undo+"`"))
		for _, order := range []string{c.Name, c.Undo} {
			missing("the enum of manifests/cluster/containmentorder.yaml", c.OnNode && order != "" && !slices.Contains(accepted, order))
		}
		if cases.DoneText(c.Name) != c.Done || cases.Word(c.Name) != c.Word || cases.UndoOf(c.Name) != c.Undo {
			t.Errorf("%s is not found in the table", c.Name)
		}
		if c.Undo != "" && (cases.UndoneBy(c.Undo) != c.Name || cases.DoneText(c.Undo) != c.UndoDone || cases.Word(c.Undo) != c.UndoWord || cases.UndoOf(c.Undo) != "") {
			t.Errorf("%s, which undoes %s, is not found in the table", c.Undo, c.Name)
		}
	}
	names = slices.DeleteFunc(names, func(n string) bool { return n == "" })
	slices.Sort(names)
	if len(slices.Compact(slices.Clone(names))) != len(names) {
		t.Errorf("a name twice: %v", names)
	}
	for _, other := range []string{cases.Page, cases.Escalate, "", "unknown"} {
		if cases.DoneText(other) != "" || cases.UndoOf(other) != "" || cases.UndoneBy(other) != "" || cases.Destroys(other) {
			t.Errorf("%q is taken for a containment", other)
		}
	}
}
