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
		Short: "Publish recorded notifications and tell what became of each",
		Long: `Publishes each file's bytes as one notification, waits, and prints one line a
file: the case it led to, or that it was acknowledged and why, or dead-lettered
and why. Needs no root and no kernel support. With "contraband up" running the
files go there; with --policy, or without one running, a pipeline is started for
them in a temporary directory, and ends with the command.

Exit status 0 when each has an outcome, 1 when one has none.`,
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
	cmd.Flags().StringVar(&policy, "policy", "", "policy file: a pipeline with it is started for the files, also where one runs")
	return cmd
}

// someMachine is the running one, else, or with a policy, one for this command alone.
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
		slog.Info("a pipeline is started for these files alone: " + err.Error())
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
		return "", errors.New("nothing came of it within half a minute: see the log of `contraband up`")
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
