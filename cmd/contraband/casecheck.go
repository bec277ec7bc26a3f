package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/contraband-dev/contraband/internal/blobstore"
	"github.com/contraband-dev/contraband/internal/casecheck"
)

func caseCheckCommand() *cobra.Command {
	var store string
	var options casecheck.Options
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Verify a case store, and say what follows from what is wrong",
		Long: `Reads a whole case store and reports logs that cannot be read or do not add up,
findings without a case, and open cases that nobody will look at. Nothing is
changed but with --repair, which adds wakes that are missing. It may run while
cases are worked on: what is just being written can then look incomplete; run
it again.

The store is that of "contraband up", or one that --store names: a bucket is
read with your own credentials (roles/storage.objectViewer). Exit status 1 when
something is wrong and was not repaired.`,
		Example: `  contraband case check
  contraband case check --store gs://shop-cases,gs://shop-cases-work`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if store == "" {
				dir := filepath.Join(stateDir(), "cases")
				if _, err := os.Stat(dir); err != nil {
					return fmt.Errorf("there is no case store of `contraband up` (%w): give --store", err)
				}
				store = "dir://" + dir
			}
			objects, err := blobstore.Open(cmd.Context(), store)
			if err != nil {
				return err
			}
			defer objects.Close()
			options.Progress = func(done, all int) {
				if done%1000 == 0 {
					fmt.Fprintf(cmd.ErrOrStderr(), "%d of %d logs\n", done, all)
				}
			}
			report, err := casecheck.Check(cmd.Context(), objects, options)
			if err != nil {
				return err
			}
			return printReport(cmd.OutOrStdout(), report, asJSON)
		},
	}
	cmd.Flags().StringVar(&store, "store", "", "`address`: dir:///PATH, or gs://BUCKET,gs://BUCKET-work")
	cmd.Flags().BoolVar(&options.Repair, "repair", false, "add wakes that are missing")
	cmd.Flags().BoolVar(&options.Evidence, "evidence", false, "also read the evidence and compare it with its hashes")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

var errStore = errors.New("the case store has problems")

func printReport(out io.Writer, r casecheck.Report, asJSON bool) error {
	left := 0
	for _, p := range r.Problems {
		if !p.Repaired {
			left++
		}
	}
	if asJSON {
		if err := json.NewEncoder(out).Encode(r); err != nil {
			return err
		}
	} else if err := writeReport(out, r); err != nil {
		return err
	}
	if left > 0 {
		return fmt.Errorf("%w: %d", errStore, left)
	}
	return nil
}

func writeReport(out io.Writer, r casecheck.Report) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, p := range r.Problems {
		fmt.Fprintf(w, "%s\t%s\n\t-> %s\n", oneLine(p.ID), oneLine(p.What), oneLine(p.Then))
	}
	fmt.Fprintf(w, "%d cases, %d incidents, %d findings, %d pieces of evidence read: %d problems\n", r.Cases, r.Incidents, r.Findings, r.Evidence, len(r.Problems))
	return w.Flush()
}
