package finding

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"time"
)

// object is a JSON object that is changed into another shape.
type object map[string]any

func (o object) at(keys ...string) object {
	for _, k := range keys {
		o = o[k].(map[string]any)
	}
	return o
}

func (o object) first(key string) object { return o[key].([]any)[0].(map[string]any) }

// base returns testdata/v2.json, to be changed.
func base(t *testing.T) object {
	t.Helper()
	raw, err := os.ReadFile("testdata/v2.json")
	if err != nil {
		t.Fatal(err)
	}
	var o object
	if err := json.Unmarshal(raw, &o); err != nil {
		t.Fatal(err)
	}
	return o
}

func pairs(o object) []any {
	var out []any
	for k, v := range o {
		out = append(out, map[string]any{"key": k, "value": v})
	}
	return out
}

var (
	sum     = strings.Repeat("a", 64)
	linked  = map[string]any{"virustotalIndicatorQueryUri": []any{map[string]any{"url": "https://www.virustotal.com/gui/file/" + strings.Repeat("B", 64) + "/detection"}}}
	regular = fields{hash: sum, pod: "shop/web-1", cluster: "shop/europe-west1/prod", at: "2026-03-01T10:00:00.123456Z", state: "ACTIVE"}
)

// fields are what the table below compares.
type fields struct {
	hash, partial, pod, cluster, at, state string
}

func fieldsOf(f Finding) fields {
	out := fields{hash: f.Process.SHA256, partial: f.Process.Partial, state: f.State, cluster: f.Project + "/" + f.Location + "/" + f.Cluster}
	if f.Pod.Name != "" {
		out.pod = f.Pod.Namespace + "/" + f.Pod.Name
	}
	if !f.EventTime.IsZero() {
		out.at = f.EventTime.Format(time.RFC3339Nano)
	}
	return out
}

