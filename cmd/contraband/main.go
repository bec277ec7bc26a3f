// Command contraband detects programs that are not part of a container's image and
// contains them.
//
//	contraband up        watch this machine's containers
//	contraband demo      show the whole pipeline on a container of its own
//	contraband canary    run a harmless program and measure the time to the page
//	contraband replay    publish recorded notifications
//	contraband case      list cases, show one, and act on it
//	contraband deadletter list messages that were given up on, and publish them again
//	contraband policy    check a policy file
//	contraband page      preview a page and who receives it
//	contraband sensor    watch a node and publish to Pub/Sub, as the DaemonSet does
//	contraband package   build the zip of the functions that Terraform deploys
//	contraband doctor    check this machine and suggest fixes
//	contraband version   print the version and what it was built from
//
// Results go to standard output, messages and logs to standard error. It listens on
// loopback only: `up` prints its address. exit.go lists the exit statuses.
package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
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
		os.Exit(exitStatus(err))
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	root := rootCommand(stderr)
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	return root.ExecuteContext(ctx)
}

func rootCommand(stderr io.Writer) *cobra.Command {
	var verbose bool
	root := &cobra.Command{
		Use:   "contraband",
		Short: "Detects programs that are not part of a container's image and contains them",
		Long: `Contraband detects a program that runs in a container but is not part of its
image. It opens a case, gathers the facts an analyst needs, pages the owner and,
if the policy says so, freezes the container and saves the evidence.

Start with:
  contraband doctor     check this machine
  contraband demo       show the whole pipeline on a container of its own (root)
  contraband up         watch this machine's containers (root)

Exit status: 0 success, 1 failure, 2 wrong usage, 3 not found, 4 nothing is
running or the casebook cannot be reached, 5 refused.`,
		Version:      buildVersion().Version,
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
	root.AddCommand(upCommand(), demoCommand(), canaryCommand(), replayCommand(), caseCommand(), exceptionsCommand(), deadLetterCommand(),
		policyCommand(), pageCommand(), doctorCommand(), packageCommand(), versionCommand(), sensorproc.Command())
	// Flags are wrapped to the width of a terminal.
	root.SetUsageTemplate(strings.NewReplacer("Flags.FlagUsages ", "Flags.FlagUsagesWrapped 80 ",
		"{{.CommandPath}} [command] --help\" for more", "{{.CommandPath}} [command] --help\"\nfor more",
	).Replace(root.UsageTemplate()))
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return fmt.Errorf("%w: %w", errUsage, err) })
	return root
}

// stateDir returns where `up` keeps its records unless --dir is set.
func stateDir() string {
	if os.Geteuid() == 0 {
		return "/var/lib/contraband"
	}
	if home, err := os.UserHomeDir(); err == nil {
		return filepath.Join(home, ".local", "state", "contraband")
	}
	return filepath.Join(os.TempDir(), "contraband")
}
