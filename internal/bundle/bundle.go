// Package bundle makes the zip that Cloud Functions builds: the module's packages that
// the functions need, their vendored dependencies, and at the root a file for each
// program in functions/main, selected by a build tag. The same sources make the same bytes.
//
// Google's Go buildpack requires one package at the root, not named main, whose files
// import the functions framework themselves, and funcframework among the vendored packages.
package bundle

import (
	"archive/zip"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// programs is the directory of the programs. Each has one file, which is copied to the
// root of the zip. Code that a program does not link takes no memory when it starts.
const programs = "functions/main"

// all is the program that is built without a tag: it serves every function, so that a
// build without GOFLAGS only takes more memory.
const all = "all"

// tagPrefix and a program's name are the build tag that selects the program.
const tagPrefix = "contraband_"

// lean are build tags of dependencies. They leave out storage's gRPC transport, which is
// not used, and gRPC's trace pages: half of what a program would otherwise link.
const lean = "disable_grpc_modules,grpcnotrace"

// Flags returns the GOFLAGS with which a function is built, by the name under which it is
// registered.
func Flags(function string) string {
	return "-tags=" + tagPrefix + strings.ToLower(function) + "," + lean
}

// copyPrograms copies the programs of the module in dir to the root of the tree, each with
// the build constraint that selects it.
func copyPrograms(dir, tree string) error {
	entries, err := os.ReadDir(filepath.Join(dir, programs))
	if err != nil {
		return err
	}
	var others []string
	for _, e := range entries {
		if e.Name() != all {
			others = append(others, "!"+tagPrefix+e.Name())
		}
	}
	for _, e := range entries {
		constraint := tagPrefix + e.Name()
		if e.Name() == all {
			constraint = strings.Join(others, " && ")
		}
		body, err := os.ReadFile(filepath.Join(dir, programs, e.Name(), "main.go"))
		if err != nil {
			return err
		}
		body = append([]byte("//go:build "+constraint+"\n\n"), body...)
		if err := write(filepath.Join(tree, e.Name()+".go"), body); err != nil {
			return err
		}
	}
	return nil
}

const module = "github.com/contraband-dev/contraband"

// Bundle describes a zip.
type Bundle struct {
	SHA256 string // of the zip, lower-case hex
	Bytes  int64
	Files  int
}

// Make writes the zip of the module in dir. It runs the go command, which may fetch
// modules that are not in its cache.
func Make(ctx context.Context, dir string, out io.Writer) (Bundle, error) {
	tree, err := os.MkdirTemp("", "contraband-bundle-")
	if err != nil {
		return Bundle{}, err
	}
	defer os.RemoveAll(tree)
	if err := assemble(ctx, dir, tree); err != nil {
		return Bundle{}, err
	}
	sum := sha256.New()
	counted := &counter{}
	n, err := pack(tree, io.MultiWriter(out, sum, counted))
	return Bundle{hex.EncodeToString(sum.Sum(nil)), counted.n, n}, err
}

// assemble writes the files of the zip to the directory tree.
func assemble(ctx context.Context, dir, tree string) error {
	files, err := sources(ctx, dir)
	if err != nil {
		return err
	}
	for _, name := range append(files, "go.mod", "go.sum", "LICENSE") {
		body, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil {
			err = write(filepath.Join(tree, name), body)
		}
		if err != nil {
			return fmt.Errorf("package %q: %w", name, err)
		}
	}
	if err := copyPrograms(dir, tree); err != nil {
		return err
	}
	// Tools are not deployed.
	drop, err := toolsOf(ctx, tree)
	if err != nil {
		return err
	}
	if len(drop) > 0 {
		if _, err := goCommand(ctx, tree, append([]string{"mod", "edit"}, drop...)...); err != nil {
			return err
		}
	}
	_, err = goCommand(ctx, tree, "mod", "vendor")
	return err
}

// sources returns the files of the module that the functions are built from, relative to
// dir. The programs are not among them: they are copied to the root.
func sources(ctx context.Context, dir string) ([]string, error) {
	out, err := goCommand(ctx, dir, "list", "-deps", "-json=Dir,GoFiles,EmbedFiles,Module", "./"+programs+"/...")
	if err != nil {
		return nil, err
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	var files []string
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct {
			Dir                 string
			GoFiles, EmbedFiles []string
			Module              *struct{ Path string }
		}
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("read go list: %w", err)
		}
		if p.Module == nil || p.Module.Path != module {
			continue
		}
		rel, err := filepath.Rel(dir, p.Dir)
		if err != nil {
			return nil, err
		}
		if path.Dir(filepath.ToSlash(rel)) == programs {
			continue
		}
		for _, name := range slices.Concat(p.GoFiles, p.EmbedFiles) {
			files = append(files, filepath.Join(rel, name))
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%q is not the module %s", dir, module)
	}
	return files, nil
}

// toolsOf returns the flags that drop the module's tools.
func toolsOf(ctx context.Context, tree string) ([]string, error) {
	out, err := goCommand(ctx, tree, "mod", "edit", "-json")
	if err != nil {
		return nil, err
	}
	var m struct{ Tool []struct{ Path string } }
	if err := json.Unmarshal(out, &m); err != nil {
		return nil, fmt.Errorf("read go.mod: %w", err)
	}
	var flags []string
	for _, t := range m.Tool {
		flags = append(flags, "-droptool="+t.Path)
	}
	return flags, nil
}

// goCommand runs the go command for the platform that functions run on.
func goCommand(ctx context.Context, dir string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH=amd64", "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		said := cmp.Or(strings.TrimSpace(stderr.String()), err.Error())
		return nil, fmt.Errorf("go %s: %s", strings.Join(args, " "), said)
	}
	return stdout.Bytes(), nil
}

func write(name string, body []byte) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	return os.WriteFile(name, body, 0o644)
}

// epoch is the time of every file: the earliest that a zip can represent.
var epoch = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)

// pack zips a tree, by name, with fixed times and modes.
func pack(tree string, out io.Writer) (n int, err error) {
	z := zip.NewWriter(out)
	err = filepath.WalkDir(tree, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(tree, name)
		if err != nil {
			return err
		}
		h := &zip.FileHeader{Name: filepath.ToSlash(rel), Method: zip.Deflate, Modified: epoch}
		h.SetMode(0o644)
		w, err := z.CreateHeader(h)
		if err != nil {
			return err
		}
		body, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		n++
		_, err = w.Write(body)
		return err
	})
	return n, errors.Join(err, z.Close())
}

type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) { c.n += int64(len(p)); return len(p), nil }
