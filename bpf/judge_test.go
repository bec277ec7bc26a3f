package bpf

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// answers compiles the programs' C for this machine and calls it.
func answers(t *testing.T, questions []string, flags ...string) []string {
	t.Helper()
	if _, err := os.Stat("/usr/include/bpf/bpf_helpers.h"); err != nil {
		t.Fatal("the headers of the BPF programs are missing: run `make deps-bpf`")
	}
	program := filepath.Join(t.TempDir(), "judge")
	args := append([]string{"-O1", "-w", "-Iinclude", "-o", program, "testdata/judge.c"}, flags...)
	if out, err := exec.Command("cc", args...).CombinedOutput(); err != nil {
		t.Fatalf("compile: %v\n%s", err, out)
	}
	asked := exec.Command(program)
	asked.Stdin = strings.NewReader(strings.Join(questions, "\n") + "\n")
	var failed bytes.Buffer
	asked.Stderr = &failed
	out, err := asked.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, failed.String())
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) != len(questions) {
		t.Fatalf("%d answers to %d questions: %q", len(lines), len(questions), lines)
	}
	return lines
}

// TestJudge is the kernel's part of the verdict, over every file that there can
// be: only an image's own file, unchanged, on the container's own root is quiet.
func TestJudge(t *testing.T) {
	const report = uint32(execEventFlagsREPORT)
	parts := []uint32{OnOverlay, OnRoot, HasUpper, HasLower, UserMount, RootOverlay}
	var questions []string
	var want []uint32
	for bits := range 1 << len(parts) {
		question, flags := "judge", report
		for i, part := range parts {
			set := bits >> i & 1
			question += fmt.Sprint(" ", set)
			flags |= part * uint32(set)
		}
		has := func(flag uint32) bool { return flags&flag != 0 }
		if has(OnRoot) && has(OnOverlay) != has(RootOverlay) {
			continue // a file on the root has the root's file system
		}
		if !has(OnOverlay) { // what of it is in which layer has no meaning
			flags &^= HasUpper | HasLower | UserMount
		}
		if flags&(OnOverlay|OnRoot|HasUpper|UserMount) == OnOverlay|OnRoot {
			flags = 0
		}
		questions, want = append(questions, question), append(want, flags)
	}
	for _, layout := range [][]string{nil, {"-DPOINTER_TELLS"}} {
		quiet := 0
		for i, got := range answers(t, questions, layout...) {
			if got != fmt.Sprint(want[i]) {
				t.Errorf("%v: %s (overlay, root, upper, lower, user's mount, root is overlay): %s, want %d", layout, questions[i], got, want[i])
			}
			if got == "0" {
				quiet++
			}
		}
		if quiet != 2 { // with a lower part, and without: the verdict does not look at it
			t.Errorf("%v: %d quiet, want 2", layout, quiet)
		}
	}
}

// TestFirstInWindow checks which runs of a file are reported: the first always, then one
// a window with the count of the others, and all while its change time is fresh.
func TestFirstInWindow(t *testing.T) {
	const second, old = 1_000_000_000, 5
	at := func(seconds, ns int) int { return (seconds+1000)*second + ns }
	var questions, want []string
	run := func(file, now, changed int, answer string) {
		questions = append(questions, fmt.Sprintf("run %d %d %d", file, now, changed))
		want = append(want, answer)
	}
	run(1, at(0, 0), old, "told 0")
	run(1, at(1, 0), old, "counted 0")
	run(2, at(1, 0), old, "told 0")         // another file
	run(1, at(1, 0), old+1, "told 0")       // the same, changed since
	run(1, at(59, 0), old, "counted 0")     // within the minute
	run(1, at(60, 0), old, "told 2")        // the next one
	run(1, at(61, 0), old, "counted 0")     // counted from there
	run(1, at(120, 0), old, "told 1")       //
	run(3, at(5, 0), at(5, -1), "told 0")   // just written
	run(3, at(5, 9), at(5, -1), "told 0")   // perhaps other bytes, within the same tick
	run(3, at(5, 9), at(5, 20e6), "told 0") // a clock that has been set back
	run(3, at(6, 0), at(5, -1), "told 0")   // now it is remembered
	run(3, at(7, 0), at(5, -1), "counted 0")
	for file := 10; file < 30; file++ { // more than can be remembered
		run(file, at(200, 0), old, "told 0")
	}
	run(29, at(201, 0), old, "told 0")
	for i, got := range answers(t, questions) {
		if got != want[i] {
			t.Errorf("%d: %s: %s, want %s", i, questions[i], got, want[i])
		}
	}
}
