package main

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/contraband-dev/contraband/internal/policy"
)

func policyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "policy [FILE]",
		Short: "Check a policy file, and tell what it does",
		Long: `Reads a policy file as the functions do: every mistake is told, each with its
place. Then it prints the rules in their order; the first that fits decides.
Without a file it prints the built-in policy, to begin one of your own with.

What a policy would do about a finding: contraband replay --policy FILE FINDING.
Exit status 1 when the file has a mistake.`,
		Example: `  contraband policy > policy.yaml
  contraband policy policy.yaml
  contraband replay --policy policy.yaml finding.json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				_, err := fmt.Fprint(cmd.OutOrStdout(), policy.Default)
				return err
			}
			p, err := policy.Load(args[0])
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			for i, r := range p.Rules {
				fmt.Fprintf(w, "%d\t%s\t%s\t%s\n", i+1, oneLine(r.Name), strings.Join(r.Do, ", "), oneLine(r.When))
			}
			g := p.Guards
			fmt.Fprintf(w, "\tprotected namespaces\t%s\t\n\tan hour\tat most %d containments, %d of one workload\t\n\thealthy replicas\t%s\t\n",
				oneLine(strings.Join(g.Namespaces, ", ")), g.MaxContainmentsPerHour, g.MaxPerWorkloadPerHour, g.MinHealthyReplicas)
			if g.DryRun {
				fmt.Fprint(w, "\tdry run\tnothing is contained\t\n")
			}
			return w.Flush()
		},
	}
}
