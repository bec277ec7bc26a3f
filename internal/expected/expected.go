// Package expected stores what people have declared to be expected: programs of a
// workload that are counted and that no person is paged about, until a date. The policy
// file remains the reviewed place for exceptions: Draft writes its entry.
package expected

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"golang.org/x/sync/errgroup"

	"github.com/contraband-dev/contraband/internal/blobstore"
	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/sensor/allowlist"
)

// Exception is one program that is expected in one workload.
type Exception struct {
	ID       string `json:"id"`
	Workload string `json:"workload"` // finding.IncidentKey
	Name     string `json:"name"`     // of the workload, for people
	// Namespace and WorkloadName are parts of Name, for the draft.
	Namespace    string `json:"namespace,omitempty"`
	WorkloadName string `json:"workloadName,omitempty"`
	// SHA256 of the program, or Path in containers of an image Repository.
	SHA256     string    `json:"sha256,omitempty"`
	Path       string    `json:"path,omitempty"`
	Repository string    `json:"repository,omitempty"`
	Image      string    `json:"image,omitempty"` // digest
	By         string    `json:"by"`
	Reason     string    `json:"reason"`
	Case       string    `json:"case"` // where it was declared
	Created    time.Time `json:"created"`
	Until      time.Time `json:"until"`
	Revoked    string    `json:"-"` // by whom; "": in effect
}

// Bounds of how long an exception lasts.
const (
	DefaultFor = 90 * 24 * time.Hour
	LongestFor = 365 * 24 * time.Hour
)

// maxReason bounds a typed reason, in bytes.
const maxReason = 500

// Of returns the exceptions that a click declares for the programs of a case: by their
// bytes, or by their paths in the image's repository.
func Of(c cases.Case, k cases.Click, now time.Time) []Exception {
	f := c.Decided.Finding
	until := k.Until
	if until.IsZero() {
		until = now.Add(DefaultFor)
	}
	if last := now.Add(LongestFor); until.After(last) {
		until = last
	}
	var out []Exception
	for _, p := range c.Programs {
		e := Exception{Workload: f.IncidentKey(), Name: f.Workload().String(), Namespace: f.Workload().Namespace, WorkloadName: f.Workload().Name, By: k.By, Case: c.ID, Created: now.UTC(), Until: until.UTC(),
			Reason: cmp.Or(strings.ToValidUTF8(k.Reason[:min(len(k.Reason), maxReason)], ""), "closed as expected"), Image: f.Container.Digest}
		repository := finding.Repository(f.Container.Image)
		switch {
		case k.Scope == cases.ScopePath && p.Path != "" && repository != "":
			e.Path, e.Repository = p.Path, repository
		case p.SHA256 != "":
			e.SHA256, e.Path = p.SHA256, ""
		case p.Path != "" && repository != "": // without a hash the path is all there is
			e.Path, e.Repository = p.Path, repository
		default:
			continue
		}
		sum := sha256.Sum256([]byte(strings.Join([]string{e.Workload, e.SHA256, e.Path, e.Repository, k.ID}, "\x00")))
		e.ID = hex.EncodeToString(sum[:6])
		out = append(out, e)
	}
	return out
}

// Matches reports whether a finding of the workload is expected. A path says nothing of
// the bytes: where they are known to be bad, it does not count.
func (e Exception) Matches(f finding.Finding, v cases.Verdict, now time.Time) bool {
	if e.Revoked != "" || now.After(e.Until) || e.Workload != f.IncidentKey() {
		return false
	}
	if e.SHA256 != "" {
		return e.SHA256 == f.Process.SHA256
	}
	bad := v.Level == cases.Malicious || v.Level == cases.Suspicious
	return !bad && e.Path == f.Process.Path && e.Repository == finding.Repository(f.Container.Image)
}

// Scope returns what is expected, in words.
func (e Exception) Scope() string {
	if e.SHA256 != "" {
		return "SHA-256 " + e.SHA256 + " in " + e.Name
	}
	return e.Path + " in images of " + e.Repository + " in " + e.Name
}

// Draft returns the entry for the policy file and the sensor's exceptions, to be reviewed:
// a list with one item.
func (e Exception) Draft() (string, error) {
	entry := allowlist.Exception{SHA256: e.SHA256, Path: e.Path, Image: e.Repository, Owner: e.By, Reason: e.Reason, Until: e.Until.Format(time.DateOnly)}
	entry.Namespace, entry.Workload = e.Namespace, e.WorkloadName
	out, err := yaml.Marshal([]allowlist.Exception{entry})
	return string(out), err
}

// Declarations are written by Respond, revocations by the casebook, which may create
// nothing but clicks.
const (
	prefix        = "findings/expected/"
	prefixRevoked = "clicks/expected-"
)

// Record stores the exceptions that one click declares in one object; a click that is
// stored already is left as it is.
func Record(ctx context.Context, objects blobstore.Store, clickID string, all []Exception) error {
	if len(all) == 0 {
		return nil
	}
	body, err := json.Marshal(all)
	if err != nil {
		return err
	}
	sum := sha256.Sum256([]byte(clickID))
	return create(ctx, objects, prefix+all[0].Workload+"/"+hex.EncodeToString(sum[:8])+".json", body)
}

// Revoke ends an exception permanently.
func Revoke(ctx context.Context, objects blobstore.Store, e Exception, by string) error {
	return create(ctx, objects, prefixRevoked+e.Workload+"/"+e.ID+".revoked", []byte(by))
}

func create(ctx context.Context, objects blobstore.Store, key string, body []byte) error {
	if err := objects.Create(ctx, key, body); err != nil && !errors.Is(err, blobstore.ErrExists) {
		return err
	}
	return nil
}

// Read returns the exceptions of a workload, revoked and expired ones included; of all
// workloads where it is "".
func Read(ctx context.Context, objects blobstore.Store, workload string) ([]Exception, error) {
	keys, err := list(ctx, objects, workload)
	if err != nil || len(keys) == 0 {
		return nil, err
	}
	bodies := make([][]byte, len(keys))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for i, key := range keys {
		g.Go(func() (err error) {
			bodies[i], err = objects.Read(ctx, key)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return decode(keys, bodies)
}

// list returns the keys of the declarations and of the revocations.
func list(ctx context.Context, objects blobstore.Store, workload string) ([]string, error) {
	under := []string{prefix, prefixRevoked}
	if workload != "" {
		under = []string{prefix + workload + "/", prefixRevoked + workload + "/"}
	}
	keys := make([][]string, len(under))
	g, ctx := errgroup.WithContext(ctx)
	for i, p := range under {
		g.Go(func() (err error) {
			keys[i], err = objects.List(ctx, p)
			return err
		})
	}
	err := g.Wait()
	return slices.Concat(keys...), err
}

func decode(keys []string, bodies [][]byte) (out []Exception, err error) {
	revoked := map[string]string{}
	for i, key := range keys {
		if id, ok := strings.CutSuffix(path.Base(key), ".revoked"); ok {
			revoked[id] = cmp.Or(string(bodies[i]), "unknown")
			continue
		}
		var declared []Exception
		if err := json.Unmarshal(bodies[i], &declared); err != nil {
			return nil, fmt.Errorf("exceptions %q: %w", key, err)
		}
		out = append(out, declared...)
	}
	for i := range out {
		out[i].Revoked = revoked[out[i].ID]
	}
	slices.SortFunc(out, func(a, b Exception) int { return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID)) })
	return out, nil
}
