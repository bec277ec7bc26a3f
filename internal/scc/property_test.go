package scc

import (
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/internal/redact"
	"github.com/contraband-dev/contraband/internal/sensorapi"
)

// text is a string of any characters, hostile ones among them.
func text(r *rand.Rand) string {
	alphabet := []rune("abcXYZ0189 _-./:@#%$&<>\"'`\\|\n\t\u202e\u00e9\u4e16\U0001f600")
	out := make([]rune, 1+r.IntN(40))
	for i := range out {
		out[i] = alphabet[r.IntN(len(alphabet))]
	}
	return string(out)
}

func labels(r *rand.Rand) map[string]string {
	out := map[string]string{}
	for range 1 + r.IntN(4) {
		out["l"+text(r)] = text(r)
	}
	return out
}

// TestDecodeOfEncode: for any detection, what we write is what we read.
func TestDecodeOfEncode(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 0))
	routes := []sensorapi.Route{sensorapi.Added, sensorapi.Modified, sensorapi.Volume, sensorapi.Memory, sensorapi.Deleted, sensorapi.Nested, sensorapi.Script, sensorapi.Loader, sensorapi.Library}
	hex := func() string { return strings.Repeat(string("0123456789abcdef"[r.IntN(16)]), 64) }
	for i := range 2000 {
		d := sensorapi.Detection{
			Time: time.Unix(1.7e9+r.Int64N(1e8), r.Int64N(1e6)*1000).UTC(), Route: routes[r.IntN(len(routes))], SameAs: text(r), Node: strings.ReplaceAll(text(r), "/", "n"), Repeats: r.Uint64N(1000),
			Process:   sensorapi.Process{Path: text(r), Args: redact.Args([]string{text(r), text(r)}), PID: r.Uint32(), PPID: r.Uint32()},
			File:      sensorapi.File{SHA256: hex(), Size: r.Int64N(1 << 40)},
			Container: sensorapi.Container{ID: "c" + hex(), Name: text(r), Image: text(r), ImageDigest: "sha256:" + hex(), Labels: labels(r)},
			Pod:       sensorapi.Pod{Namespace: text(r), Name: text(r), UID: text(r), Labels: labels(r)},
			Timing:    sensorapi.Timing{Seen: time.Unix(1.7e9, 5).UTC(), Hashed: time.Unix(1.7e9, 6).UTC(), Attributed: time.Unix(1.7e9, 7).UTC()},
		}
		const source = "organizations/1/sources/2/locations/global"
		now := d.Time.Add(time.Second)
		_, p, err := FromDetection(d, finding.Place{Project: "shop", Location: "europe-west1", Cluster: "prod"}, source, now)
		if err != nil {
			t.Fatalf("seed %d, case %d: %v", seed, i, err)
		}
		p.CanonicalName = "projects/77/sources/2/locations/global/findings/x"
		body, err := Notification("c", p, nil)
		if err != nil {
			t.Fatalf("seed %d, case %d: %v", seed, i, err)
		}
		all, err := finding.Decode(body)
		if err != nil || len(all) != 1 {
			t.Fatalf("seed %d, case %d: %d findings, %v", seed, i, len(all), err)
		}
		want := finding.Finding{
			Name: p.Name, CanonicalName: p.CanonicalName, Parent: source, ResourceName: p.ResourceName, Category: finding.AddedBinary, Class: "THREAT", State: "ACTIVE", Severity: "LOW",
			EventTime: d.Time, Description: p.Description, NextSteps: p.NextSteps, ExternalURI: p.ExternalUri, Project: "shop", ProjectNumber: "77", Location: "europe-west1", Cluster: "prod", Node: d.Node,
			Pod:       finding.Pod{Namespace: d.Pod.Namespace, Name: d.Pod.Name, UID: d.Pod.UID, Labels: redacted(d.Pod.Labels)},
			Container: finding.Container{ID: d.Container.ID, Name: d.Container.Name, Image: d.Container.Image, Digest: d.Container.ImageDigest, Labels: redacted(d.Container.Labels)},
			Process:   finding.Process{Path: d.Process.Path, Args: d.Process.Args, PID: int64(d.Process.PID), ParentPID: int64(d.Process.PPID), SHA256: d.File.SHA256, Size: d.File.Size},
			MITRE:     []string{"COMMAND_AND_CONTROL", "INGRESS_TOOL_TRANSFER", "EXECUTION", "NATIVE_API"},
			Sensor: &finding.Sensor{Route: string(d.Route), SameAs: d.SameAs, Repeats: int64(d.Repeats), Executed: d.Time, Seen: d.Timing.Seen, Hashed: d.Timing.Hashed,
				Attributed: d.Timing.Attributed, Raised: now},
		}
		if !reflect.DeepEqual(all[0], want) {
			t.Fatalf("seed %d, case %d:\n got %+v %+v\nwant %+v %+v", seed, i, all[0], all[0].Sensor, want, want.Sensor)
		}
	}
}

func redacted(in map[string]string) map[string]string {
	out := map[string]string{}
	for k, v := range in {
		out[k] = redact.Value(k, v)
	}
	return out
}
