package policy

import (
	"strings"
	"testing"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/finding"
)

const routedPolicy = `
rules: [{name: all, do: [page]}]
routes:
  - {when: 'pod.namespace == "payments"', slack: "#payments-oncall", pagerduty: payments, mention: "@payments-oncall"}
  - {when: 'verdict.level == "malicious"', pagerduty: security, chat: security}
  - {when: 'finding.project == "shop-prod" && finding.severity == "CRITICAL"', email: "cto@example.com"}
  - {when: 'pod.labels["tier"] == "1"', slack: "ann@example.com", mention: owner}
  - {when: 'container.image.startsWith("ci/")', webhook: ci}
`

// TestRoutingTable has 30 findings: who is notified of each, and so why.
func TestRoutingTable(t *testing.T) {
	p, err := Parse([]byte(routedPolicy))
	if err != nil {
		t.Fatal(err)
	}
	const payments, security = "slack:#payments-oncall pagerduty:payments", "pagerduty:security chat:security"
	const broken = "slack:ann@example.com" // the fourth route cannot be evaluated without the label, and so matches
	levels := []cases.Level{cases.Unknown, cases.Malicious, cases.NotLookedUp}
	rows := []struct{ namespace, project, severity, tier, image, want string }{
		{"payments", "shop", "LOW", "0", "web", payments},
		{"payments", "shop-prod", "CRITICAL", "0", "web", payments + " email:cto@example.com"},
		{"payments", "shop-prod", "CRITICAL", "1", "ci/build", payments + " email:cto@example.com " + broken + " webhook:ci"},
		{"other", "shop", "LOW", "0", "web", ""},
		{"other", "shop-prod", "HIGH", "0", "web", ""},
		{"other", "shop-prod", "CRITICAL", "0", "web", "email:cto@example.com"},
		{"other", "shop", "LOW", "1", "web", broken},
		{"other", "shop", "LOW", "", "web", broken},
		{"payments\" || true", "shop", "LOW", "0", "web", ""},
		{"other", "shop", "LOW", "0", "ci/", "webhook:ci"},
	}
	for _, row := range rows {
		for _, level := range levels {
			f := finding.Finding{Project: row.project, Severity: row.severity, Pod: finding.Pod{Namespace: row.namespace}, Container: finding.Container{Image: row.image}}
			if row.tier != "" {
				f.Pod.Labels = map[string]string{"tier": row.tier}
			}
			var got []string
			for _, target := range p.Targets(f, cases.Verdict{Level: level}) {
				if target.Why == "" {
					t.Errorf("%+v: %s does not say why", row, target)
				}
				got = append(got, target.String())
			}
			if want := withSecurity(row.want, level, payments, security); strings.Join(got, " ") != want {
				t.Errorf("%+v, %s: notified %q, want %q", row, level, strings.Join(got, " "), want)
			}
		}
	}
}

// withSecurity adds the second route, which stands after the first.
func withSecurity(want string, level cases.Level, payments, security string) string {
	if level != cases.Malicious {
		return want
	}
	rest, routed := strings.CutPrefix(want, payments)
	if routed {
		return payments + " " + security + rest
	}
	return strings.TrimSpace(security + " " + want)
}

func TestMistakesInRoutesAreAllReported(t *testing.T) {
	_, err := Parse([]byte(`
rules: [{name: all, do: [page]}]
routes:
  - {when: 'pod.nampespace == "x"', slack: "#ok"}
  - {slack: "Payments On Call"}
  - {mention: "@x"}
  - {pagerduty: "a b", mention: "<!channel>"}
  - {email: "nobody"}
`))
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"route 1", "nampespace", "route 2", "Payments On Call", "route 3", "needs slack", "route 4", "route 5", "nobody"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not mention %q: %v", want, err)
		}
	}
}
