package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/contraband-dev/contraband/internal/deadletter"
	"github.com/contraband-dev/contraband/internal/deadletter/queue"
	"github.com/contraband-dev/contraband/internal/local"
)

// deadLetters is where dead letters are kept: on this machine or in a project.
type deadLetters interface {
	List(ctx context.Context, limit int) ([]deadletter.Letter, error)
	Replay(ctx context.Context, l deadletter.Letter) error
	Close(ctx context.Context) error
}

// mostLetters bounds how many letters are read.
const mostLetters = 10_000

func deadLetterCommand() *cobra.Command {
	var where struct{ project, subscription string }
	open := func(ctx context.Context) (deadLetters, error) {
		if where.project != "" {
			return queue.Open(ctx, where.project, where.subscription)
		}
		c, err := local.Find(local.RuntimeFile())
		return machineLetters{c}, err
	}
	cmd := &cobra.Command{
		Use:   "deadletter",
		Short: "List messages that were given up on, and publish them again",
		Long: `Messages that no repetition helps, or that failed too often, are dead letters:
they are kept (for 31 days in a project), and an alert is raised. "list" says
why each was given up on. When the cause is mended, "replay" publishes them to
the topic from which they came and removes them; a finding that comes twice is
handled once.

They are those of the running "contraband up", or with --project those of a
project: your own credentials then need roles/pubsub.subscriber on the
subscription and roles/pubsub.publisher on the topics. "list" holds what it
reads for as long as it runs; nobody else sees it meanwhile.`,
		Example: `  contraband deadletter list
  contraband deadletter show 7
  contraband deadletter replay --all --reason malformed --project shop`,
		Args: cobra.NoArgs,
	}
	cmd.PersistentFlags().StringVar(&where.project, "project", "", "`project` of the deployment; default: this machine")
	cmd.PersistentFlags().StringVar(&where.subscription, "subscription", "contraband-dead-letters", "`name` of the subscription")
	cmd.AddCommand(listLetters(open), showLetter(open), replayLetters(open))
	return cmd
}

type openLetters func(ctx context.Context) (deadLetters, error)

// with reads the letters, calls use, and gives back what was not removed.
func (open openLetters) with(ctx context.Context, use func(q deadLetters, all []deadletter.Letter) error) error {
	q, err := open(ctx)
	if err != nil {
		return err
	}
	all, err := q.List(ctx, mostLetters)
	if err == nil {
		err = use(q, all)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return errors.Join(err, q.Close(ctx))
}

func listLetters(open openLetters) *cobra.Command {
	var reason string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List dead letters, the oldest first",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return open.with(cmd.Context(), func(_ deadLetters, all []deadletter.Letter) error {
				return printLetters(cmd.OutOrStdout(), withReason(all, reason), asJSON)
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "only those whose reason contains a `text`")
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object a line, with the data in Base64")
	return cmd
}

