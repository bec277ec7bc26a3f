// Package bundle makes the zip that Cloud Functions builds: the module's packages that
// the functions need, their dependencies vendored, and a root package that registers
// the functions. The same sources make the same bytes.
//
// What Google's Go buildpack wants of it: one package at the root, which imports the
// functions framework itself, and funcframework among what is vendored.
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
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// root is the package that the buildpack looks for.
const root = `// Package function is what is deployed: every function is registered, and
// FUNCTION_TARGET says which one is served.
package function

import (
	_ "github.com/GoogleCloudPlatform/functions-framework-go/funcframework"
	_ "github.com/GoogleCloudPlatform/functions-framework-go/functions"

	"github.com/contraband-dev/contraband/functions"
)

func init() { functions.RegisterFromEnvironment() }
`

const module = "github.com/contraband-dev/contraband"

// Made is what was made.
type Made struct {
	SHA256 string // of the zip, lower-case hex
	Bytes  int64
	Files  int
}

// Make writes the zip of the module in dir. It runs the go command, which may fetch
// modules that are not in its cache.
func Make(ctx context.Context, dir string, out io.Writer) (Made, error) {
	tree, err := os.MkdirTemp("", "contraband-bundle-")
	if err != nil {
		return Made{}, err
	}
	defer os.RemoveAll(tree)
	if err := assemble(ctx, dir, tree); err != nil {
		return Made{}, err
	}
	sum := sha256.New()
	counted := &counter{}
	n, err := pack(tree, io.MultiWriter(out, sum, counted))
	return Made{hex.EncodeToString(sum.Sum(nil)), counted.n, n}, err
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
	if err := write(filepath.Join(tree, "function.go"), []byte(root)); err != nil {
		return err
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
	out, err := goCommand(ctx, dir, "list", "-deps", "-json=Dir,GoFiles,EmbedFiles,Module", "./functions")
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
