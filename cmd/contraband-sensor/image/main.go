// Command image builds the sensor's container image, for amd64 and arm64, from
// nothing but the binary: no base image, no shell, no package manager. The same
// sources give the same digests.
//
//	image [--out DIR]      an OCI layout; push it with crane or skopeo
package main

import (
	"archive/tar"
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

func main() {
	out := flag.String("out", "bin/sensor-image", "directory of the OCI layout; it must not exist")
	flag.Parse()
	if err := build(*out); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func build(out string) error {
	if _, err := os.Stat(out); err == nil {
		return fmt.Errorf("%q exists: remove it first", out)
	}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, arch := range []string{"amd64", "arm64"} {
		program, err := compile(arch)
		if err != nil {
			return err
		}
		img, err := imageOf(program, arch)
		if err != nil {
			return fmt.Errorf("image for %s: %w", arch, err)
		}
		digest, err := img.Digest()
		if err != nil {
			return err
		}
		fmt.Printf("%s  linux/%s  %.1f MB\n", digest, arch, float64(len(program))/1e6)
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
	}
	digest, err := index.Digest()
	if err != nil {
		return err
	}
	if _, err := layout.Write(out, index); err != nil {
		return fmt.Errorf("write %q: %w", out, err)
	}
	fmt.Printf("%s  %s\n", digest, out)
	return nil
}

func compile(arch string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "contraband-image-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "contraband-sensor")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w -buildid=", "-o", file, "github.com/contraband-dev/contraband/cmd/contraband-sensor")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch, "GOFLAGS=-buildvcs=false")
	if output, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build for %s: %w\n%s", arch, err, output)
	}
	return os.ReadFile(file)
}

func imageOf(program []byte, arch string) (v1.Image, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	header := tar.Header{Typeflag: tar.TypeReg, Name: "contraband-sensor", Mode: 0o555, Size: int64(len(program))}
	if err := w.WriteHeader(&header); err != nil {
		return nil, err
	}
	if _, err := w.Write(program); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil }, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	img, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1), layer)
	if err != nil {
		return nil, err
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = "linux", arch
	file.Config = v1.Config{Entrypoint: []string{"/contraband-sensor"}, Labels: map[string]string{"org.opencontainers.image.licenses": "Apache-2.0", "org.opencontainers.image.title": "contraband-sensor"}}
	return mutate.ConfigFile(img, file)
}
