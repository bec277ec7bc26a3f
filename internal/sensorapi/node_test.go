package sensorapi

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func valid() Detection {
	return Detection{Time: time.Now(), Route: Added, Process: Process{Path: "/tmp/x"}, File: File{SHA256: strings.Repeat("a", 64)}, Container: Container{ID: "c1"}, Node: "n"}
}

func TestParseDetection(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Detection)
		want   string // of the error; "": none
	}{
		"as it should be": {func(*Detection) {}, ""},
		"unknown route":   {func(d *Detection) { d.Route = "teleport" }, "route"},
		"no time":         {func(d *Detection) { d.Time = time.Time{} }, "time"},
		"no path":         {func(d *Detection) { d.Process.Path = "" }, "path"},
		"bad container":   {func(d *Detection) { d.Container.ID = "../../etc" }, "container.id"},
		"dots":            {func(d *Detection) { d.Container.ID = ".." }, "container.id"},
		"no hash, no why": {func(d *Detection) { d.File.SHA256 = "" }, "unhashed"},
		"not hashed":      {func(d *Detection) { d.File = File{Unhashed: "gone"} }, ""},
		"bad hash":        {func(d *Detection) { d.File.SHA256 = "XYZ" }, "SHA-256"},
		"long string":     {func(d *Detection) { d.Process.Comm = strings.Repeat("x", MaxString+1) }, "bytes"},
		"health":          {func(d *Detection) { *d = Detection{Time: time.Now(), Node: "n", Health: "blind"} }, ""},
		"nobody's health": {func(d *Detection) { *d = Detection{Time: time.Now(), Health: "blind"} }, "node"},
		"many arguments":  {func(d *Detection) { d.Process.Args = make([]string, MaxArgs+1) }, "args"},
	} {
		d := valid()
		c.change(&d)
		body, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		_, err = ParseDetection(body)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	if _, err := ParseDetection(make([]byte, MaxBytes+1)); err == nil {
		t.Error("a huge body is taken")
	}
}

func FuzzDetection(f *testing.F) {
	body, err := json.Marshal(valid())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body)
	f.Fuzz(func(t *testing.T, in []byte) {
		d, err := ParseDetection(in)
		if err != nil || d.Health != "" {
			return
		}
		if !IsContainerID(d.Container.ID) || d.Process.Path == "" || len(d.Process.Path) > MaxString {
			t.Errorf("accepted: %+v", d)
		}
	})
}