func printLetters(out io.Writer, all []deadletter.Letter, asJSON bool) error {
	if asJSON {
		e := json.NewEncoder(out)
		for _, l := range all {
			if err := e.Encode(l); err != nil {
				return err
			}
		}
		return nil
	}
	if len(all) == 0 {
		_, err := fmt.Fprintln(out, "no dead letters")
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tGIVEN UP\tTOPIC\tCLUSTER\tBYTES\tREASON")
	for _, l := range all {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\n", oneLine(l.ID), givenUp(l), orDash(topicName(l)), orDash(oneLine(l.Cluster)), len(l.Data), oneLine(l.Reason))
	}
	return w.Flush()
}

func givenUp(l deadletter.Letter) string {
	if l.At.IsZero() {
		return "-"
	}
	return l.At.UTC().Format("2006-01-02 15:04:05")
}

// topicName returns the last part of the topic's name; of a page that it is one.
func topicName(l deadletter.Letter) string {
	if l.Kind == deadletter.Page {
		return "(a page)"
	}
	return oneLine(l.Topic[strings.LastIndexByte(l.Topic, '/')+1:])
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func withReason(all []deadletter.Letter, text string) []deadletter.Letter {
	return slices.DeleteFunc(all, func(l deadletter.Letter) bool { return !strings.Contains(l.Reason, text) })
}

func showLetter(open openLetters) *cobra.Command {
	return &cobra.Command{
		Use:   "show ID",
		Short: "Print one dead letter with its data",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return open.with(cmd.Context(), func(_ deadLetters, all []deadletter.Letter) error {
				l, err := letterOf(all, args[0])
				if err != nil {
					return err
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "given up: %s\ntopic:    %s\ncluster:  %s\nreason:   %s\n%s\n", givenUp(l),
					orDash(oneLine(l.Topic)), orDash(oneLine(l.Cluster)), oneLine(l.Reason), lines(string(l.Data)))
				return err
			})
		},
	}
}

// lines returns data with each line made harmless for a terminal.
func lines(data string) string {
	parts := strings.Split(strings.TrimSuffix(data, "\n"), "\n")
	for i := range parts {
		parts[i] = oneLine(parts[i])
	}
	return strings.Join(parts, "\n")
}

func letterOf(all []deadletter.Letter, id string) (deadletter.Letter, error) {
	for _, l := range all {
		if l.ID == id {
			return l, nil
		}
	}
	return deadletter.Letter{}, fmt.Errorf("there is no dead letter %q: `contraband deadletter list` lists them: %w", id, local.ErrNotFound)
}

func replayLetters(open openLetters) *cobra.Command {
	var all, dryRun bool
	var reason string
	cmd := &cobra.Command{
		Use:   "replay ID... | --all [--reason TEXT]",
		Short: "Publish dead letters to their topics again and remove them",
		Long: `Publishes dead letters to the topics from which they came and removes them.
What fails again comes back as a dead letter. The page of an incident that no
channel took is removed alone: it is sent by itself when a channel works.`,
		Example: `  contraband deadletter replay 7 8
  contraband deadletter replay --all --reason "delivered" --dry-run`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if all == (len(args) > 0) || reason != "" && !all {
				return fmt.Errorf("%w: give the IDs of dead letters, or --all with or without --reason", errUsage)
			}
			return open.with(cmd.Context(), func(q deadLetters, letters []deadletter.Letter) error {
				chosen := withReason(slices.Clone(letters), reason)
				if !all {
					chosen = nil
				}
				for _, id := range args {
					l, err := letterOf(letters, id)
					if err != nil {
						return err
					}
					chosen = append(chosen, l)
				}
				return replayEach(cmd.Context(), cmd.OutOrStdout(), q, chosen, dryRun)
			})
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "all of them")
	cmd.Flags().StringVar(&reason, "reason", "", "with --all: only those whose reason contains a `text`")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "print what would be done")
	return cmd
}

// replayEach goes on after a failure, and reports it at the end.
func replayEach(ctx context.Context, out io.Writer, q deadLetters, chosen []deadletter.Letter, dryRun bool) error {
	var errs []error
	for _, l := range chosen {
		did := "published to " + topicName(l)
		if l.Kind == deadletter.Page {
			did = "removed: the page is sent by itself"
		}
		if dryRun {
			fmt.Fprintf(out, "%s: would be %s\n", oneLine(l.ID), did)
			continue
		}
		if err := q.Replay(ctx, l); err != nil {
			errs = append(errs, err)
			continue
		}
		fmt.Fprintf(out, "%s: %s\n", oneLine(l.ID), did)
	}
	if len(chosen) == 0 {
		fmt.Fprintln(out, "no dead letters")
	}
	return errors.Join(errs...)
}

// machineLetters are those of the running `contraband up`.
type machineLetters struct{ client local.Client }

func (m machineLetters) List(ctx context.Context, limit int) ([]deadletter.Letter, error) {
	all, err := m.client.DeadLetters(ctx)
	return all[:min(len(all), limit)], err
}

func (m machineLetters) Replay(ctx context.Context, l deadletter.Letter) error {
	return m.client.ReplayDeadLetter(ctx, l.ID)
}

func (m machineLetters) Close(context.Context) error { return nil }
