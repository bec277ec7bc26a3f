package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/contraband-dev/contraband/internal/bundle"
)

func packageCommand() *cobra.Command {
	var source, out string
	cmd := &cobra.Command{
		Use:   "package",
		Short: "Build the zip of the functions that Terraform deploys",
		Long: `Writes the zip from which Cloud Functions are built: the functions with their
dependencies vendored, so that the build downloads nothing. The same sources
produce the same bytes, so that Terraform deploys only what has changed.

Needs the go command and the project's sources. Prints the file name, its size
and its SHA-256.

  contraband package --out contraband-functions.zip
  terraform apply -var package=contraband-functions.zip`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return writePackage(cmd.Context(), cmd.OutOrStdout(), source, out)
		},
	}
	cmd.Flags().StringVar(&source, "source", ".", "`directory` of the project's sources")
	cmd.Flags().StringVar(&out, "out", "contraband-functions.zip", "zip `file` to write")
	return cmd
}

// writePackage writes the zip under a temporary name and renames it when it is complete.
func writePackage(ctx context.Context, stdout io.Writer, source, out string) error {
	f, err := os.CreateTemp(filepath.Dir(out), ".contraband-*.zip")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // has no effect after the rename
	made, err := bundle.Make(ctx, source, f)
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
	_, err = fmt.Fprintf(stdout, "%s: %d files, %.1f MB, SHA-256 %s\n", out, made.Files, float64(made.Bytes)/1e6, made.SHA256)
	return err
}
