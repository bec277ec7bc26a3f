package respond_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/internal/incidents/incidentlog"
	"github.com/contraband-dev/contraband/internal/respond"
)

// foreign returns a finding as another vendor's source would write it about a pod: bytes
// that the indicator list knows, under the name of Google's detector if it likes.
func (w *world) foreign(pod, detector, class string) finding.Finding {
	f := w.found("c-"+pod, time.Now())
	const name = "organizations/1/sources/99/findings/f1"
	f.Name, f.CanonicalName, f.Parent = name, name, "organizations/1/sources/99"
	f.Category, f.Detector, f.Class = finding.AddedMaliciousBinary, detector, class
	f.Pod, f.Sensor = finding.Pod{Namespace: "shop", Name: pod, UID: "uid-" + pod}, nil
	return f
}

func take(t *testing.T, r *respond.Responder, f finding.Finding) string {
	t.Helper()
	o, err := r.Finding(t.Context(), f)
	if err != nil || o.Case == "" {
		t.Fatalf("%+v, %v", o, err)
	}
	return o.Case
}

// TestUntrustedSourceNotifiesAndContainsNothing: whoever may write a finding into any SCC
// source could otherwise have any pod frozen.
func TestUntrustedSourceNotifiesAndContainsNothing(t *testing.T) {
	w := newWorld(t, memory(t))
	r := w.process()
	id := take(t, r, w.foreign("web-1", "Acme Scanner", finding.ClassThreat))
	c := w.read(id)
	if c.Decided.Finding.ReportedBy != finding.ReporterOther || c.Decided.Verdict.Level != cases.Malicious {
		t.Fatalf("origin %q, verdict %q", c.Decided.Finding.ReportedBy, c.Decided.Verdict.Level)
	}
	if len(c.Holds()) != 0 || c.Claim(cases.Freeze) != nil || slices.Contains(w.node.carried, "freeze") {
		t.Errorf("contained for an untrusted source: %+v", c.Claims)
	}
	if !strings.Contains(c.Decided.Decision.Why, "nothing is contained") || !strings.Contains(c.Decided.Decision.Why, "Acme Scanner") {
		t.Errorf("the decision says %q", c.Decided.Decision.Why)
	}
	messages, err := w.slack.Messages()
	if err != nil || len(messages) == 0 || !strings.Contains(string(messages[0].Blocks), "nothing is contained") {
		t.Errorf("the page does not say why: %+v (%v)", messages, err)
	}
	if c.Done(cases.Evidence) == nil {
		t.Error("reading evidence is not containment, and was not done")
	}
	if slices.Contains(c.ClickActions(), cases.ActionEvict) {
		t.Error("an eviction is offered")
	}
	c = w.click(id, cases.ActionEvict, "forged")
	if k := c.Clicks[0]; !strings.Contains(k.Refused, "source that may notify") {
		t.Errorf("the click was not refused: %+v", k)
	}
}

// TestUntrustedSourceDoesNotChangeCaseOfTrustedSource: it neither keeps the same container
// from being frozen nor ends its case.
func TestUntrustedSourceDoesNotChangeCaseOfTrustedSource(t *testing.T) {
	w := newWorld(t, memory(t))
	r := w.process()
	f := w.foreign("web-1", "Acme Scanner", finding.ClassThreat)
	untrusted := take(t, r, f)
	ours := w.found(f.Container.ID, time.Now())
	ours.Pod = f.Pod
	w.raiseInSCC(ours)
	trusted := take(t, r, ours)
	if untrusted == trusted {
		t.Fatal("both are one case")
	}
	if c := w.read(trusted); !c.Frozen() {
		t.Errorf("the trusted case is %q", c.Status())
	}
	f.State, f.EventTime = "INACTIVE", time.Now()
	if o, err := r.Finding(t.Context(), f); err != nil || o.Case != untrusted {
		t.Fatalf("%+v, %v", o, err)
	}
	if c := w.read(trusted); c.Closed != nil || !c.Frozen() {
		t.Errorf("the trusted case is %q after the other source's finding ended", c.Status())
	}
}

