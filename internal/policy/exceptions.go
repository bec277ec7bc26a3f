package policy

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/sensor/allowlist"
)

// Expected returns the exception that a finding matches at a time, or nil. An exception by
// path says nothing of the bytes: where they are known to be bad, it does not count.
func (p *Policy) Expected(f finding.Finding, v cases.Verdict, now time.Time) *allowlist.Exception {
	for i := range p.Exceptions {
		if e := &p.Exceptions[i]; mismatch(*e, f, v, now) == "" {
			return e
		}
	}
	return nil
}

// Expired returns an exception that a finding would match, had it not expired; nil if
// there is none.
func (p *Policy) Expired(f finding.Finding, now time.Time) *allowlist.Exception {
	if f.Kind() != finding.ContainerThreat {
		return nil
	}
	return p.Exceptions.FindExpired(program(f), now)
}

// Explanation says whether one exception matches a finding.
type Explanation struct {
	Exception allowlist.Exception
	Mismatch  string // why it does not; "": it does
}

// Explain returns for each exception whether it matches a finding, in the order of the file.
func (p *Policy) Explain(f finding.Finding, v cases.Verdict, now time.Time) (out []Explanation) {
	for _, e := range p.Exceptions {
		out = append(out, Explanation{e, mismatch(e, f, v, now)})
	}
	return out
}

func mismatch(e allowlist.Exception, f finding.Finding, v cases.Verdict, now time.Time) string {
	if f.Kind() != finding.ContainerThreat {
		return fmt.Sprintf("category %q is not about a program", f.Category)
	}
	bad := v.Level == cases.Malicious || v.Level == cases.Suspicious
	if e.SHA256 == "" && bad {
		return fmt.Sprintf("the verdict is %s: an exception without sha256 does not count", v.Level)
	}
	return e.Mismatch(program(f), now)
}

// program describes the program of a finding to the exceptions.
func program(f finding.Finding) allowlist.Program {
	p := allowlist.Program{SHA256: f.Process.SHA256, Path: f.Process.Path, Image: f.Container.Image, Digest: digestOf(f),
		Namespace: f.Pod.Namespace, Workload: f.Workload().Name, Labels: f.Pod.Labels}
	if len(p.Labels) == 0 {
		p.Labels = f.Container.Labels
	}
	if f.Sensor != nil && len(f.Sensor.Ancestors) > 0 { // "sh (7) /bin/sh"
		if i := strings.Index(f.Sensor.Ancestors[0], ") /"); i >= 0 {
			p.Parent = f.Sensor.Ancestors[0][i+2:]
		}
	}
	return p
}

// digestOf returns the digest of the container's image in its repository. Some detectors
// report it as a reference.
func digestOf(f finding.Finding) string {
	_, digest, _ := strings.Cut(f.Container.Digest, "@")
	return cmp.Or(digest, f.Container.Digest)
}
