// Package allowlist defines exceptions: programs that may run although they are not of
// their container's image, each with an owner, a reason and a last day. The policy file
// and the sensor's file have the same entries. The sensor reads them so that what is
// expected never leaves the node; Respond, so that no person is paged.
package allowlist

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/bmatcuk/doublestar/v4"
	"go.yaml.in/yaml/v3"
)

// Exception lets a program run. Every condition that is given must match.
type Exception struct {
	// SHA256 of the program. It or Path is required.
	SHA256 string `yaml:"sha256,omitempty"`
	// Path is a glob of the program's path as the container sees it: * matches within one
	// directory, ** any number of directories. In a ConfigMap or Secret volume it is the
	// path of the key, without the hidden directory that Kubernetes keeps it in.
	Path string `yaml:"path,omitempty"`
	// Image is a repository (ghcr.io/acme/app), a repository with a glob of the tag
	// (ghcr.io/acme/app:1.*), or a digest (ghcr.io/acme/app@sha256:..., sha256:...).
	Image string `yaml:"image,omitempty"`
	// Namespace of the pod; a glob.
	Namespace string `yaml:"namespace,omitempty"`
	// Workload is the name of the Deployment, CronJob, Compose service, ...; a glob.
	Workload string `yaml:"workload,omitempty"`
	// Labels that the pod, or a container without one, must have.
	Labels map[string]string `yaml:"labels,omitempty"`
	// Parent is a glob of the path of the program that started it.
	Parent string `yaml:"parent,omitempty"`
	// Owner is whom to ask, Reason is why. Required.
	Owner  string `yaml:"owner"`
	Reason string `yaml:"reason"`
	// Until is the last day (YYYY-MM-DD, UTC). Required: every exception ends.
	Until string `yaml:"until"`

	end time.Time
}

// List is tried in order.
type List []Exception

// Program is a program that ran, and where.
type Program struct {
	SHA256    string
	Path      string // "" or relative: not known
	Image     string // reference as the runtime has it
	Digest    string // of the image in its repository, sha256:...; never the ID of a local image
	Namespace string
	Workload  string
	Labels    map[string]string
	Parent    string // path
}

var (
	digestForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
	sumForm    = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// Load reads the exceptions of a file: of one whose only key is "exceptions", or of a
// policy file, whose other keys are not looked at. Any other key is an error.
func Load(file string) (List, error) {
	body, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read exceptions: %w", err)
	}
	var f struct {
		Exceptions    List      `yaml:"exceptions"`
		Rules         yaml.Node `yaml:"rules"`
		Routes        yaml.Node `yaml:"routes"`
		EscalateAfter yaml.Node `yaml:"escalate_after"`
		Digest        yaml.Node `yaml:"digest"`
		Guards        yaml.Node `yaml:"guards"`
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
			errs = append(errs, fmt.Errorf("exception %d: %w", i+1, err))
		}
	}
	return errors.Join(errs...)
}

func (e *Exception) check() (err error) {
	somewhere := cmp.Or(e.Image, e.Namespace, e.Workload) != "" || len(e.Labels) > 0
	switch {
	case e.SHA256 == "" && e.Path == "":
		return errors.New("sha256 or path is required")
	case e.SHA256 != "" && !sumForm.MatchString(e.SHA256):
		return fmt.Errorf("sha256 %q is not 64 lower-case hexadecimal digits", e.SHA256)
	case e.SHA256 == "" && !somewhere:
		return errors.New("a path alone matches in every container: add image, namespace, workload or labels")
	case e.Owner == "" || e.Reason == "":
		return errors.New("owner and reason are required")
	}
	for _, glob := range []struct{ key, value string }{{"path", e.Path}, {"parent", e.Parent}} {
		if glob.value != "" && !strings.HasPrefix(glob.value, "/") {
			return fmt.Errorf("%s %q is not absolute", glob.key, glob.value)
		}
	}
	_, tag, digest := splitImage(e.Image)
	for _, glob := range []string{e.Path, e.Parent, e.Namespace, e.Workload, tag} {
		if !doublestar.ValidatePattern(glob) {
			return fmt.Errorf("invalid glob %q", glob)
		}
	}
	if digest != "" && !digestForm.MatchString(digest) {
		return fmt.Errorf("invalid image digest %q", digest)
	}
	if e.end, err = time.Parse(time.DateOnly, e.Until); err != nil {
		return fmt.Errorf("invalid last day %q: until must be YYYY-MM-DD", e.Until)
	}
	e.end = e.end.AddDate(0, 0, 1)
	return nil
}

