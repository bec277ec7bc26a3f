package web_test

import (
	"encoding/json"
	"fmt"
	"html"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/cases/caselog"
	"github.com/contraband-dev/contraband/internal/cases/casetext"
	"github.com/contraband-dev/contraband/internal/enrich"
	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/internal/testenv/samplecases"
)

// notShown are the fields of a finding that no person needs to read, and why.
var notShown = map[string]string{
	"Name":           "the canonical name of the same finding is shown",
	"Class":          "it selects the playbook",
	"State":          "it closes the case",
	"Mute":           "a muted finding opens no case",
	"Deleted":        "it closes the case",
	"ReportedBy":     "it decides trust; what follows is said in words (Reported by)",
	"ProjectNumber":  "the project's ID is shown; the number where there is no ID",
	"CreateTime":     "when SCC wrote it; the time of the event is shown",
	"Contacts.Kind":  "it orders the contacts",
	"Sensor.Repeats": "the sensor's own count of what the kernel repeated; findings are counted",
}

// TestEveryDecodedFieldIsShown: what is decoded of a finding is on the case's page, in what
// people are notified with, or in the facts beside it. A field that is decoded and shown
// nowhere is either missing there or not worth decoding.
func TestEveryDecodedFieldIsShown(t *testing.T) {
	seen := map[string]bool{}
	for _, category := range []string{finding.AddedBinary, "Execution: Added Malicious Library Loaded", "KTD_IMAGE_PULL_FAILURE"} {
		f := finding.Finding{}
		marks := map[string]string{}
		fill(t, reflect.ValueOf(&f).Elem(), "", marks)
		f.Category, marks["Category"] = category, category
		f.Class, f.State, f.Mute, f.Deleted, f.ReportedBy = finding.ClassThreat, "ACTIVE", "", false, finding.ReporterGoogle
		if strings.HasPrefix(category, "KTD_") {
			f.Class = finding.ClassError
		}
		if category == finding.AddedBinary {
			f.Service = finding.Service{}
		}
		f.MITRE, marks["MITRE"] = []string{"COMMAND_AND_CONTROL", "INGRESS_TOOL_TRANSFER"}, "T1105"
		f.ExternalURI = "https://console.cloud.google.com/" + f.ExternalURI
		shown := everythingShown(t, f)
		for field, mark := range marks {
			seen[field] = seen[field] || strings.Contains(shown, mark)
		}
	}
	for field, ok := range seen {
		why := notShown[field]
		switch {
		case !ok && why == "":
			t.Errorf("%s is decoded, and shown nowhere", field)
		case ok && why != "":
			t.Errorf("%s is shown, and listed as not shown (%s)", field, why)
		}
	}
	for field := range notShown {
		if _, ok := seen[field]; !ok {
			t.Errorf("there is no field %s", field)
		}
	}
}

// everythingShown returns what people see of a case that the finding opens.
func everythingShown(t *testing.T, f finding.Finding) string {
	t.Helper()
	d := cases.Decided{Key: f.Key(), Finding: f, Received: f.EventTime.Add(time.Minute), Decision: cases.Decision{Rule: "r", Do: []string{cases.Page}},
		Verdict: cases.Verdict{Level: cases.Unknown}, Facts: enrich.Enricher{}.Facts(t.Context(), f)}
	body, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	events := []caselog.Event{{Kind: cases.KindDecided, At: f.EventTime.Add(2 * time.Minute), Body: body}}
	c, err := cases.Fold("0123456789abcdef", events)
	if err != nil {
		t.Fatal(err)
	}
	rest, err := json.Marshal([]any{casetext.Message(c, nil), casetext.Timeline(c, events)})
	if err != nil {
		t.Fatal(err)
	}
	return html.UnescapeString(getCasePage(t, samplecases.State{Name: f.Category, Case: c, Events: events})) + string(rest)
}

// fill sets every field to a value that occurs nowhere else; marks has by each field's
// path what it looks like where it is shown.
func fill(t *testing.T, v reflect.Value, path string, marks map[string]string) {
	t.Helper()
	n := len(marks) + 1
	switch at, isTime := v.Interface().(time.Time); {
	case isTime:
		at = time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC).Add(time.Duration(n) * 1001 * time.Millisecond)
		v.Set(reflect.ValueOf(at))
		marks[path] = at.Format("15:04:05")
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(fmt.Sprintf("mark%dmark", n))
		marks[path] = v.String()
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(70_000_000 + n))
		marks[path] = fmt.Sprint(v.Int())
	case reflect.Bool:
		v.SetBool(true)
		marks[path] = "no text" // a word would be found by chance
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(t, v.Elem(), path, marks)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(t, v.Index(0), path, marks)
	case reflect.Map:
		v.Set(reflect.ValueOf(map[string]string{"team": fmt.Sprintf("mark%dmark", n)}))
		marks[path] = fmt.Sprintf("mark%dmark", n)
	case reflect.Struct:
		for i := range v.NumField() {
			fill(t, v.Field(i), strings.TrimPrefix(path+"."+v.Type().Field(i).Name, "."), marks)
		}
	default:
		t.Fatalf("%s: the test fills no %s", path, v.Kind())
	}
}

// TestPageShowsWhatReordersText: a path with a right-to-left override is readable as what it
// is, in the list and in the case.
func TestPageShowsWhatReordersText(t *testing.T) {
	f := finding.Finding{Category: finding.AddedBinary, Class: finding.ClassThreat, EventTime: time.Unix(1, 0),
		Process: finding.Process{Path: "/tmp/\u202egpj.exe", Contents: "if\ttrue\nfi"}, Pod: finding.Pod{Namespace: "a\u2066b", Name: "p"}}
	page := everythingShown(t, f)
	page, _, _ = strings.Cut(page, "</html>")
	if strings.ContainsAny(page, "\u202e\u2066") {
		t.Error("a character that reorders text is on the page")
	}
	for _, want := range []string{`/tmp/\u202egpj.exe`, `a\u2066b`, "if\ttrue\nfi"} {
		if !strings.Contains(page, want) {
			t.Errorf("%q is not on the page", want)
		}
	}
}