// TestDecodesVariantsOfNotification lists how findings differ from a v2 envelope, and what
// is decoded.
func TestDecodesVariantsOfNotification(t *testing.T) {
	but := func(change func(*fields)) fields {
		f := regular
		change(&f)
		return f
	}
	for _, c := range []struct {
		shape  string
		change func(object) any
		want   error
		found  fields
		kind   Kind
	}{
		{"v2 envelope", func(o object) any { return o }, nil, regular, ContainerThreat},
		{"v1 envelope: no location in names", func(o object) any {
			o.at("finding")["name"], o.at("finding")["canonicalName"] = "organizations/1/sources/4501/findings/a1", "projects/77/sources/4501/findings/a1"
			return o
		}, nil, regular, ContainerThreat},
		{"regional names", func(o object) any {
			o.at("finding")["canonicalName"] = "projects/77/sources/4501/locations/eu/findings/a1"
			return o
		}, nil, regular, ContainerThreat},
		{"bare finding", func(o object) any { return o["finding"] }, nil, regular, ContainerThreat},
		{"console's JSON tab: resource inside the finding", func(o object) any {
			o.at("finding")["resource"] = o["resource"]
			return map[string]any{"finding": o["finding"]}
		}, nil, regular, ContainerThreat},
		{"findings instead of finding", func(o object) any {
			return map[string]any{"findings": o["finding"], "resource": o["resource"]}
		}, nil, regular, ContainerThreat},
		{"listFindingsResults", func(o object) any { return map[string]any{"listFindingsResults": []any{o}} }, nil, regular, ContainerThreat},
		{"array", func(o object) any { return []any{o} }, nil, regular, ContainerThreat},
		{"log entry", func(o object) any { return map[string]any{"insertId": "1", "jsonPayload": o} }, nil, regular, ContainerThreat},
		{"maps as key and value pairs", func(o object) any {
			o.at("finding")["contacts"] = pairs(o.at("finding", "contacts"))
			o.at("finding")["sourceProperties"] = []any{map[string]any{"key": "Pod_Uid", "value": "u"}}
			return o
		}, nil, regular, ContainerThreat},
		{"snake_case", func(o object) any {
			f := o.at("finding")
			f["event_time"], f["resource_name"], f["canonical_name"] = f["eventTime"], f["resourceName"], f["canonicalName"]
			delete(f, "eventTime")
			delete(f, "resourceName")
			delete(f, "canonicalName")
			return o
		}, nil, regular, ContainerThreat},
		{"time as seconds and nanos", func(o object) any {
			o.at("finding")["eventTime"] = map[string]any{"seconds": 1772359200.0, "nanos": 123456000.0}
			return o
		}, nil, regular, ContainerThreat},
		{"inactive", func(o object) any { o.at("finding")["state"] = "INACTIVE"; return o }, nil, but(func(f *fields) { f.state = "INACTIVE" }), ContainerThreat},
		{"unknown enums and fields", func(o object) any {
			o.at("finding")["severity"], o.at("finding")["state"], o.at("finding")["new"] = "APOCALYPTIC", "DORMANT", []any{1, nil}
			return o
		}, nil, but(func(f *fields) { f.state = "DORMANT" }), ContainerThreat},
		{"partial hash, declared", func(o object) any {
			o.at("finding").first("processes").at("binary")["partiallyHashed"] = true
			return o
		}, nil, but(func(f *fields) { f.hash, f.partial = "", sum }), ContainerThreat},
		{"partial hash, by size", func(o object) any {
			o.at("finding").first("processes").at("binary")["hashedSize"] = "1023"
			return o
		}, nil, but(func(f *fields) { f.hash, f.partial = "", sum }), ContainerThreat},
		{"hash only in the link to VirusTotal", func(o object) any {
			delete(o.at("finding").first("processes").at("binary"), "sha256")
			o.at("finding")["sourceProperties"] = map[string]any{"contextUris": linked}
			return o
		}, nil, but(func(f *fields) { f.hash = strings.Repeat("b", 64) }), ContainerThreat},
		{"hash that is not a SHA-256", func(o object) any {
			o.at("finding").first("processes").at("binary")["sha256"] = "d41d8cd98f00b204e9800998ecf8427e"
			return o
		}, nil, but(func(f *fields) { f.hash = "" }), ContainerThreat},
		{"no container identity", func(o object) any {
			delete(o.at("finding"), "containers")
			delete(o.at("finding"), "kubernetes")
			return o
		}, nil, but(func(f *fields) { f.pod = "" }), ContainerThreat},
		{"everything in sourceProperties", func(o object) any {
			f := o.at("finding")
			for _, k := range []string{"processes", "containers", "kubernetes"} {
				delete(f, k)
			}
			f["sourceProperties"] = map[string]any{"Pod_Namespace": "shop", "Pod_Name": "web-1", "Pid": 53.0, "Process_Binary_Fullpath": "/tmp/x", "contextUris": linked}
			return o
		}, nil, but(func(f *fields) { f.hash = strings.Repeat("b", 64) }), ContainerThreat},
		{"category added to the detector later", func(o object) any { o.at("finding")["category"] = "Execution: Something New"; return o }, nil, regular, ContainerThreat},
		{"detector error", func(o object) any {
			o.at("finding")["category"], o.at("finding")["findingClass"] = "KTD_MISSING_PERMISSIONS", "SCC_ERROR"
			return o
		}, nil, regular, DetectorHealth},
		{"finding of another service", func(o object) any {
			o.at("finding")["category"], o.at("finding")["parentDisplayName"] = "OPEN_FIREWALL", "Security Health Analytics"
			return o
		}, nil, regular, Other},
		{"no project", func(o object) any {
			f := o.at("finding")
			f["name"], f["canonicalName"], f["resourceName"] = "organizations/1/sources/2/findings/3", "", ""
			delete(o, "resource")
			return o
		}, ErrNoProject, fields{}, 0},
		{"no category", func(o object) any { delete(o.at("finding"), "category"); return o }, ErrNoFinding, fields{}, 0},
		{"no name", func(o object) any { delete(o.at("finding"), "name"); return o }, ErrNoFinding, fields{}, 0},
		{"message of another service", func(object) any { return map[string]any{"asset": map[string]any{"name": "x"}} }, ErrNoFinding, fields{}, 0},
	} {
		t.Run(c.shape, func(t *testing.T) {
			raw, err := json.Marshal(c.change(base(t)))
			if err != nil {
				t.Fatal(err)
			}
			all, err := Decode(raw)
			if c.want != nil {
				if !errors.Is(err, c.want) {
					t.Errorf("%v, want %v", err, c.want)
				}
				return
			}
			if err != nil || len(all) != 1 {
				t.Fatalf("%d findings, %v", len(all), err)
			}
			if got := fieldsOf(all[0]); got != c.found {
				t.Errorf("found %+v\n want %+v", got, c.found)
			}
			if all[0].Kind() != c.kind {
				t.Errorf("kind %v, want %v", all[0].Kind(), c.kind)
			}
			if text, err := json.Marshal(all); err != nil || strings.Contains(string(text), "hunter2") {
				t.Errorf("a secret was decoded (%v)", err)
			}
		})
	}
}

func TestDeletedAndMutedFindings(t *testing.T) {
	o := base(t)
	o["deletedFinding"], o.at("finding")["mute"] = true, "MUTED"
	raw, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	all, err := Decode(raw)
	if err != nil || !all[0].Deleted || !all[0].Closed() || !all[0].Muted() {
		t.Errorf("%+v, %v", all, err)
	}
}

func TestRefusesOversizedMessages(t *testing.T) {
	for name, in := range map[string]string{
		"50 MB of spaces":     strings.Repeat(" ", 50<<20),
		"ten million values":  "[" + strings.Repeat("0,", 5<<20-8) + "0]",
		"deep":                strings.Repeat("[", 1<<20) + strings.Repeat("]", 1<<20),
		"deep objects, cut":   strings.Repeat(`{"a":`, 1<<20),
		"unterminated string": `"` + strings.Repeat(`\"`, 5<<20-8),
		"many findings":       `[` + strings.Repeat(`{"name":"a","category":"b"},`, 5000) + `{}]`,
	} {
		if _, err := Decode([]byte(in)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