// splitImage splits an image reference; what it does not have is "".
func splitImage(image string) (repository, tag, digest string) {
	if strings.HasPrefix(image, "sha256:") {
		return "", "", image
	}
	repository, digest, _ = strings.Cut(image, "@")
	if colon := strings.LastIndexByte(repository, ':'); colon > strings.LastIndexByte(repository, '/') {
		repository, tag = repository[:colon], repository[colon+1:]
	}
	return repository, tag, digest
}

// Find returns the first exception that matches a program at a time, or nil.
func (l List) Find(p Program, now time.Time) *Exception {
	for i := range l {
		if l[i].Mismatch(p, now) == "" {
			return &l[i]
		}
	}
	return nil
}

// Expired returns the exceptions that no longer count at a time.
func (l List) Expired(now time.Time) (out List) {
	return slices.DeleteFunc(slices.Clone(l), func(e Exception) bool { return now.Before(e.end) })
}

// FindExpired returns the first exception that would match a program had it not expired,
// or nil.
func (l List) FindExpired(p Program, now time.Time) *Exception {
	expired := l.Expired(now)
	for i := range expired {
		if expired[i].mismatch(p) == "" {
			return &expired[i]
		}
	}
	return nil
}

// Mismatch returns why an exception does not match a program at a time; "": it does.
func (e Exception) Mismatch(p Program, now time.Time) string {
	if why := e.mismatch(p); why != "" {
		return why
	}
	if !now.Before(e.end) {
		return "expired: its last day was " + e.Until
	}
	return ""
}

// mismatch is Mismatch whatever the time.
func (e Exception) mismatch(p Program) string {
	if e.SHA256 != "" && e.SHA256 != p.SHA256 {
		return differs("SHA-256", p.SHA256, e.SHA256)
	}
	if e.Path != "" && !matchesPath(e.Path, p.Path) {
		return differs("path", p.Path, e.Path)
	}
	if why := e.imageMismatch(p); why != "" {
		return why
	}
	if e.Namespace != "" && !matches(e.Namespace, p.Namespace) {
		return differs("namespace", p.Namespace, e.Namespace)
	}
	if e.Workload != "" && !matches(e.Workload, p.Workload) {
		return differs("workload", p.Workload, e.Workload)
	}
	for key, want := range e.Labels {
		if got, ok := p.Labels[key]; !ok || got != want {
			return differs("label "+key, got, want)
		}
	}
	if e.Parent != "" && !matchesPath(e.Parent, p.Parent) {
		return differs("parent", p.Parent, e.Parent)
	}
	return ""
}

func (e Exception) imageMismatch(p Program) string {
	if e.Image == "" {
		return ""
	}
	repository, tag, digest := splitImage(e.Image)
	hasRepository, hasTag, hasDigest := splitImage(p.Image)
	if strings.HasPrefix(p.Image, "sha256:") { // the ID of a local image, which any user can build
		hasDigest = ""
	}
	hasDigest = cmp.Or(p.Digest, hasDigest)
	switch {
	case repository != "" && repository != hasRepository:
		return differs("image repository", hasRepository, repository)
	case tag != "" && !matches(tag, hasTag):
		return differs("image tag", hasTag, tag)
	case digest != "" && digest != hasDigest:
		return differs("image digest", hasDigest, digest)
	}
	return ""
}

func differs(what, got, want string) string {
	if got == "" {
		return fmt.Sprintf("%s is not known, want %q", what, want)
	}
	return fmt.Sprintf("%s is %q, want %q", what, got, want)
}

// matches reports whether a name matches a glob.
func matches(glob, name string) bool {
	ok, err := doublestar.Match(glob, name)
	return err == nil && ok && name != ""
}

// atomicDir is a directory in which Kubernetes keeps one version of the keys of a
// ConfigMap or Secret volume; "..data" links to it.
var atomicDir = regexp.MustCompile(`/\.\.(data|\d{4}_\d{2}_\d{2}_\d{2}_\d{2}_\d{2}\.\d+)(/|$)`)

// matchesPath reports whether an absolute path without ".." matches a glob, directly or by
// the name under which a ConfigMap or Secret volume shows it.
func matchesPath(glob, at string) bool {
	if !path.IsAbs(at) || path.Clean(at) != at {
		return false
	}
	return matches(glob, at) || matches(glob, atomicDir.ReplaceAllString(at, "$2"))
}
