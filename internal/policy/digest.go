package policy

import (
	"time"

	"cel.dev/cel-go/cel"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/finding"
)

// Digest says which incidents are a line of a regular digest instead of a page. One that
// is malicious, waits for an approval or is contained is paged whatever it says.
type Digest struct {
	// When is a CEL expression like a rule's. Required where Every is given.
	When string `yaml:"when"`
	// Every is how often the digest is sent. Default 1h.
	Every time.Duration `yaml:"every"`

	program cel.Program
}

// Bounds of Digest.Every. Digests are sent at multiples of it since midnight UTC.
const (
	minDigest     = 10 * time.Minute
	maxDigest     = 24 * time.Hour
	defaultDigest = time.Hour
)

func (d *Digest) compile(k *checker, at place) {
	if *d == (Digest{}) {
		return
	}
	if d.Every == 0 {
		d.Every = defaultDigest
	}
	if d.Every < minDigest || d.Every > maxDigest || (24*time.Hour)%d.Every != 0 {
		k.wrong(at.key("every"), "every: %s is not between %s and %s, or no whole part of a day", d.Every, minDigest, maxDigest)
	}
	if d.When == "" {
		k.wrong(at, "when: missing (to put every page into the digest write true)")
		return
	}
	d.program = k.condition(d.When, at.key("when"))
}

// DigestEvery returns how often the digest is sent that a finding belongs to; 0: it is
// paged. A condition that cannot be evaluated pages: notifying fails open.
func (p *Policy) DigestEvery(f finding.Finding, v cases.Verdict) time.Duration {
	if p.Digest.program == nil {
		return 0
	}
	if result, _, err := p.Digest.program.Eval(variables(f, v)); err != nil || result.Value() != true {
		return 0
	}
	return p.Digest.Every
}
