package finding

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestEveryTypeIsComplete(t *testing.T) {
	for _, typ := range Types() {
		if typ.Kind == Other || typ.Subject == "" {
			t.Errorf("%q has no playbook or subject: %+v", typ.Category, typ)
		}
		if typ.Kind == ContainerThreat && len(typ.MITRE) == 0 {
			t.Errorf("%q has no tactic", typ.Category)
		}
		for _, name := range typ.MITRE {
			if _, ok := techniqueNamed[name]; !ok {
				t.Errorf("%q: unknown tactic or technique %q", typ.Category, name)
			}
		}
	}
}

func TestTypeOfCategory(t *testing.T) {
	for name, c := range map[string]struct {
		f       Finding
		kind    Kind
		subject Subject
	}{
		"spelled with another case": {Finding{Category: "Execution: Netcat Remote Code Execution In Container"}, ContainerThreat, SubjectConnection},
		"with a CVE number": {Finding{Category: "Execution: Possible Arbitrary Command Execution through CUPS (CVE-2024-47177)"},
			ContainerThreat, SubjectProgram},
		"unknown category of a container detector":   {Finding{Category: "Impact: New", Class: ClassThreat, Detector: "Cloud Run Threat Detection"}, ContainerThreat, SubjectProgram},
		"unknown category of another detector":       {Finding{Category: "Impact: New", Class: ClassThreat, Detector: "Event Threat Detection"}, Other, ""},
		"new detector error":                         {Finding{Category: "KTD_NEW_ERROR", Class: ClassError}, DetectorHealth, SubjectDetector},
		"detector error's category, another class":   {Finding{Category: "KTD_IMAGE_PULL_FAILURE", Class: "OBSERVATION"}, Other, ""},
		"misconfiguration by the container detector": {Finding{Category: "X", Class: "MISCONFIGURATION", Detector: "Container Threat Detection"}, Other, ""},
	} {
		if got := c.f.Type(); got.Kind != c.kind || got.Subject != c.subject {
			t.Errorf("%s: %v about %q, want %v about %q", name, got.Kind, got.Subject, c.kind, c.subject)
		}
	}
}

func TestTechniquesOfFindingBeforeThoseOfItsType(t *testing.T) {
	f := Finding{Category: ReverseShell}
	if got := titles(f); got != "TA0002 Execution, T1059.004 Unix Shell" {
		t.Errorf("by type: %s", got)
	}
	f.MITRE = []string{"COMMAND_AND_CONTROL", "INGRESS_TOOL_TRANSFER", "not one"}
	if got := titles(f); got != "TA0011 Command and Control, T1105 Ingress Tool Transfer" {
		t.Errorf("by finding: %s", got)
	}
}

func titles(f Finding) string {
	var out []string
	for _, technique := range f.Techniques() {
		out = append(out, technique.Title())
	}
	return strings.Join(out, ", ")
}

