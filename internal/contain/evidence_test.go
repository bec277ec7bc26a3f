package contain

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// TestTail: of a log that is too long the end is kept, from the beginning of a line on.
func TestTail(t *testing.T) {
	var all bytes.Buffer
	var kept tail
	for i := range 700_000 {
		line := fmt.Appendf(nil, "line %d\n", i)
		all.Write(line)
		if n, err := kept.Write(line); err != nil || n != len(line) {
			t.Fatal(n, err)
		}
	}
	got := kept.bytes()
	if len(got) > maxLogs || len(got) < maxLogs-100 || !bytes.HasPrefix(got, []byte("line ")) || !bytes.HasSuffix(all.Bytes(), got) {
		t.Errorf("%d bytes are kept, from %q to %q", len(got), got[:20], got[len(got)-20:])
	}
	var short tail
	short.Write([]byte("one\ntwo"))
	if string(short.bytes()) != "one\ntwo" {
		t.Errorf("%q", short.bytes())
	}
}

// TestFreezeLife: a freeze is of one container, and so is the probe that ends it.
func TestFreezeLife(t *testing.T) {
	probe := func(seconds int32) *corev1.Probe {
		return &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{}}, PeriodSeconds: seconds, FailureThreshold: 3, TimeoutSeconds: 1}
	}
	pod := &corev1.Pod{
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app"}, {Name: "web", LivenessProbe: probe(10)}}, InitContainers: []corev1.Container{{Name: "sidecar", LivenessProbe: probe(20)}}},
		Status: corev1.PodStatus{
			ContainerStatuses:     []corev1.ContainerStatus{{Name: "app", ContainerID: "containerd://a"}, {Name: "web", ContainerID: "containerd://w"}},
			InitContainerStatuses: []corev1.ContainerStatus{{Name: "sidecar", ContainerID: "containerd://s"}},
		},
	}
	for id, want := range map[string]time.Duration{"a": 0, "w": 31 * time.Second, "s": 61 * time.Second, "unknown": 31 * time.Second} {
		if got, _ := freezeLife(pod, id); got != want {
			t.Errorf("container %q: %s, want %s", id, got, want)
		}
	}
}
