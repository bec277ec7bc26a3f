package main

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/contraband-dev/contraband/bpf"
)

// build describes this binary.
type build struct {
	Version string `json:"version"`
	Commit  string `json:"commit,omitempty"`
	Date    string `json:"date,omitempty"` // of the commit
	Go      string `json:"go"`
	BPF     string `json:"bpf"` // SHA-256 of the BPF object, shortened
	Kernel  string `json:"kernel"`
}

// supportedKernel is what README.md states; `make test-kernels` runs the kernels it names.
const supportedKernel = "Linux 5.12 or later with BTF; tested on 6.1, 6.12, 6.18 and 7.3"

func buildVersion() build {
	b := build{Version: "(unknown)", Go: runtime.Version(), BPF: bpf.ObjectSHA256()[:16], Kernel: supportedKernel}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	b.Version = info.Main.Version
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Commit = s.Value
		case "vcs.time":
			b.Date = s.Value
		case "vcs.modified":
			if s.Value == "true" {
				b.Commit += " (modified)"
			}
		}
	}
	return b
}

func versionCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Print the version and what it was built from",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return printVersion(cmd.OutOrStdout(), buildVersion(), asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printVersion(out io.Writer, b build, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(out).Encode(b)
	}
	unknown := func(s string) string {
		if s == "" {
			return "not recorded in this build"
		}
		return s
	}
	_, err := fmt.Fprintf(out, "contraband %s\ncommit  %s\ndate    %s\ngo      %s\nbpf     %s\nkernel  %s\n",
		b.Version, unknown(b.Commit), unknown(b.Date), b.Go, b.BPF, b.Kernel)
	return err
}
