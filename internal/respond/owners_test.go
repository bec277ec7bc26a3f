package respond_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/enrich"
	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/internal/owner"
)

// A source of owners that is slow holds up no page; whom it names is added by an edit.
func TestLateOwnersAreAddedByAnEdit(t *testing.T) {
	w := newWorld(t, memory(t))
	w.yaml = pageOnly
	r := w.process()
	asked, quick := 0, owner.Finder{Deadline: 30 * time.Millisecond, Sources: []owner.Source{slowOwners{}}}
	r.Facts = enrich.Enricher{Fallback: "#security", Owners: quick.Owners}
	r.LateOwners = func(ctx context.Context, f finding.Finding) cases.OwnersFound {
		asked++
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) { // the page leaves meanwhile
			messages, err := w.slack.Messages()
			if err == nil && len(messages) == 1 {
				break
			}
			if time.Now().After(deadline) {
				t.Errorf("the page waits for the owners: %d messages, %v", len(messages), err)
				break
			}
		}
		return quick.LateOwners(ctx, f)
	}
	for n := range 3 {
		f := ran(0, n, unknownSum(n), time.Now())
		deliver(t, r, 1, f)
	}
	c := w.incident().Lead()
	if asked != 1 || len(c.Decided.Facts.Owners) != 1 || c.Decided.Facts.OwnersLate || len(c.Decided.Facts.Missing) > 1 {
		t.Errorf("asked %d times; %+v", asked, c.Decided.Facts)
	}
	messages, err := w.slack.Messages()
	if err != nil || len(messages) != 1 || messages[0].Edits == 0 || !strings.Contains(string(messages[0].Blocks), "team-web") {
		t.Errorf("the page does not name the owner: %+v, %v", messages, err)
	}
}

// slowOwners replies when half of a short deadline has passed twice.
type slowOwners struct{}

func (slowOwners) Name() string { return "slow labels" }

func (slowOwners) Owners(ctx context.Context, _ finding.Finding) ([]cases.OwnerContact, error) {
	select {
	case <-time.After(200 * time.Millisecond):
		return []cases.OwnerContact{{Name: "team-web", Source: "label team of namespace shop"}}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
