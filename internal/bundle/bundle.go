// Package bundle makes the zip that Cloud Functions builds: the module's packages that
// the functions need, their dependencies vendored, and a root package that registers
// the functions, in five sizes. The same sources make the same bytes.
//
// What Google's Go buildpack wants of it: one package at the root, whose files import
// the functions framework themselves, and funcframework among what is vendored.
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

// A program is a root package of the zip: which of them is built, a build tag says. What
// a program does not link takes no memory when it starts.
type program struct {
	tag       string
	functions []string // those that are served of it
	packages  []string // whose functions it registers
}

const framework = "github.com/GoogleCloudPlatform/functions-framework-go/"

var programs = []program{
	{"contraband_front", []string{"Interact", "Sweep"}, []string{"functions/front"}},
	{"contraband_book", []string{"Casebook"}, []string{"functions/book"}},
	{"contraband_raise", []string{"Raise"}, []string{"functions/raise"}},
	{"contraband_act", []string{"Contain"}, []string{"functions/act"}},
	{"contraband_respond", []string{"Respond", "Advance"}, []string{"functions"}},
}

// whole is built where no tag says which: it serves every function, and a build that
// knows nothing of tags loses nothing but memory.
func whole() program {
	var p program
	var not []string
	for _, part := range programs {
		p.packages = append(p.packages, part.packages...)
		not = append(not, "!"+part.tag)
	}
	p.tag = strings.Join(not, " && ")
	return p
}

// lean are tags of our dependencies: storage's gRPC transport, which is not used, and
// gRPC's own trace pages are left out. They are half of what a program would hold.
const lean = "disable_grpc_modules,grpcnotrace"

// Flags is the GOFLAGS with which a function's program is built.
func Flags(function string) string {
	for _, p := range programs {
		if slices.Contains(p.functions, function) {
			return "-tags=" + p.tag + "," + lean
		}
	}
	return "-tags=" + lean
}

// source of the root package: FUNCTION_TARGET says which of the registered functions is
// served.
func (p program) source() []byte {
	var imports, calls strings.Builder
	for _, name := range p.packages {
		fmt.Fprintf(&imports, "\t%q\n", module+"/"+name)
		fmt.Fprintf(&calls, "\t%s.Register()\n", path.Base(name))
	}
	return fmt.Appendf(nil, `//go:build %s

// Package function is what is deployed.
package function

import (
	_ "%sfuncframework"
	_ "%[2]sfunctions"

%[3]s)

func init() {
%[4]s}
`, p.tag, framework, imports.String(), calls.String())
}

const module = "github.com/contraband-dev/contraband"

// Made is what was made.
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

// assemble makes the tree that is packed.
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
	for _, p := range append(slices.Clone(programs), whole()) {
		name, ok := strings.CutPrefix(p.tag, "contraband_")
		if !ok {
			name = "function"
		}
		if err := write(filepath.Join(tree, name+".go"), p.source()); err != nil {
			return err
		}
	}
	// What only builds need is not deployed.
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

// sources are the files of the module that the functions are built of, relative to dir.
func sources(ctx context.Context, dir string) ([]string, error) {
	out, err := goCommand(ctx, dir, "list", "-deps", "-json=Dir,GoFiles,EmbedFiles,Module", "./functions/...")
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
		for _, name := range slices.Concat(p.GoFiles, p.EmbedFiles) {
			files = append(files, filepath.Join(rel, name))
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%q is not the module %s", dir, module)
	}
	return files, nil
}

// toolsOf answers the flags that drop the module's tools.
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

// epoch is the time of every file: the first that a zip can say.
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
