// Package owner finds who is responsible for what a finding is about. Each source has
// a deadline of its own, and fails alone. It reads and never writes.
//
// Whoever controls a workload writes its labels and annotations: they can add somebody
// to notify, and never replace the security channel.
package owner

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/internal/notify"
)

// Source names owners. Its error is shown in the case.
type Source interface {
	// Name says what is asked: "annotations of the namespace".
	Name() string
	Owners(ctx context.Context, f finding.Finding) ([]cases.OwnerContact, error)
}

// Finder asks every source at once.
type Finder struct {
	// Sources, in order of trust, the most trusted first.
	Sources []Source
	// Deadline of each source; 0: 2 s.
	Deadline time.Duration
}

// Bounds of what one source can add.
const (
	maxPerSource = 5
	maxName      = 200
)

// Owners returns who the sources name, the most trusted source first, each once, and a
// line for each source that failed. late reports whether one did not reply in time.
func (f Finder) Owners(ctx context.Context, subject finding.Finding) (owners []cases.OwnerContact, missing []string, late bool) {
	deadline := f.Deadline
	if deadline == 0 {
		deadline = 2 * time.Second
	}
	type answer struct {
		owners []cases.OwnerContact
		err    error
	}
	answers := make([]answer, len(f.Sources))
	var wg sync.WaitGroup
	for i, s := range f.Sources {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, deadline)
			defer cancel()
			answers[i].owners, answers[i].err = within(ctx, s, subject)
		})
	}
	wg.Wait()
	for i, a := range answers {
		if a.err != nil {
			late = late || errors.Is(a.err, context.DeadlineExceeded)
			missing = append(missing, cases.OwnerSource+f.Sources[i].Name()+": "+notify.Limit(notify.Plain(a.err.Error()), maxName))
		}
		for _, o := range a.owners[:min(len(a.owners), maxPerSource)] {
			owners = add(owners, o)
		}
	}
	return owners, missing, late
}

// lateDeadline is for sources that are asked again after the page.
const lateDeadline = 20 * time.Second

// LateOwners is Owners with more time.
func (f Finder) LateOwners(ctx context.Context, subject finding.Finding) cases.OwnersFound {
	f.Deadline = lateDeadline
	owners, missing, _ := f.Owners(ctx, subject)
	return cases.OwnersFound{Owners: owners, Missing: missing}
}

// within returns when ctx ends, even if the source does not.
func within(ctx context.Context, s Source, f finding.Finding) ([]cases.OwnerContact, error) {
	type answer struct {
		owners []cases.OwnerContact
		err    error
	}
	done := make(chan answer, 1)
	go func() {
		owners, err := s.Owners(ctx, f)
		done <- answer{owners, err}
	}()
	select {
	case a := <-done:
		return a.owners, a.err
	case <-ctx.Done():
		return nil, fmt.Errorf("no answer in time: %w", ctx.Err())
	}
}

func add(owners []cases.OwnerContact, o cases.OwnerContact) []cases.OwnerContact {
	o.Name = notify.Limit(strings.TrimSpace(notify.Plain(o.Name)), maxName)
	if o.Name == "" || slices.ContainsFunc(owners, func(known cases.OwnerContact) bool { return known.Name == o.Name }) {
		return owners
	}
	return append(owners, o)
}

// FromFinding names the owners and contacts that Security Command Center put into the finding.
type FromFinding struct{}

// Name returns what is asked.
func (FromFinding) Name() string { return "the finding" }

// Owners returns App Hub's owners, then the security and technical contacts, then others.
func (FromFinding) Owners(_ context.Context, f finding.Finding) ([]cases.OwnerContact, error) {
	var out []cases.OwnerContact
	for _, o := range f.Owners {
		out = append(out, cases.OwnerContact{Name: o, Source: "App Hub"})
	}
	rank := map[string]int{"security": 0, "technical": 1}
	contacts := slices.Clone(f.Contacts)
	slices.SortStableFunc(contacts, func(a, b finding.Contact) int { return order(rank, a.Kind) - order(rank, b.Kind) })
	for _, c := range contacts {
		out = append(out, cases.OwnerContact{Name: c.Email, Source: "SCC " + c.Kind + " contact"})
	}
	return out, nil
}

func order(rank map[string]int, kind string) int {
	if n, ok := rank[kind]; ok {
		return n
	}
	return len(rank)
}

// Target returns the channel that an owner is reached on: a Slack channel where a
// workload names one. ok is false where the owner is only shown and mentioned.
func Target(o cases.OwnerContact) (t notify.Target, ok bool) {
	if !o.SlackChannel {
		return t, false
	}
	return notify.Target{Kind: notify.Slack, Name: "#" + strings.TrimPrefix(o.Name, "#"), Why: "owner from " + o.Source}, true
}

// Email returns the first owner that is an e-mail address, or "".
func Email(owners []cases.OwnerContact) string {
	for _, o := range owners {
		if at := strings.IndexByte(o.Name, '@'); at > 0 && strings.Contains(o.Name[at:], ".") && !strings.ContainsAny(o.Name, " <>,;") {
			return o.Name
		}
	}
	return ""
}

// Of returns whom to mention about a case, or "", and the Slack channels that its
// workload adds to the others.
func Of(c cases.Case) (mention string, also []notify.Target) {
	for _, o := range c.Decided.Facts.Owners {
		if t, ok := Target(o); ok {
			also = append(also, t)
		}
	}
	return Email(c.Decided.Facts.Owners), also
}
