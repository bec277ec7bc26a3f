package main

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// checkGolden compares text with testdata/golden/NAME, or rewrites the file with -update.
func checkGolden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", "golden", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; if that is intended, run go test -update. Got:\n%s", file, got)
	}
}

func TestHelpOfEachCommandIsGoldenAndFits80Columns(t *testing.T) {
	t.Setenv("HOME", "/root")
	var names [][]string
	var walk func(c *cobra.Command, path []string)
	walk = func(c *cobra.Command, path []string) {
		names = append(names, path)
		for _, sub := range c.Commands() {
			// The text of sensor is that of contraband-sensor.
			if sub.Name() != "completion" && sub.Name() != "help" && sub.Name() != "sensor" {
				walk(sub, append(path[:len(path):len(path)], sub.Name()))
			}
		}
	}
	walk(rootCommand(&bytes.Buffer{}), nil)
	for _, path := range names {
		name := strings.Join(append([]string{"contraband"}, path...), " ")
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			if err := run(t.Context(), append(path, "--help"), &out, &out); err != nil {
				t.Fatal(err)
			}
			for _, line := range strings.Split(out.String(), "\n") {
				if n := utf8.RuneCountInString(line); n > 80 {
					t.Errorf("line of %d columns: %s", n, line)
				}
			}
			checkGolden(t, "help/"+strings.ReplaceAll(name, " ", "-")+".txt", out.String())
		})
	}
}
