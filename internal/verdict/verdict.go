// Package verdict owns what indicator sources say about a SHA-256: a local
// list, VirusTotal where a key is given. It looks hashes up and never uploads
// anything.
package verdict

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/contraband-dev/contraband/internal/canary"
	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/internal/sensorapi"
)

// ErrUnknown means that a source does not know a hash.
var ErrUnknown = errors.New("hash is not known")

// Source is one indicator source.
type Source interface {
	Name() string
	// Lookup returns a verdict's Level, Label and Link, or ErrUnknown.
	Lookup(ctx context.Context, sha256 string) (cases.Verdict, error)
}

// Lookup asks all sources side by side and returns the worst verdict.
type Lookup struct{ Sources []Source }

// Finding returns the verdict about the program of a finding: the worst of what the
// sources and the detector say. It never fails as a whole: a source that fails is named in
// Why, and when every source fails the level is not-looked-up, never unknown.
func (j Lookup) Finding(ctx context.Context, f finding.Finding) cases.Verdict {
	found := j.lookUp(ctx, f)
	if said := detectorVerdict(f); said.Level.WorseThan(found.Level) {
		said.Link, said.Why, said.At = found.Link, found.Why, found.At
		return said
	}
	return found
}

// detectorVerdict returns what the detector itself says about the subject of its finding.
// That of a source that is not trusted makes nothing malicious: anybody can write one.
func detectorVerdict(f finding.Finding) cases.Verdict {
	switch {
	case !f.Type().Malicious:
		return cases.Verdict{}
	case !f.ReportedBy.Trusted():
		return cases.Verdict{Level: cases.Suspicious, Label: "called malicious by a source that is not trusted", Source: f.ReporterName()}
	}
	return cases.Verdict{Level: cases.Malicious, Label: "recognised by the detector", Source: f.ReporterName()}
}

// lookUp returns the worst of what the sources say about the hash.
func (j Lookup) lookUp(ctx context.Context, f finding.Finding) cases.Verdict {
	now := time.Now().UTC()
	if f.Process.SHA256 == "" {
		return cases.Verdict{Level: cases.NotLookedUp, Why: whyNoHash(f), At: now}
	}
	found := make([]cases.Verdict, len(j.Sources))
	errs := make([]error, len(j.Sources))
	var wg sync.WaitGroup
	for i, s := range j.Sources {
		wg.Go(func() { found[i], errs[i] = s.Lookup(ctx, f.Process.SHA256) })
	}
	wg.Wait()
	best := cases.Verdict{Level: cases.NotLookedUp, Why: "no indicator source is configured"}
	var troubles []string
	for i, s := range j.Sources {
		v := found[i]
		switch {
		case errors.Is(errs[i], ErrUnknown):
			v = cases.Verdict{Level: cases.Unknown}
		case errs[i] != nil:
			troubles = append(troubles, fmt.Sprintf("%s: %v", s.Name(), errs[i]))
			continue
		}
		if v.Source = s.Name(); v.Level.WorseThan(best.Level) {
			best = v
		}
	}
	if len(troubles) > 0 {
		best.Why = strings.Join(troubles, "; ")
	} else if best.Level != cases.NotLookedUp {
		best.Why = ""
	}
	best.At = now
	return best
}

func whyNoHash(f finding.Finding) string {
	switch {
	case f.Process.Partial != "":
		return "only a part of the file was hashed: a look-up would speak of another file"
	case f.Sensor != nil && f.Sensor.Unhashed != "":
		return "no hash: " + f.Sensor.Unhashed
	}
	return "the finding has no hash"
}

// List is a local indicator list: it needs no key and sends nothing anywhere.
type List struct{ bad map[string]string }

// BuiltIn knows only the canary.
func BuiltIn() List { return List{canary.Known()} }

// ReadList reads a file of lines "<sha256> <label>"; # begins a comment. The
// built-in entries are kept.
func ReadList(path string) (List, error) {
	f, err := os.Open(path)
	if err != nil {
		return List{}, fmt.Errorf("read indicator list: %w", err)
	}
	defer f.Close()
	l := BuiltIn()
	if err := l.add(f); err != nil {
		return List{}, fmt.Errorf("indicator list %q: %w", path, err)
	}
	return l, nil
}

func (l List) add(r io.Reader) error {
	lines := bufio.NewScanner(r)
	for n := 1; lines.Scan(); n++ {
		text, _, _ := strings.Cut(lines.Text(), "#")
		sum, label, _ := strings.Cut(strings.TrimSpace(text), " ")
		if sum == "" {
			continue
		}
		if sum = strings.ToLower(sum); !sensorapi.IsSHA256(sum) {
			return fmt.Errorf("line %d: %q is no SHA-256", n, sum)
		}
		if label = strings.TrimSpace(label); label == "" {
			label = "listed"
		}
		l.bad[sum] = label
	}
	return lines.Err()
}

// Name of the source.
func (List) Name() string { return "local list" }

// Lookup in the list.
func (l List) Lookup(_ context.Context, sum string) (cases.Verdict, error) {
	if label, ok := l.bad[sum]; ok {
		return cases.Verdict{Level: cases.Malicious, Label: label}, nil
	}
	return cases.Verdict{}, ErrUnknown
}
