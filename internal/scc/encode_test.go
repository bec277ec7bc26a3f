package scc

import (
	"strings"
	"testing"
	"time"

	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/internal/sensorapi"
)

func detection() sensorapi.Detection {
	return sensorapi.Detection{
		Time: time.Date(2026, 3, 1, 10, 0, 0, 123456000, time.UTC), Route: sensorapi.Volume, SameAs: "/bin/x", Node: "n1", Repeats: 4,
		Process: sensorapi.Process{Path: "/tmp/x", Args: []string{"/tmp/x", "-o"}, Comm: "x", PID: 53, PPID: 1, UID: 1000, Started: time.Date(2026, 3, 1, 9, 59, 59, 0, time.UTC),
			Ancestors: []sensorapi.Ancestor{{PID: 52, Comm: "sh", Path: "/bin/sh"}, {PID: 1, Comm: "init"}}},
		File:      sensorapi.File{SHA256: strings.Repeat("a", 64), Size: 99},
		Container: sensorapi.Container{ID: "c1", Name: "web", Image: "img", ImageDigest: "sha256:" + strings.Repeat("b", 64), Labels: map[string]string{"team": "x"}},
		Pod:       sensorapi.Pod{Namespace: "shop", Name: "web-1", UID: "u-1"}, Missed: sensorapi.Missed{Dropped: 3},
		Timing: sensorapi.Timing{Seen: time.Date(2026, 3, 1, 10, 0, 1, 0, time.UTC)},
	}
}

// TestWhatWeRaiseIsWhatWeRead: encode, then decode, and nothing is lost.
func TestWhatWeRaiseIsWhatWeRead(t *testing.T) {
	d := detection()
	id, p, err := FromDetection(d, finding.Place{Project: "shop", Location: "l", Cluster: "prod"}, "organizations/1/sources/2/locations/global", d.Time.Add(time.Second))
	if err != nil || len(id) != 32 {
		t.Fatalf("id %q, %v", id, err)
	}
	body, err := Notification("c", p, nil)
	if err != nil {
		t.Fatal(err)
	}
	all, err := finding.Decode(body)
	if err != nil {
		t.Fatal(err)
	}
	f := all[0]
	if f.Process.Path != d.Process.Path || f.Process.SHA256 != d.File.SHA256 || f.Process.Size != 99 || f.Process.PID != 53 || len(f.Process.Args) != 2 {
		t.Errorf("process %+v", f.Process)
	}
	if f.Container.ID != "c1" || f.Container.Image != "img" || f.Container.Digest != d.Container.ImageDigest || f.Container.Labels["team"] != "x" {
		t.Errorf("container %+v", f.Container)
	}
	if f.Pod.Namespace != "shop" || f.Pod.Name != "web-1" || f.Pod.UID != "u-1" || f.Node != "n1" || f.Project != "shop" || f.Cluster != "prod" || f.Location != "l" {
		t.Errorf("place %+v %s %s %s %s", f.Pod, f.Node, f.Project, f.Location, f.Cluster)
	}
	if !f.EventTime.Equal(d.Time) || f.Category != finding.AddedBinary || f.State != "ACTIVE" || f.Severity != "LOW" || f.Kind() != finding.ContainerThreat {
		t.Errorf("%+v", f)
	}
	s := f.Sensor
	if s == nil || s.Route != "volume" || s.SameAs != "/bin/x" || s.Repeats != 4 || s.Missed != "3 events lost in the kernel" || !s.Executed.Equal(d.Time) || !s.Seen.Equal(d.Timing.Seen) {
		t.Errorf("sensor %+v", s)
	}
	if got := strings.Join(s.Ancestors, ", of "); got != "sh (52) /bin/sh, of init (1)" || s.User != 1000 || !s.Started.Equal(d.Process.Started) {
		t.Errorf("where it came from: %q, user %d, %s", got, s.User, s.Started)
	}
	d.SameAs = "" // not a copy of what the image has
	if _, q, err := FromDetection(d, finding.Place{Project: "shop", Location: "l", Cluster: "prod"}, "s", d.Time); err != nil || q.Severity.String() != "MEDIUM" {
		t.Errorf("severity %v (%v)", q.Severity, err)
	}
	d.SameAs = "/bin/x"
	again, _, err := FromDetection(d, finding.Place{Project: "shop", Location: "l", Cluster: "prod"}, "organizations/1/sources/2/locations/global", time.Now())
	if err != nil || again != id {
		t.Errorf("the same detection has another id: %q, %q (%v)", id, again, err)
	}
	if _, q, err := FromDetection(d, finding.Place{Project: "shop", Location: "l", Cluster: "prod"}, "s", d.Time.Add(-time.Hour)); err != nil || q.EventTime.AsTime().After(d.Time.Add(-time.Hour)) {
		t.Errorf("an event time in the future: %v (%v)", q.EventTime.AsTime(), err)
	}
}
