package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/contraband-dev/contraband/internal/bundle"
)

func packageCommand() *cobra.Command {
	var source, out string
	cmd := &cobra.Command{
		Use:   "package",
		Short: "Make the zip of the functions that Terraform deploys",
		Long: `Makes the zip that Cloud Functions builds: the functions, their dependencies
vendored, nothing fetched when it is built. The same sources make the same bytes,
so that Terraform deploys only what has changed.

Needs the go command and the project's sources. Prints the file, its size and its
SHA-256.

  contraband package --out contraband-functions.zip
  terraform apply -var package=contraband-functions.zip`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := os.CreateTemp(filepath.Dir(out), ".contraband-*.zip")
			if err != nil {
				return err
			}
			defer os.Remove(f.Name()) // gone once it has its name
			made, err := bundle.Make(cmd.Context(), source, f)
			if err == nil {
				err = f.Chmod(0o644)
			}
			if closed := f.Close(); err == nil {
				err = closed
			}
			if err == nil {
				err = os.Rename(f.Name(), out)
			}
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %d files, %.1f MB, SHA-256 %s\n", out, made.Files, float64(made.Bytes)/1e6, made.SHA256)
			return nil
		},
	}
	cmd.Flags().StringVar(&source, "source", ".", "the project's sources")
	cmd.Flags().StringVar(&out, "out", "contraband-functions.zip", "the zip to write")
	return cmd
}
