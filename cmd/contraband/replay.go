package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/contraband-dev/contraband/internal/local"
	"github.com/contraband-dev/contraband/internal/respond"
)

func replayCommand() *cobra.Command {
	var policy string
	cmd := &cobra.Command{
		Use:   "replay FILE...",
		Short: "Publish recorded notifications and print the outcome of each",
		Long: `Publishes each file as one notification, waits, and prints one line per file:
the case that it joined, or why it was acknowledged or dead-lettered. Needs
neither root nor kernel support. If "contraband up" is running, the files are
published there. With --policy, or if it is not running, a pipeline is started
for the files in a temporary directory and stopped at the end.

Exits with status 1 if a file has no outcome.`,
		Example: `  contraband replay finding.json
  contraband replay --policy policy.yaml findings/*.json`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, files []string) error {
			c, stop, err := someMachine(cmd.Context(), policy)
			if err != nil {
				return err
			}
			defer stop()
			var without int
			for _, file := range files {
				line, err := replay(cmd.Context(), c, file)
				if err != nil {
					without++
					line = "NO OUTCOME: " + err.Error()
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", filepath.Base(file), oneLine(line))
			}
			if without > 0 {
				return fmt.Errorf("%d of %d files have no outcome", without, len(files))
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&policy, "policy", "", "policy `file`; starts a temporary pipeline even if one is running")
	return cmd
}

// someMachine returns the running pipeline, or starts one for this command if none is running
// or a policy is given.
func someMachine(ctx context.Context, policy string) (local.Client, func(), error) {
	var c local.Client
	if policy == "" {
		c, err := local.Find(local.RuntimeFile())
		if err == nil {
			_, err = c.Status(ctx)
		}
		if err == nil {
			return c, func() {}, nil
		}
		slog.Info("starting a temporary pipeline for these files: " + err.Error())
	}
	dir, err := os.MkdirTemp("", "contraband-replay")
	if err != nil {
		return c, nil, err
	}
	m, err := local.Start(ctx, local.Config{Dir: dir, Policy: policy})
	if err != nil {
		return c, nil, errors.Join(err, os.RemoveAll(dir))
	}
	return local.Client{URL: m.URL, Token: m.Token}, func() { m.Close(); os.RemoveAll(dir) }, nil
}

func replay(ctx context.Context, c local.Client, file string) (string, error) {
	body, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	id, err := c.Publish(ctx, body)
	if err != nil {
		return "", err
	}
	outcomes, err := c.Outcome(ctx, id)
	if errors.Is(err, local.ErrNotFound) {
		return "", errors.New("no outcome within 30 seconds: see the log of `contraband up`")
	}
	if err != nil {
		return "", err
	}
	return describe(outcomes), nil
}

func describe(outcomes []respond.Result) string {
	var parts []string
	for _, o := range outcomes {
		switch {
		case o.Case != "":
			parts = append(parts, "case "+o.Case)
		case o.Acknowledged != "":
			parts = append(parts, "acknowledged, "+o.Acknowledged)
		default:
			parts = append(parts, "dead-lettered, "+o.DeadLettered)
		}
	}
	return strings.Join(parts, "; ")
}
