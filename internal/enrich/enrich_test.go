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

func TestShellReadsQuotedValueAsOneWord(t *testing.T) {
	for _, s := range []string{"/tmp/x", "a b", "$(reboot)", "`id`", `it's`, "-rf", "a;b|c&d", "new\nline", "", `\`, "*?[a]", "~"} {
		out, err := exec.Command("sh", "-c", "printf %s "+quoteShell(s)).CombinedOutput()
		if err != nil || string(out) != s {
			t.Errorf("%q quoted as %s: a shell reads %q (%v)", s, quoteShell(s), out, err)
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

func TestHostileNamesAreQuoted(t *testing.T) {
	f := Enricher{Fallback: "#security"}.Facts(context.Background(), hostile())
	if q := f.Queries[0].Text; !strings.Contains(q, `resource.labels.pod_name="x\" OR severity>=DEFAULT OR \""`) {
		t.Errorf("pod name is not quoted: %s", q)
	}
	if c := f.Commands[1].Text; !strings.Contains(c, `:/tmp/$(touch /tmp/pwned)'`) {
		t.Errorf("path is not quoted: %s", c)
	}
	if c := f.Commands[0].Text; !strings.Contains(c, "--zone=europe-west1-b") {
		t.Errorf("no --zone: %s", c)
	}
}

type nearby struct {
	list []finding.Finding
	err  error
}

func (n nearby) Nearby(context.Context, finding.Finding, time.Time, time.Time) ([]finding.Finding, error) {
	return n.list, n.err
}

func TestRelatedFindingsAndContacts(t *testing.T) {
	f := hostile()
	f.ResourceName = "//container.googleapis.com/projects/p/zones/europe-west1-b/clusters/c"
	f.Contacts = []finding.Contact{{Kind: "security", Email: "sec@example.com"}, {Kind: "technical", Email: "team@example.com"}}
	f.Owners = []string{"owner@example.com"}
	f.Pod.Labels = map[string]string{"team": "payments"}
	f.Connections = []finding.Connection{{DestinationIP: "203.0.113.7", DestinationPort: 4444}}
	other := f
	other.CanonicalName, other.Category = "projects/1/g", finding.ReverseShell
	other.ResourceName = "//container.googleapis.com/projects/p/locations/europe-west1-b/clusters/c" // as another writer spells it
	connected := other
	connected.CanonicalName, connected.Pod.Name = "projects/1/h", "another"
	elsewhere := connected
	elsewhere.Connections = nil
	facts := Enricher{Nearby: nearby{list: []finding.Finding{f, other, connected, elsewhere}}, Fallback: "#security"}.Facts(context.Background(), f)
	if len(facts.Related) != 2 || facts.Related[0].Title != finding.ReverseShell || !strings.Contains(facts.Related[1].Text, "203.0.113.7") {
		t.Errorf("related: %+v, want the other finding of this container and the one of this address", facts.Related)
	}
	if got := strings.Join(facts.Contacts, " "); got != "owner@example.com team@example.com sec@example.com payments #security" {
		t.Errorf("contacts %s", got)
	}
	facts = Enricher{Nearby: nearby{err: errors.New("permission denied")}, Fallback: "#security"}.Facts(context.Background(), f)
	if len(facts.Missing) != 1 || len(facts.Queries) != 3 {
		t.Errorf("facts without related findings: %+v", facts)
	}
}

func TestNoCommandForNameThatLooksLikeAnOption(t *testing.T) {
	f := hostile()
	f.Pod.Name = "--kubeconfig=/tmp/evil"
	for _, c := range (Enricher{}).Facts(context.Background(), f).Commands {
		if strings.HasPrefix(c.Title, "A shell") && (c.Text != "" || !strings.Contains(c.Title, "begins with a dash")) {
			t.Errorf("printed %q (%s)", c.Text, c.Title)
		}
	}
	f = finding.Finding{Location: "l", Project: "p", Service: finding.Service{Kind: finding.CloudRunService, Name: "--flags-file=x"}}
	for _, c := range (Enricher{}).Facts(context.Background(), f).Commands {
		if strings.Contains(c.Text, "services describe") {
			t.Errorf("printed %q", c.Text)
		}
	}
}

func TestServicesHaveTheirOwnCommandsAndLogs(t *testing.T) {
	for _, c := range []struct {
		service      finding.Service
		command, log string
	}{
		{finding.Service{Kind: finding.CloudRunService, Name: "billing"}, "gcloud run services update-traffic billing", `resource.type="cloud_run_revision"`},
		{finding.Service{Kind: finding.CloudRunJob, Name: "nightly"}, "gcloud run jobs describe nightly", `resource.type="cloud_run_job"`},
		{finding.Service{Kind: finding.AgentEngine, Name: "77"}, "", `resource.type="aiplatform.googleapis.com/ReasoningEngine"`},
	} {
		f := finding.Finding{Project: "p", Location: "europe-west1", Service: c.service, EventTime: time.Unix(1700000000, 0)}
		facts := Enricher{}.Facts(context.Background(), f)
		var commands, logs []string
		for _, x := range facts.Commands {
			commands = append(commands, x.Text)
		}
		for _, x := range facts.Queries {
			logs = append(logs, x.Text)
		}
		if all := strings.Join(commands, "\n"); !strings.Contains(all, c.command) || strings.Contains(all, "kubectl") {
			t.Errorf("%s: commands %q", c.service.Kind, all)
		}
		if all := strings.Join(logs, "\n"); !strings.Contains(all, c.log) || strings.Contains(all, "k8s_") {
			t.Errorf("%s: logs %q", c.service.Kind, all)
		}
	}
}

func TestResearchOfThisFinding(t *testing.T) {
	facts := Enricher{}.Facts(context.Background(), finding.Finding{Category: finding.ReverseShell})
	for _, r := range facts.Research {
		if strings.Contains(r.Title, "T1105") {
			t.Errorf("a reverse shell is not %s", r.Title)
		}
	}
	if len(facts.Research) == 0 || !strings.Contains(facts.Research[len(facts.Research)-1].Link, "/T1059/004/") {
		t.Errorf("research %+v", facts.Research)
	}
}