// TestConfiguredDetectorSourcesAloneAreTrusted: with a list of sources, Google's display
// name, which any source's owner can choose, counts for nothing.
func TestConfiguredDetectorSourcesAloneAreTrusted(t *testing.T) {
	w := newWorld(t, memory(t))
	r := w.process()
	id := take(t, r, w.foreign("web-1", "Container Threat Detection", finding.ClassThreat))
	if c := w.read(id); !c.Frozen() {
		t.Fatalf("by display name and class, it is Google's: %q", c.Status())
	}
	r.Sources.Detectors = []string{"organizations/1/sources/5"}
	id = take(t, r, w.foreign("web-2", "Container Threat Detection", finding.ClassThreat))
	if c := w.read(id); c.Claim(cases.Freeze) != nil || c.Decided.Finding.ReportedBy != finding.ReporterOther {
		t.Errorf("frozen for source 99, and only 5 is trusted: %+v", c.Claims)
	}
	r.Sources.Detectors = append(r.Sources.Detectors, "organizations/1/sources/99/locations/global")
	id = take(t, r, w.foreign("web-3", "Container Threat Detection", finding.ClassThreat))
	if c := w.read(id); !c.Frozen() {
		t.Errorf("source 99 is trusted now: %q", c.Status())
	}
}

// TestDetectorsOwnVerdictCounts: bytes that no list knows are malicious where Google's
// detector says so, and no more than suspicious where any other source does.
func TestDetectorsOwnVerdictCounts(t *testing.T) {
	w := newWorld(t, memory(t))
	r := w.process()
	f := w.foreign("web-1", "Container Threat Detection", finding.ClassThreat)
	f.Process.SHA256 = strings.Repeat("7", 64)
	c := w.read(take(t, r, f))
	if v := c.Decided.Verdict; v.Level != cases.Malicious || v.Source != "Container Threat Detection" {
		t.Errorf("verdict %+v", v)
	}
	if !c.Frozen() || c.Escalated != nil || c.Decided.Decision.Includes(cases.Escalate) {
		t.Errorf("it is in SCC as malicious already: %q, escalated %+v", c.Status(), c.Escalated)
	}
	f = w.foreign("web-2", "Acme Scanner", finding.ClassThreat)
	f.Process.SHA256 = strings.Repeat("7", 64)
	c = w.read(take(t, r, f))
	if v := c.Decided.Verdict; v.Level != cases.Suspicious || !strings.Contains(v.Label, "not trusted") {
		t.Errorf("verdict %+v", v)
	}
}

// TestServiceIsNeverContained: a Cloud Run service has no pod; people get commands.
func TestServiceIsNeverContained(t *testing.T) {
	w := newWorld(t, memory(t))
	f := w.foreign("", "Cloud Run Threat Detection", finding.ClassThreat)
	f.Pod, f.Container, f.Cluster, f.Node = finding.Pod{}, finding.Container{}, "", ""
	f.ResourceName = "//run.googleapis.com/projects/p/locations/europe-west1/services/checkout"
	f.Service = finding.Service{Kind: finding.CloudRunService, Name: "checkout", Revision: "checkout-00007-abc"}
	c := w.read(take(t, w.process(), f))
	if len(c.Claims) != 0 || len(w.node.carried) != 0 {
		t.Errorf("claims %+v, orders %v", c.Claims, w.node.carried)
	}
	for _, pod := range []string{cases.ActionEvict, cases.ActionApprove, cases.ActionRelease, cases.ActionExtend} {
		if slices.Contains(c.ClickActions(), pod) {
			t.Errorf("a service offers %q", pod)
		}
	}
	if !strings.Contains(c.Decided.Decision.Why, "no pod to contain") {
		t.Errorf("the decision says %q", c.Decided.Decision.Why)
	}
	commands := ""
	for _, fact := range c.Decided.Facts.Commands {
		commands += fact.Text + "\n"
	}
	if !strings.Contains(commands, "gcloud run services update-traffic checkout") || strings.Contains(commands, "kubectl") {
		t.Errorf("commands:\n%s", commands)
	}
}

