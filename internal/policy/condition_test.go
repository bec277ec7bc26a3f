package policy

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/internal/sensorapi"
)

// TestEachMistakeHasItsPlace: all mistakes of a file are reported at once, each where it is.
func TestEachMistakeHasItsPlace(t *testing.T) {
	_, err := Parse([]byte(`rules:
  - name: one
    do: [page, explode]
    when: verdict.level == "malicous"
  - name: two
    when: |
      pod.namespace == "shop" &&
      finding.severity in ["HIGH", "CRITCAL"]
    do: [page]
    wen: never
  - name: three
    when: "verdict.levle == 'malicious'"
    do: [evict]
  - name: four
    when: process.args.exists(a, process.args.exists(b, process.args.exists(c, a + b == c)))
    do: [page]
routes:
  - when: finding.reported_by != "googel"
    slack: "#soc"
digest:
  when: finding.route == "scirpt"
  every: 7h
---
rules: []
`))
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		`line 10: unknown key wen`,
		`line 23, column 1: a second YAML document`,
		`line 3, column 9: rule 1 ("one"): do: unknown action "explode"`,
		`line 4, column 25: rule 1 ("one"): when: verdict.level is never "malicous"; it is one of ["malicious"`,
		`line 8, column 24: rule 2 ("two"): when: finding.severity is never "CRITCAL"`,
		`line 12, column 19: rule 3 ("three"): when: undefined field 'levle'`,
		`line 13, column 9: rule 3 ("three"): do: evict and delete destroy what has run: add evidence`,
		`line 15, column 11: rule 4 ("four"): when: evaluating it can cost `,
		`line 18, column 31: route 1: when: finding.reported_by is never "googel"`,
		`line 21, column 23: digest: when: finding.route is never "scirpt"`,
		`line 22, column 10: digest: every: 7h0m0s`,
	} {
		if !slices.ContainsFunc(strings.Split(err.Error(), "\n"), func(line string) bool { return strings.HasPrefix(line, want) }) {
			t.Errorf("no line begins %q in\n%v", want, err)
		}
	}
}

func TestWhatMayBeAMistakeIsWarnedOf(t *testing.T) {
	p, err := Parse([]byte(`rules:
  - name: one
    when: pod.labels["env"] == "prod"
    do: [freeze]
  - name: two
    when: '"env" in pod.labels && pod.labels["env"] == "prod" || has(container.labels.demo) && container.labels["demo"] == "x"'
    do: [evidence]
  - name: three
    do: [page]
  - name: four
    when: verdict.level != "malicious"
    do: [page]
`))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		`line 4, column 9: rule 1 ("one"): do: it contains, and nobody is notified: add page`,
		`line 3, column 21: rule 1 ("one"): when: pod.labels["env"] cannot be evaluated where the label is absent: put "env" in pod.labels && before it`,
		`line 10, column 5: rule 4 ("four"): it is never reached: rule 3 ("three") always matches`,
	}
	if !slices.Equal(p.Warnings, want) {
		t.Errorf("warnings:\n%s\nwant:\n%s", strings.Join(p.Warnings, "\n"), strings.Join(want, "\n"))
	}
}

