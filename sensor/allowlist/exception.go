// Package exception owns the allowlist as reviewed code: which programs may run
// that are not of their image, each with an owner, a reason and an end. The
// sensor reads it so that what is expected never leaves the node.
package allowlist

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"regexp"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Exception lets one program run in containers of one image.
type Exception struct {
	// Image is a digest (sha256:...) or ends in one (registry/app@sha256:...):
	// a tag could be moved. Required.
	Image string `yaml:"image"`
	// SHA256 of the program, or Path as the container sees it, in which * stands
	// for anything but a slash. One of them is required; both must then fit.
	SHA256 string `yaml:"sha256,omitempty"`
	Path   string `yaml:"path,omitempty"`
	// Owner is whom to ask, Reason is why. Required.
	Owner  string `yaml:"owner"`
	Reason string `yaml:"reason"`
	// Until is the last day (YYYY-MM-DD, UTC). Required: nothing is for ever.
	Until string `yaml:"until"`

	end time.Time
}

// List is tried in order.
type List []Exception

var (
	digestForm = regexp.MustCompile(`(?:^|@)(sha256:[0-9a-f]{64})$`)
	sumForm    = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// Load reads the list of a file whose only key is "exceptions".
func Load(file string) (List, error) {
	body, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read exceptions: %w", err)
	}
	var f struct {
		Exceptions List `yaml:"exceptions"`
	}
	d := yaml.NewDecoder(bytes.NewReader(body))
	d.KnownFields(true)
	if err := d.Decode(&f); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read exceptions of %q: %w", file, err)
	}
	if err := f.Exceptions.Check(); err != nil {
		return nil, fmt.Errorf("exceptions of %q: %w", file, err)
	}
	return f.Exceptions, nil
}

// Check validates every entry and makes the list ready for Find.
func (l List) Check() error {
	var errs []error
	for i := range l {
		if err := l[i].check(); err != nil {
			errs = append(errs, fmt.Errorf("entry %d: %w", i+1, err))
		}
	}
	return errors.Join(errs...)
}

func (e *Exception) check() (err error) {
	switch {
	case !digestForm.MatchString(e.Image):
		return fmt.Errorf("image %q is no digest: a tag can be moved, give NAME@sha256:...", e.Image)
	case e.SHA256 == "" && e.Path == "":
		return errors.New("neither sha256 nor path is given")
	case e.SHA256 != "" && !sumForm.MatchString(e.SHA256):
		return fmt.Errorf("sha256 %q is not 64 hexadecimal digits", e.SHA256)
	case e.Path != "" && !strings.HasPrefix(e.Path, "/"):
		return fmt.Errorf("path %q is not absolute", e.Path)
	case e.Owner == "" || e.Reason == "":
		return errors.New("owner and reason are required")
	}
	if _, err := path.Match(e.Path, "/"); err != nil {
		return fmt.Errorf("path %q: %w", e.Path, err)
	}
	if e.end, err = time.Parse(time.DateOnly, e.Until); err != nil {
		return fmt.Errorf("until %q is no day (YYYY-MM-DD)", e.Until)
	}
	e.end = e.end.AddDate(0, 0, 1)
	return nil
}

// Find answers the exception that lets a program run, or nil. A path is looked
// at after the kernel's own word for it, and as it is: ".." in it fits nothing.
func (l List) Find(digest, sha256, at string, now time.Time) *Exception {
	for i := range l {
		e := &l[i]
		if !now.Before(e.end) || digest == "" || !strings.HasSuffix(e.Image, digest) {
			continue
		}
		if e.SHA256 != "" && e.SHA256 != sha256 {
			continue
		}
		if fits, err := path.Match(e.Path, at); e.Path != "" && (err != nil || !fits || path.Clean(at) != at) {
			continue
		}
		return e
	}
	return nil
}