// TestSecondLibraryOfOneProgramIsNoRepeat: a finding of a library is about the library, not
// about the image's own program that loads it.
func TestSecondLibraryOfOneProgramIsNoRepeat(t *testing.T) {
	w := newWorld(t, memory(t))
	r := w.process()
	id := ""
	for i, sum := range []string{strings.Repeat("1", 64), hash()} { // the list knows the second
		f := w.foreign("web-1", "Container Threat Detection", finding.ClassThreat)
		f.Category = "Added Library Loaded"
		f.CanonicalName += sum[:8]
		f.EventTime = f.EventTime.Add(time.Duration(i) * time.Second)
		f.Process = finding.Process{Path: "/tmp/lib" + sum[:4] + ".so", SHA256: sum, Runner: &finding.Runner{Path: "/usr/sbin/nginx", SHA256: strings.Repeat("9", 64)}}
		id = take(t, r, f)
	}
	c := w.read(id)
	if len(c.Programs) != 2 || c.Decided.Verdict.Level != cases.Malicious || c.Decided.Finding.Process.SHA256 != hash() || !c.Frozen() {
		t.Errorf("%q: verdict %+v of %q, programs %+v", c.Status(), c.Decided.Verdict, c.Decided.Finding.Process.Path, c.Programs)
	}
}

// TestFloodOfUntrustedSourceQueuesNoTrustedPage: the limit of pages is counted apart.
func TestFloodOfUntrustedSourceQueuesNoTrustedPage(t *testing.T) {
	w := newWorld(t, memory(t))
	w.yaml = pageOnly
	r := w.process()
	r.PagesPerWindow = 3
	for i := range 6 {
		f := w.foreign(fmt.Sprintf("web%c", 'a'+i), "Acme Scanner", finding.ClassThreat)
		f.CanonicalName += fmt.Sprint(i)
		f.Process.SHA256 = strings.Repeat("7", 64)
		f.Category = finding.AddedBinary
		take(t, r, f)
	}
	id := take(t, r, ran(0, 0, unknownSum(0), time.Now()))
	incident, err := incidentlog.Read(t.Context(), r.Log, w.read(id).Incident)
	if err != nil {
		t.Fatal(err)
	}
	if incident.Paged == nil || incident.Queued != nil {
		t.Errorf("the trusted source's incident is queued: %+v", incident.Queued)
	}
}

// TestRecheckAsksWhoIsTrustedNow: a case that was opened while any source was believed is not
// contained by a later look-up.
func TestRecheckAsksWhoIsTrustedNow(t *testing.T) {
	w := newWorld(t, memory(t))
	w.yaml = "rules: [{name: bad, when: 'verdict.level == \"malicious\"', do: [page, freeze]}, {name: else, do: [page]}]"
	r := w.process()
	now := time.Now()
	f := w.foreign("web-1", "Container Threat Detection", finding.ClassThreat)
	f.Category = finding.AddedBinary
	verdicts := r.Verdicts
	r.Verdicts = unknownTo{}
	id := take(t, r, f)
	r.Verdicts, r.Sources.Detectors = verdicts, []string{"organizations/1/sources/5"}
	sweepAt(t, r, now.Add(61*time.Minute))
	c := w.read(id)
	if c.Decided.Verdict.Level != cases.Malicious {
		t.Fatalf("not looked up again: %+v", c.Decided.Verdict)
	}
	if c.Claim(cases.Freeze) != nil {
		t.Errorf("frozen for a source that is not trusted any more: %+v", c.Claims)
	}
}

type unknownTo struct{}

func (unknownTo) Finding(context.Context, finding.Finding) cases.Verdict {
	return cases.Verdict{Level: cases.Unknown, Source: "test", At: time.Now()}
}
