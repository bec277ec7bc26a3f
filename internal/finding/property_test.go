package finding

import (
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/contraband-dev/contraband/internal/node"
	"github.com/contraband-dev/contraband/internal/redact"
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
	routes := []node.Route{node.Added, node.Modified, node.Volume, node.Memory, node.Deleted, node.Nested, node.Script, node.Loader, node.Library}
	hex := func() string { return strings.Repeat(string("0123456789abcdef"[r.IntN(16)]), 64) }
	for i := range 2000 {
		d := node.Detection{
			Time: time.Unix(1.7e9+r.Int64N(1e8), r.Int64N(1e6)*1000).UTC(), Route: routes[r.IntN(len(routes))], SameAs: text(r), Node: strings.ReplaceAll(text(r), "/", "n"), Repeats: r.Uint64N(1000),
			Process:   node.Process{Path: text(r), Args: redact.Args([]string{text(r), text(r)}), PID: r.Uint32(), PPID: r.Uint32()},
			File:      node.File{SHA256: hex(), Size: r.Int64N(1 << 40)},
			Container: node.Container{ID: "c" + hex(), Name: text(r), Image: text(r), ImageDigest: "sha256:" + hex(), Labels: labels(r)},
			Pod:       node.Pod{Namespace: text(r), Name: text(r), UID: text(r), Labels: labels(r)},
			Timing:    node.Timing{Seen: time.Unix(1.7e9, 5).UTC(), Hashed: time.Unix(1.7e9, 6).UTC(), Attributed: time.Unix(1.7e9, 7).UTC()},
		}
		const source = "organizations/1/sources/2/locations/global"
		now := d.Time.Add(time.Second)
		_, p, err := FromDetection(d, Place{"shop", "europe-west1", "prod"}, source, now)
		if err != nil {
			t.Fatalf("seed %d, case %d: %v", seed, i, err)
		}
		p.CanonicalName = "projects/77/sources/2/locations/global/findings/x"
		body, err := Notification("c", p, nil)
		if err != nil {
			t.Fatalf("seed %d, case %d: %v", seed, i, err)
		}
		all, err := Decode(body)
		if err != nil || len(all) != 1 {
			t.Fatalf("seed %d, case %d: %d findings, %v", seed, i, len(all), err)
		}
		want := Finding{
			Name: p.Name, CanonicalName: p.CanonicalName, Parent: source, ResourceName: p.ResourceName, Category: AddedBinary, Class: "THREAT", State: "ACTIVE", Severity: "LOW",
			EventTime: d.Time, Description: p.Description, ExternalURI: p.ExternalUri, Project: "shop", ProjectNumber: "77", Location: "europe-west1", Cluster: "prod", Node: d.Node,
			Pod:       Pod{d.Pod.Namespace, d.Pod.Name, d.Pod.UID, redacted(d.Pod.Labels)},
			Container: Container{d.Container.ID, d.Container.Name, d.Container.Image, d.Container.ImageDigest, redacted(d.Container.Labels)},
			Process:   Process{Path: d.Process.Path, Args: d.Process.Args, PID: int64(d.Process.PID), ParentPID: int64(d.Process.PPID), SHA256: d.File.SHA256, Size: d.File.Size},
			MITRE:     []string{"COMMAND_AND_CONTROL", "INGRESS_TOOL_TRANSFER", "EXECUTION", "NATIVE_API"},
			Sensor: &Sensor{Route: string(d.Route), SameAs: d.SameAs, Repeats: int64(d.Repeats), Executed: d.Time, Seen: d.Timing.Seen, Hashed: d.Timing.Hashed,
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
