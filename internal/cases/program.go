package cases

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/contraband-dev/contraband/internal/finding"
)

// Program is one program that a case's container ran.
type Program struct {
	Path     string    `json:"path,omitempty"`
	SHA256   string    `json:"sha256,omitempty"`
	Route    string    `json:"route,omitempty"` // how it came to be there: added, volume, memory, ...
	Verdict  Verdict   `json:"verdict"`
	Count    int       `json:"count"` // findings
	First    time.Time `json:"first,omitzero"`
	Last     time.Time `json:"last,omitzero"`
	Findings []string  `json:"findings,omitempty"` // canonical names, bounded
	// Expected names the exception that the program matches; "": none.
	Expected string `json:"expected,omitempty"`
}

// ProgramOf returns the program that one finding is about.
func ProgramOf(f finding.Finding, v Verdict) Program {
	p := Program{Path: f.Process.Path, SHA256: f.Process.SHA256, Verdict: v, Count: 1, First: f.EventTime, Last: f.EventTime}
	if f.CanonicalName != "" {
		p.Findings = []string{f.CanonicalName}
	}
	if f.Sensor != nil {
		p.Route = f.Sensor.Route
	}
	return p
}

// Key identifies a program within its case: by its bytes, else by its path.
func (p Program) Key() string { return cmp.Or(p.SHA256, p.Path) }

// Bounds of what a case keeps of its programs.
const (
	maxPrograms        = 200
	maxProgramFindings = 8
	maxEvidence        = 5 // programs whose bytes are saved
)

// Program returns the program of a key.
func (c Case) Program(key string) (Program, bool) {
	i := c.programIndex(key)
	if i < 0 {
		return Program{}, false
	}
	return c.Programs[i], true
}

func (c Case) programIndex(key string) int {
	return slices.IndexFunc(c.Programs, func(p Program) bool { return p.Key() == key })
}

// addPrograms adds what findings about programs brought.
func (c *Case) addPrograms(programs []Program) {
	if len(programs) == 0 {
		return
	}
	at := make(map[string]int, len(c.Programs)+len(programs))
	for i, p := range c.Programs {
		at[p.Key()] = i
	}
	for _, p := range programs {
		if i, ok := at[p.Key()]; ok {
			c.Programs[i] = merged(c.Programs[i], p)
			continue
		}
		at[p.Key()] = len(c.Programs)
		c.Programs = append(c.Programs, p)
	}
	c.sortPrograms()
	if n := len(c.Programs); n > maxPrograms {
		c.Programs, c.MorePrograms = c.Programs[:maxPrograms], c.MorePrograms+n-maxPrograms
	}
}

// updateVerdict replaces the verdict of a program; its counts stay.
func (c *Case) updateVerdict(p Program) {
	if i := c.programIndex(p.Key()); i >= 0 {
		c.Programs = slices.Clone(c.Programs)
		c.Programs[i].Verdict = p.Verdict
		c.sortPrograms()
	}
}

// sortPrograms orders the most severe first, then the earliest.
func (c *Case) sortPrograms() {
	slices.SortStableFunc(c.Programs, func(a, b Program) int {
		return cmp.Or(severityRank[b.Verdict.Level]-severityRank[a.Verdict.Level], a.First.Compare(b.First))
	})
}

func merged(old, p Program) Program {
	old.Count += p.Count
	if p.First.Before(old.First) && !p.First.IsZero() {
		old.First = p.First
	}
	if p.Last.After(old.Last) {
		old.Last = p.Last
	}
	known := p.Verdict.Level != "" && p.Verdict.Level != NotLookedUp
	if known && !old.Verdict.Level.WorseThan(p.Verdict.Level) {
		old.Verdict = p.Verdict
	}
	if p.Expected == "" { // a program is expected as long as every run of it is
		old.Expected = ""
	}
	for _, name := range p.Findings {
		if len(old.Findings) < maxProgramFindings && !slices.Contains(old.Findings, name) {
			old.Findings = append(slices.Clip(old.Findings), name)
		}
	}
	return old
}

// FindingNames returns the canonical names of the findings of a case with an incident,
// as far as they are kept.
func (c Case) FindingNames() (out []string) {
	for _, p := range c.Programs {
		out = append(out, p.Findings...)
	}
	return out
}

// EvidenceTargets returns the SHA-256 of the programs whose bytes are to be saved: that
// of the decision first, then the others, the most severe first; bounded.
func (c Case) EvidenceTargets() []string {
	out := []string{c.Decided.Finding.Process.SHA256}
	for _, p := range c.Programs {
		if len(out) >= maxEvidence {
			break
		}
		if p.SHA256 != "" && p.Expected == "" && !slices.Contains(out, p.SHA256) {
			out = append(out, p.SHA256)
		}
	}
	return out
}

// shortKey is as much of a finding key as a case keeps.
const shortKey = 16

// HandledKey returns how Joined.Keys names a finding of a case with an incident.
func HandledKey(slot, findingKey string) string {
	if slot == "" {
		return findingKey
	}
	return slot + "-" + findingKey[:min(len(findingKey), shortKey)]
}

func splitHandled(k string) (slot, key string, ok bool) { return strings.Cut(k, "-") }

func (c *Case) handle(findingKey, slot string) {
	if slot == "" {
		c.Handled[findingKey] = true
		return
	}
	c.seen[findingKey[:min(len(findingKey), shortKey)]] = slot
}

// HandledFinding reports whether an event covers a finding.
func (c Case) HandledFinding(slot, findingKey string) bool {
	if c.Handled[findingKey] {
		return true
	}
	_, seen := c.seen[findingKey[:min(len(findingKey), shortKey)]]
	return seen || slot != "" && slot < c.through
}

// HandledThrough returns the slot before which every occurrence has been handled.
func (c Case) HandledThrough() string { return c.through }

// Expected returns the exception under which every program of the case is expected; ""
// when one is not.
func (c Case) Expected() string {
	name := ""
	for _, p := range c.Programs {
		if p.Expected == "" {
			return ""
		}
		name = p.Expected
	}
	return name
}
