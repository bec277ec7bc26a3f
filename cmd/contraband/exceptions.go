package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/contraband-dev/contraband/internal/expected"
	"github.com/contraband-dev/contraband/internal/local"
)

func exceptionsCommand() *cobra.Command {
	var casebook string
	cmd := &cobra.Command{
		Use:   "exceptions",
		Short: "List, revoke or draft declared exceptions",
		Long: `Lists the exceptions that people have declared by closing a case as expected,
newest first. They are read from the running "contraband up", or from the
casebook that --casebook names. "contraband policy FILE" prints those of the
policy file.`,
		Example: `  contraband exceptions
  contraband exceptions revoke 0123456789ab
  contraband exceptions draft --policy policy.yaml 0123456789ab | patch -p1`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := casebookOf(casebook)
			if err != nil {
				return err
			}
			all, err := c.Exceptions(cmd.Context())
			if err != nil {
				return err
			}
			if len(all) == 0 {
				_, err := fmt.Fprintln(cmd.OutOrStdout(), "no exceptions: closing a case as expected declares one")
				return err
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "ID\tSTATE\tUNTIL\tCASES\tBY\tEXPECTED\tREASON")
			for _, e := range all {
				fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\t%s\n", e.ID, oneLine(e.State), e.Until.Format(time.DateOnly), e.Cases, oneLine(e.By), oneLine(e.Scope), oneLine(e.Reason))
			}
			return w.Flush()
		},
	}
	cmd.PersistentFlags().StringVar(&casebook, "casebook", "", casebookFlag)
	cmd.AddCommand(&cobra.Command{
		Use:   "revoke ID",
		Short: "End an exception: the next finding that it matched is paged again",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := casebookOf(casebook)
			if err == nil {
				err = c.Revoke(cmd.Context(), args[0])
			}
			if errors.Is(err, local.ErrNotFound) {
				return fmt.Errorf("there is no exception %q: `contraband exceptions` lists them", args[0])
			}
			return err
		},
	}, draftCommand(&casebook))
	return cmd
}

func draftCommand(casebook *string) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "draft ID",
		Short: "Print the policy file entry, or a diff with --policy",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := casebookOf(*casebook)
			if err != nil {
				return err
			}
			all, err := c.Exceptions(cmd.Context())
			if err != nil {
				return err
			}
			for _, e := range all {
				if e.ID != args[0] {
					continue
				}
				out := "exceptions:\n" + e.Draft
				if file != "" {
					body, err := os.ReadFile(file)
					if err != nil {
						return err
					}
					out = expected.Diff(filepath.ToSlash(file), string(body), e.Draft)
				}
				_, err := fmt.Fprint(cmd.OutOrStdout(), out)
				return err
			}
			return fmt.Errorf("there is no exception %q: `contraband exceptions` lists them", args[0])
		},
	}
	cmd.Flags().StringVar(&file, "policy", "", "policy file to which the entry is to be added")
	return cmd
}
