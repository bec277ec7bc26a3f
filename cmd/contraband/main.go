// Command contraband finds programs that were not in a container's image, and
// gets them contained.
//
//	contraband up        watch this machine's containers
//	contraband demo      see it work, on a container of its own
//	contraband canary    run a harmless program and measure kernel to page
//	contraband replay    feed recorded notifications
//	contraband case      list and show cases
//	contraband policy    check a policy file
//	contraband page      show who would be notified, and of what
//	contraband sensor    watch a node and publish to Pub/Sub, as the DaemonSet does
//	contraband package   make the zip of the functions that Terraform deploys
//	contraband doctor    what works here, and what to do about the rest
//
// Results go to standard output, messages and logs to standard error. The only
// ports are on loopback: `up` prints its address. Exit status: 0, or 1 with the
// reason on standard error.
package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/contraband-dev/contraband/internal/sensorproc"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "contraband:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var verbose bool
	root := &cobra.Command{
		Use:   "contraband",
		Short: "Finds programs that were not in a container's image, and gets them contained",
		Long: `Contraband sees a program run in a container that is not part of its image,
opens a case, looks up what an analyst would look up, pages the owner, and, where
the policy says so, freezes the container and saves the evidence.

Begin with:
  contraband doctor     what works on this machine
  contraband demo       the whole way, on a container of its own (root)
  contraband up         watch this machine's containers (root)`,
		SilenceUsage: true, SilenceErrors: true,
		PersistentPreRun: func(*cobra.Command, []string) {
			level := slog.LevelInfo
			if verbose {
				level = slog.LevelDebug
			}
			slog.SetDefault(slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level})))
		},
	}
	root.PersistentFlags().BoolVarP(&verbose, "verbose", "v", false, "log more")
	root.AddCommand(upCommand(), demoCommand(), canaryCommand(), replayCommand(), caseCommand(), exceptionsCommand(), policyCommand(), pageCommand(), doctorCommand(), packageCommand(), sensorproc.Command())
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	return root.ExecuteContext(ctx)
}

// stateDir is where `up` keeps its records when --dir is not given.
func stateDir() string {
	if os.Geteuid() == 0 {
		return "/var/lib/contraband"
	}
	if home, err := os.UserHomeDir(); err == nil {
		return filepath.Join(home, ".local", "state", "contraband")
	}
	return filepath.Join(os.TempDir(), "contraband")
}
