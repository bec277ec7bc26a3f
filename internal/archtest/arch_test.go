// Package archtest checks the imports of the module against docs/architecture.md.
package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/contraband-dev/contraband/"

// Dependencies that only some programs may link.
const (
	slack      = "github.com/slack-go/slack"
	scc        = "cloud.google.com/go/securitycenter"
	kubernetes = "k8s.io/client-go"
	pubsub     = "cloud.google.com/go/pubsub/v2"
	bpf        = "github.com/cilium/ebpf"
)

// forbidden is what a package must not link, by import path or its prefix.
var forbidden = map[string][]string{
	"functions/main/raise":    {slack, kubernetes, bpf},
	"functions/main/respond":  {bpf},
	"functions/main/advance":  {bpf},
	"functions/main/contain":  {slack, scc, pubsub, bpf},
	"functions/main/interact": {scc, pubsub, kubernetes, bpf},
	"functions/main/sweep":    {slack, scc, pubsub, kubernetes, bpf},
	"functions/main/casebook": {slack, scc, pubsub, kubernetes, bpf},
	"internal/funcserver":     {slack, scc, pubsub, kubernetes, bpf},
	"cmd/contraband-sensor": {
		slack, scc, "cloud.google.com/go/storage", "google.golang.org/api", kubernetes, "k8s.io/api", module + "internal/respond",
	},
	"internal/respond": {bpf, module + "internal/sensorproc", module + "functions"},
	"internal/cases":   {module + "internal/respond", module + "internal/notify", slack, scc},
}

// testOnly is what no deployed program links.
var testOnly = []string{"internal/fake", "internal/local", "internal/testenv", "internal/workflowlang", "internal/archtest"}

// listed is a package as `go list -json` prints it.
type listed struct {
	ImportPath    string
	Imports, Deps []string
}

func list(t *testing.T, patterns ...string) (out []listed) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list", "-json=ImportPath,Imports,Deps"}, patterns...)...)
	cmd.Dir = "../.."
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	body, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	for d := json.NewDecoder(bytes.NewReader(body)); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return out
		} else if err != nil {
			t.Fatal(err)
		}
		out = append(out, p)
	}
}

// isBelow reports whether a package is one of path or below it.
func isBelow(importPath, path string) bool {
	return importPath == path || strings.HasPrefix(importPath, strings.TrimSuffix(path, "/")+"/")
}

func TestProgramsLinkOnlyWhatTheyMay(t *testing.T) {
	var patterns []string
	for name := range forbidden {
		patterns = append(patterns, "./"+name)
	}
	packages := list(t, patterns...)
	if len(packages) != len(forbidden) {
		t.Errorf("%d packages, want %d", len(packages), len(forbidden))
	}
	for _, p := range packages {
		for _, dep := range p.Deps {
			for _, path := range forbidden[strings.TrimPrefix(p.ImportPath, module)] {
				if isBelow(dep, path) {
					t.Errorf("%s links %s", p.ImportPath, dep)
				}
			}
		}
	}
}

func TestNothingDeployedLinksTestPackages(t *testing.T) {
	for _, p := range list(t, "./functions/...", "./cmd/contraband-sensor") {
		for _, dep := range p.Deps {
			for _, path := range testOnly {
				if isBelow(dep, module+path) {
					t.Errorf("%s links %s", p.ImportPath, dep)
				}
			}
		}
	}
}

// TestImportsRunDownward checks that no internal package imports a command or a function.
// internal/local runs the functions in one process and is the only exception.
func TestImportsRunDownward(t *testing.T) {
	for _, p := range list(t, "./internal/...", "./sensor/...", "./bpf/...") {
		if isBelow(p.ImportPath, module+"internal/local") {
			continue
		}
		for _, i := range p.Imports {
			if isBelow(i, module+"functions") || isBelow(i, module+"cmd") {
				t.Errorf("%s imports %s", p.ImportPath, i)
			}
		}
	}
}
