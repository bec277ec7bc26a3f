package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/cases/casetext"
	"github.com/contraband-dev/contraband/internal/local"
)

func caseCommand() *cobra.Command {
	var casebookURL string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "case [ID]",
		Short: "List the cases, or show one",
		Long: `Without an ID it lists all cases, newest first. Queries the running "contraband
up". For a deployment, set --casebook and put an identity token into
CONTRABAND_TOKEN.`,
		Example: `  contraband case
  contraband case 0123456789abcdef
  CONTRABAND_TOKEN=$(gcloud auth print-identity-token) \
    contraband case --casebook https://contraband-casebook-xyz.run.app`,
		Args: cobra.MaximumNArgs(1),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			c, err := casebookOf(casebookURL)
			if err != nil || len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			all, err := c.Cases(cmd.Context())
			if err != nil {
				return nil, cobra.ShellCompDirectiveError
			}
			var ids []string
			for _, k := range all {
				ids = append(ids, k.ID+"\t"+truncate(k.Decided.Finding.Process.Path, maxProgram))
			}
			return ids, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := casebookOf(casebookURL)
			if err != nil {
				return err
			}
			if len(args) == 0 {
				all, err := c.Cases(cmd.Context())
				if err != nil {
					return err
				}
				return listCases(cmd.OutOrStdout(), all, asJSON)
			}
			v, err := c.Case(cmd.Context(), args[0])
			if errors.Is(err, local.ErrNotFound) {
				return fmt.Errorf("case %q: %w; `contraband case` lists all cases", args[0], err)
			}
			if err != nil {
				return err
			}
			if asJSON {
				_, err = fmt.Fprintln(cmd.OutOrStdout(), string(v.Raw))
				return err
			}
			return showCase(cmd.OutOrStdout(), v)
		},
	}
	cmd.Flags().StringVar(&casebookURL, "casebook", "", casebookFlag)
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.AddCommand(caseCheckCommand())
	return cmd
}

func listCases(out io.Writer, all []cases.Case, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(out).Encode(all)
	}
	if len(all) == 0 {
		_, err := fmt.Fprintln(out, "no case yet")
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "CASE\tOPENED\tVERDICT\tPROGRAM\tWHERE\tSTATE")
	for _, k := range all {
		f := k.Decided.Finding
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", k.ID, k.Opened.Format("2006-01-02 15:04:05"), k.Decided.Verdict.Level, truncate(cmp.Or(f.Process.Path, f.Category), maxProgram), truncate(f.ShortName(), maxWhere), k.Status())
	}
	return w.Flush()
}

// Widths of columns of the list, so that no path makes it unreadable.
const (
	maxProgram = 60
	maxWhere   = 60
)

func showCase(out io.Writer, v local.CaseView) error {
	k := v.Case
	f := k.Decided.Finding
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	rows := [][2]string{
		{"case", k.ID}, {"state", k.Status()}, {"program", f.Process.Path}, {"sha-256", f.Process.SHA256},
		{"verdict", casetext.VerdictLine(k.Decided.Verdict)},
		{"where", f.Project + " " + f.Location + " " + f.Cluster + " " + f.ShortName()}, {"node", f.Node}, {"image", f.Container.Image + " " + f.Container.Digest},
	}
	for _, field := range casetext.FindingFields(f) {
		rows = append(rows, [2]string{strings.ToLower(field.Name), field.Value})
	}
	for _, row := range rows {
		if strings.TrimSpace(row[1]) == "" {
			continue
		}
		fmt.Fprintf(w, "%s\t%s\n", row[0], oneLine(row[1]))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(out)
	for _, s := range casetext.Steps(k) {
		fmt.Fprintln(out, "-", oneLine(s))
	}
	fmt.Fprintln(out, "\nms since the start:")
	start := casetext.Start(k)
	for _, m := range v.Timeline {
		fmt.Fprintf(out, "%10.1f  %-11s %s\n", float64(m.At.Sub(start).Microseconds())/1000, m.Stage, oneLine(m.Text))
	}
	fmt.Fprintln(out, "\ncommands:")
	for _, c := range k.Decided.Facts.Commands {
		fmt.Fprintf(out, "# %s\n%s\n", oneLine(c.Title), oneLine(c.Text))
	}
	return nil
}