func TestOriginBySourceAndClass(t *testing.T) {
	ours, detectors := "organizations/1/sources/2/locations/global", []string{"organizations/1/sources/7"}
	google := Finding{Class: ClassThreat, Detector: "Container Threat Detection", Parent: "organizations/1/sources/7/locations/eu"}
	for name, c := range map[string]struct {
		sources Sources
		f       Finding
		want    Reporter
	}{
		"our source":                             {Sources{Ours: ours}, Finding{Parent: "organizations/1/sources/2"}, ReporterOurs},
		"our source named by its project":        {Sources{Ours: ours}, Finding{Name: "projects/9/sources/2/locations/global/findings/a"}, ReporterOurs},
		"another organisation's source":          {Sources{Ours: ours}, Finding{Parent: "organizations/3/sources/2"}, ReporterOther},
		"source of one machine":                  {Sources{}, Finding{Parent: "projects/p/sources/contraband/locations/global"}, ReporterOurs},
		"imitated source of one machine":         {Sources{Ours: ours}, Finding{Parent: "projects/p/sources/contraband"}, ReporterOther},
		"detector by its display name":           {Sources{Ours: ours}, google, ReporterGoogle},
		"detector by its configured source":      {Sources{ours, detectors}, google, ReporterGoogle},
		"display name in an unconfigured source": {Sources{ours, detectors}, Finding{Class: ClassThreat, Detector: google.Detector, Parent: "organizations/1/sources/8"}, ReporterOther},
		"display name with another class":        {Sources{Ours: ours}, Finding{Class: "OBSERVATION", Detector: google.Detector}, ReporterOther},
		"unknown source":                         {Sources{Ours: ours}, Finding{Class: ClassThreat, Detector: "My tool"}, ReporterOther},
	} {
		if got := c.sources.ReporterOf(c.f); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestResourcesComparedByIdentity(t *testing.T) {
	const zonal = "//container.googleapis.com/projects/p/zones/europe-west1-b/clusters/c"
	for other, want := range map[string]bool{
		zonal: true,
		"//container.googleapis.com/projects/p/locations/europe-west1-b/clusters/c": true,
		"//container.googleapis.com/projects/p/zones/europe-west1-c/clusters/c":     false,
		"//container.googleapis.com/projects/p/zones/europe-west1-b/clusters/d":     false,
		"//run.googleapis.com/projects/p/locations/europe-west1-b/services/c":       false,
	} {
		if got := SameResource(zonal, other); got != want {
			t.Errorf("%s: same %v, want %v", other, got, want)
		}
	}
	if got := (Place{"p", "europe-west1-b", "c"}).ResourceName(); got != zonal {
		t.Errorf("zonal cluster: %s", got)
	}
	if got := (Place{"p", "europe-west1", "c"}).ResourceName(); got != "//container.googleapis.com/projects/p/locations/europe-west1/clusters/c" {
		t.Errorf("regional cluster: %s", got)
	}
	names := Finding{ResourceName: zonal}.ResourceNames()
	if len(names) != 2 || names[0] != zonal || !SameResource(names[0], names[1]) {
		t.Errorf("names to look for: %q", names)
	}
}

func TestServicesShareNoKey(t *testing.T) {
	read := func(name string) Finding {
		raw, err := os.ReadFile(filepath.Join("testdata", name+".json"))
		if err != nil {
			t.Fatal(err)
		}
		all, err := Decode(raw)
		if err != nil || len(all) != 1 {
			t.Fatalf("%s: %d findings, %v", name, len(all), err)
		}
		return all[0]
	}
	service, job, revision, agent := read("cloud_run_service"), read("cloud_run_job"), read("cloud_run_revision"), read("agent_engine")
	if service.CaseKey() != revision.CaseKey() || service.IncidentKey() != revision.IncidentKey() {
		t.Error("a revision has another key than its service")
	}
	seen := map[string]string{}
	for name, f := range map[string]Finding{"service": service, "job": job, "agent": agent} {
		if other, taken := seen[f.CaseKey()]; taken {
			t.Errorf("%s has the case key of %s", name, other)
		}
		seen[f.CaseKey()] = name
		if f.ContainmentUnsupported() == "" {
			t.Errorf("%s: containment is offered", name)
		}
	}
}

func TestErrorsSayWhatThereIsInstead(t *testing.T) {
	for in, want := range map[string]string{
		`{"listFindingsResults": []}`:           "an empty list (listFindingsResults)",
		`{"asset": {}, "window": 1}`:            "an object with asset, window, without a name and a category",
		`{"message": {"data": "bm90IEpTT04="}}`: "a Pub/Sub message whose data is not JSON (message, data)",
		`{"textPayload": "hello"}`:              "a log entry whose text is not JSON (textPayload)",
		`[{"a": 1}]`:                            "an object with a, without a name and a category (item 1)",
		`null`:                                  "null",
		"{\"b\": 1}\n{\"c\": 1}\n":              "an object with b, without a name and a category (line 1)",
		`{"hunter2 <!channel>": 1}`:             "an object with hunter2???channel?",
	} {
		_, err := Decode([]byte(in))
		if !errors.Is(err, ErrNoFinding) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", in, err, want)
		}
	}
	if _, err := Decode([]byte(`{"message": {"data": "%%%"}}`)); !errors.Is(err, ErrMalformed) {
		t.Errorf("data that is not base64: %v", err)
	}
	nested := `{"a": 1}`
	for range maxWrappings + 2 {
		nested = `{"jsonPayload": ` + nested + `}`
	}
	if _, err := Decode([]byte(nested)); !errors.Is(err, ErrMalformed) {
		t.Errorf("many wrappings: %v", err)
	}
}
