package casetext

import (
	"strings"
	"testing"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/finding"
)

func TestFindingFieldsShowWhatIsDecoded(t *testing.T) {
	f := finding.Finding{
		Category: "Added Library Loaded", Class: finding.ClassThreat,
		Service:     finding.Service{Kind: finding.CloudRunService, Name: "checkout", Revision: "checkout-7"},
		Process:     finding.Process{Path: "/tmp/x.so", Partial: "first-part-sum", Runner: &finding.Runner{Path: "/usr/sbin/nginx", SHA256: "runner-sum"}},
		Connections: []finding.Connection{{Protocol: "TCP", DestinationIP: "203.0.113.7", DestinationPort: 4444}},
		Files:       []string{"/etc/pam.d/sshd"}, Indicators: []string{"bad.example"},
		Others: []finding.Mention{{Kind: "library", Name: "/tmp/other.so", SHA256: "other-sum"}},
	}
	var all strings.Builder
	for _, field := range FindingFields(f) {
		all.WriteString(field.Name + ": " + field.Value + "\n")
	}
	for _, want := range []string{
		"Service: Cloud Run service checkout, revision checkout-7", "Loaded by: /usr/sbin/nginx (SHA-256 runner-sum)",
		"Connections: TCP -> 203.0.113.7:4444", "/etc/pam.d/sshd", "bad.example", "library /tmp/other.so (SHA-256 other-sum)", "first-part-sum",
	} {
		if !strings.Contains(all.String(), want) {
			t.Errorf("%q is not shown in\n%s", want, &all)
		}
	}
}

func TestDetectorErrorFieldsSayWhatToDo(t *testing.T) {
	f := finding.Finding{Category: "KTD_IMAGE_PULL_FAILURE", Class: finding.ClassError, Description: "image not pulled", NextSteps: "allow gcr.io"}
	got := FindingFields(f)
	if len(got) != 2 || got[0].Value != f.Description || got[1].Value != f.NextSteps {
		t.Errorf("fields %+v", got)
	}
}

func TestLongValuesAreCutInTheMiddle(t *testing.T) {
	long := "/begin" + strings.Repeat("é", 2048) + "end.so"
	got := FindingFields(finding.Finding{Files: []string{long}})[0].Value
	if len(got) > maxValue || !strings.HasPrefix(got, "/begin") || !strings.HasSuffix(got, "end.so") {
		t.Errorf("%d bytes: %s", len(got), got)
	}
}

func TestMessageShowsWhatTheFindingNames(t *testing.T) {
	f := finding.Finding{Category: finding.ReverseShell, Process: finding.Process{Path: "/bin/sh"},
		Connections: []finding.Connection{{DestinationIP: "203.0.113.7", DestinationPort: 4444}}}
	m := Message(cases.Case{Decided: cases.Decided{Finding: f}}, nil)
	for _, field := range m.Fields {
		if strings.Contains(field.Value, "203.0.113.7:4444") {
			return
		}
	}
	t.Errorf("the remote address is not in the fields %+v", m.Fields)
}