func TestEmptyPolicyIsRefused(t *testing.T) {
	for _, body := range []string{"", "---\n", "null\n", "# nothing\n"} {
		if _, err := Parse([]byte(body)); err == nil || !strings.Contains(err.Error(), "empty") {
			t.Errorf("%q: error %v", body, err)
		}
	}
	_, err := Parse([]byte("rules:\n  -\n  - name: a\n    do: [page]\n    when: foo\n"))
	for _, want := range []string{"line 2, column 4: an entry of a list that says nothing", `line 5, column 11: rule 1 ("a"): when: undeclared`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
}

// longestFinding is a finding that is as long as the decoder lets one be.
func longestFinding() finding.Finding {
	text := strings.Repeat("a", sensorapi.MaxString)
	labels := map[string]string{}
	var args []string
	for i := range sensorapi.MaxArgs {
		args = append(args, text)
		labels[fmt.Sprint(i, text)[:sensorapi.MaxString]] = text
	}
	f := finding.Finding{Category: text, Severity: text, Node: "n"}
	f.Process.Path, f.Process.Args = text, args
	f.Container.ID, f.Container.Image, f.Container.Labels = "c", text, labels
	f.Pod.Labels = labels
	return f
}

// demanding conditions are near what is allowed.
var demanding = []string{
	`process.args.exists(a, a.matches("^(a+)+x.*[0-9a-f]{8}$"))`,
	`process.args.exists(a, pod.labels.exists(k, k == a))`,
	`process.args.exists(a, container.labels.exists(k, k.contains("xy")))`,
	`process.path.matches("(a|aa)+$") && process.args.all(a, !a.endsWith(process.path))`,
}

// TestNoFindingExceedsTheCostOfAnAcceptedCondition: what is too dear is refused when the
// file is read, so no string of an attacker's keeps a rule from being evaluated.
func TestNoFindingExceedsTheCostOfAnAcceptedCondition(t *testing.T) {
	for _, when := range demanding {
		p, err := Parse(fmt.Appendf(nil, "rules: [{name: x, when: '%s || true', do: [freeze, page]}]", when))
		if err != nil {
			t.Errorf("%s: %v", when, err)
			continue
		}
		if d := p.Decide(longestFinding(), cases.Verdict{}); d.Rule != "x" || d.Why != "" {
			t.Errorf("%s: %+v", when, d)
		}
	}
}

// TestRuleThatCannotBeEvaluatedHidesNoOther: it adds a page, and the rules after it are
// asked.
func TestRuleThatCannotBeEvaluatedHidesNoOther(t *testing.T) {
	p, err := Parse([]byte(`rules:
  - {name: broken, when: 'process.args[7] == "x"', do: [page]}
  - {name: broken too, when: 'pod.labels["team"] == "x"', do: [page]}
  - {name: malware, when: verdict.level == "malicious", do: [freeze]}
`))
	if err != nil {
		t.Fatal(err)
	}
	f := finding.Finding{Node: "n", Container: finding.Container{ID: "c"}}
	d := p.Decide(f, cases.Verdict{Level: cases.Malicious})
	if d.Rule != "malware" || !slices.Equal(d.Do, []string{cases.Freeze, cases.Page}) || !strings.Contains(d.Why, `"broken"`) || !strings.Contains(d.Why, `"broken too"`) {
		t.Errorf("malicious: %+v", d)
	}
	if d = p.Decide(f, cases.Verdict{}); d.Rule != "(no rule matches)" || !slices.Equal(d.Do, []string{cases.Page}) || d.Why == "" {
		t.Errorf("unknown: %+v", d)
	}
	if p.Rules[2].Do = append(p.Rules[2].Do, cases.Evidence); !slices.Equal(p.Decide(f, cases.Verdict{Level: cases.Malicious}).Do, []string{cases.Freeze, cases.Evidence, cases.Page}) {
		t.Error("a decision changes the rule that it is of")
	}
}

// BenchmarkCondition evaluates the dearest conditions that are accepted over the longest
// finding.
func BenchmarkCondition(b *testing.B) {
	f := longestFinding()
	for i, when := range demanding {
		p, err := Parse(fmt.Appendf(nil, "rules: [{name: x, when: '%s', do: [page]}]", when))
		if err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprint(i+1), func(b *testing.B) {
			for b.Loop() {
				p.Decide(f, cases.Verdict{})
			}
		})
	}
}

// FuzzParse: no file makes the check fail otherwise than by an error, and what is accepted
// can be asked about the longest finding without exceeding its cost.
func FuzzParse(f *testing.F) {
	f.Add([]byte(Default))
	f.Add([]byte("rules: [{name: a, do: [page], when: 'process.args.exists(a, a.matches(\"x\"))'}]\nroutes: [{slack: '#x'}]\n"))
	f.Add([]byte("rules:\n  - name: a\n    when: |\n      pod.labels[\"x\"] == \"y\"\n    do: [freeze]\n---\n{}"))
	f.Add([]byte("a: &a [*a]"))
	f.Add([]byte("rules: {}\n"))
	long := longestFinding()
	f.Fuzz(func(t *testing.T, body []byte) {
		p, err := Parse(body)
		if err != nil {
			if err.Error() == "" {
				t.Error("an error without text")
			}
			return
		}
		if d := p.Decide(long, cases.Verdict{}); strings.Contains(d.Why, "cost") {
			t.Errorf("%q: %s", body, d.Why)
		}
	})
}
