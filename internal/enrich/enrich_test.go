package enrich

import (
	"context"
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/contraband-dev/contraband/internal/finding"
)

// TestQuote asks a real shell what it reads.
func TestQuote(t *testing.T) {
	for _, s := range []string{"/tmp/x", "a b", "$(reboot)", "`id`", `it's`, "-rf", "a;b|c&d", "new\nline", "", `\`, "*?[a]", "~"} {
		out, err := exec.Command("sh", "-c", "printf %s "+Quote(s)).CombinedOutput()
		if err != nil || string(out) != s {
			t.Errorf("Quote(%q) = %s, which a shell reads as %q (%v)", s, Quote(s), out, err)
		}
	}
}

func hostile() finding.Finding {
	return finding.Finding{
		CanonicalName: "projects/1/f", Project: "p", Location: "europe-west1-b", Cluster: "c", EventTime: time.Unix(1700000000, 0), ResourceName: "//r",
		Pod: finding.Pod{Namespace: "ns", Name: `x" OR severity>=DEFAULT OR "`}, Container: finding.Container{Name: "app"},
		Process: finding.Process{Path: "/tmp/$(touch /tmp/pwned)"}, Node: "n1",
	}
}

func TestHostileNamesStayOneValue(t *testing.T) {
	f := Enricher{Fallback: "#security"}.Facts(context.Background(), hostile())
	if q := f.Queries[0].Text; !strings.Contains(q, `resource.labels.pod_name="x\" OR severity>=DEFAULT OR \""`) {
		t.Errorf("the pod's name leaves its quotes: %s", q)
	}
	if c := f.Commands[1].Text; !strings.Contains(c, `:/tmp/$(touch /tmp/pwned)'`) {
		t.Errorf("the path leaves its quotes: %s", c)
	}
	if c := f.Commands[0].Text; !strings.Contains(c, "--zone europe-west1-b") {
		t.Errorf("a zone is not named as one: %s", c)
	}
}

type nearby struct {
	list []finding.Finding
	err  error
}

func (n nearby) List(context.Context, string, time.Time, time.Time) ([]finding.Finding, error) {
	return n.list, n.err
}

func TestRelatedAndWhomToTell(t *testing.T) {
	f := hostile()
	f.Contacts = []finding.Contact{{Kind: "security", Email: "sec@example.com"}, {Kind: "technical", Email: "team@example.com"}}
	f.Owners = []string{"owner@example.com"}
	f.Pod.Labels = map[string]string{"team": "payments"}
	other := f
	other.CanonicalName, other.Category = "projects/1/g", "Reverse Shell"
	elsewhere := other
	elsewhere.Pod.Name = "another"
	facts := Enricher{Nearby: nearby{list: []finding.Finding{f, other, elsewhere}}, Fallback: "#security"}.Facts(context.Background(), f)
	if len(facts.Related) != 1 || facts.Related[0].Title != "Reverse Shell" {
		t.Errorf("related: %+v, want the one other finding of this container", facts.Related)
	}
	if got := strings.Join(facts.Contacts, " "); got != "owner@example.com team@example.com sec@example.com payments #security" {
		t.Errorf("tell %s", got)
	}
	facts = Enricher{Nearby: nearby{err: errors.New("permission denied")}, Fallback: "#security"}.Facts(context.Background(), f)
	if len(facts.Missing) != 1 || len(facts.Queries) != 3 {
		t.Errorf("a failing source takes the others along: %+v", facts)
	}
}
