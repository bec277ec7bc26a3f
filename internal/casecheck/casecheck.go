// Package casecheck verifies a case store: that every log can be read and adds up, that
// what refers to a case finds it, that no open case is without a wake. It can add what is
// derived and is missing; it changes nothing else.
package casecheck

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
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/contraband-dev/contraband/internal/blobstore"
	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/cases/caselog"
	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/internal/incidents"
)

// Problem is one thing that is wrong.
type Problem struct {
	ID   string `json:"id"` // of the case or incident; of others the key
	What string `json:"what"`
	// Then is what follows from it, and what can be done.
	Then string `json:"then"`
	// Repaired: what was missing was added.
	Repaired bool `json:"repaired,omitempty"`
}

// Report is what a check found.
type Report struct {
	Cases     int       `json:"cases"` // logs that were read
	Incidents int       `json:"incidents"`
	Findings  int       `json:"findings"`
	Evidence  int       `json:"evidence"`
	Problems  []Problem `json:"problems"`
}

// Options of a check.
type Options struct {
	Repair   bool // adds wakes that are missing
	Evidence bool // reads the evidence, and compares it with its hash
	// Progress is called after each log; nil: never.
	Progress func(done, all int)
}

// checker collects problems; it is safe for concurrent use.
type checker struct {
	log     *caselog.Store
	options Options
	mu      sync.Mutex
	report  Report
}

// atOnce bounds how many logs are read side by side.
const atOnce = 16

// Check verifies a store.
func Check(ctx context.Context, store blobstore.Store, options Options) (Report, error) {
	c := &checker{log: &caselog.Store{Objects: store, Lease: cases.Lease}, options: options}
	wakes, err := c.wakes(ctx)
	if err != nil {
		return Report{}, err
	}
	ids, err := c.logs(ctx)
	if err != nil {
		return Report{}, err
	}
	if err := c.checkLogs(ctx, ids, wakes); err != nil {
		return Report{}, err
	}
	if err := c.checkFindings(ctx, ids); err != nil {
		return Report{}, err
	}
	if options.Evidence {
		if err := c.checkEvidence(ctx); err != nil {
			return Report{}, err
		}
	}
	slices.SortFunc(c.report.Problems, func(a, b Problem) int { return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.What, b.What)) })
	return c.report, nil
}

func (c *checker) found(p Problem) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.report.Problems = append(c.report.Problems, p)
}

// wakes returns what is to be looked at, by ID.
func (c *checker) wakes(ctx context.Context) (map[string]bool, error) {
	due, ahead, err := c.log.Due(ctx)
	out := map[string]bool{}
	for _, w := range slices.Concat(due, ahead) {
		out[w.Case] = true
	}
	return out, err
}

// logs returns the IDs of all logs, also of those whose first event is missing.
func (c *checker) logs(ctx context.Context) (map[string]bool, error) {
	keys, err := c.log.Objects.List(ctx, "events/")
	ids := map[string]bool{}
	for _, key := range keys {
		ids[path.Base(path.Dir(key))] = true
	}
	return ids, err
}

func (c *checker) checkLogs(ctx context.Context, ids, wakes map[string]bool) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	done := 0
	for id := range ids {
		g.Go(func() error {
			err := c.checkLog(ctx, id, wakes)
			c.mu.Lock()
			defer c.mu.Unlock()
			if done++; c.options.Progress != nil {
				c.options.Progress(done, len(ids))
			}
			return err
		})
	}
	return g.Wait()
}

func (c *checker) checkLog(ctx context.Context, id string, wakes map[string]bool) error {
	events, damage, err := c.log.Readable(ctx, id)
	if err != nil {
		return err
	}
	switch {
	case caselog.IsIncident(id):
		c.count(&c.report.Incidents)
		_, err = incidents.Fold(id, first(events))
		c.damaged(id, errors.Join(damage, err), "people are notified anew by the log that takes its place ("+caselog.NextEpisode(id)+")")
	case caselog.IsDigest(id):
		c.damaged(id, damage, "the digest may be sent twice")
	default:
		c.count(&c.report.Cases)
		k, err := cases.Fold(id, first(events))
		c.damaged(id, errors.Join(damage, err), "its next finding opens "+caselog.NextEpisode(id)+"; what it contains is not released by itself: the page shows what can be read")
		if damage == nil && err == nil {
			c.checkSnapshots(id, events)
			return c.checkWake(ctx, k, wakes)
		}
	}
	return nil
}

func (c *checker) count(n *int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	*n++
}

// first returns the events without snapshots, so that they are added up from the first on.
func first(events []caselog.Event) []caselog.Event {
	out := slices.Clone(events)
	for i := range out {
		out[i].Snapshot = nil
	}
	return out
}

func (c *checker) damaged(id string, damage error, then string) {
	if damage != nil {
		c.found(Problem{ID: id, What: strings.ReplaceAll(damage.Error(), "\n", "; "), Then: then})
	}
}

// checkSnapshots compares each snapshot with what the events before it add up to.
func (c *checker) checkSnapshots(id string, events []caselog.Event) {
	whole, err := sum(id, first(events))
	for i, e := range events {
		if e.Snapshot == nil {
			continue
		}
		short, err2 := sum(id, events[i:])
		switch {
		case errors.Join(err, err2) != nil:
			c.found(Problem{ID: id, What: fmt.Sprintf("the snapshot of event %d: %v", e.N, errors.Join(err, err2)), Then: "the case cannot be worked on"})
		case whole != short:
			c.found(Problem{ID: id, What: fmt.Sprintf("the snapshot of event %d differs from the events before it", e.N), Then: "the case is worked on by the snapshot; its page shows the events"})
		}
	}
}

// sum returns what events add up to, as JSON.
func sum(id string, events []caselog.Event) (string, error) {
	c, err := cases.Fold(id, events)
	if err != nil {
		return "", err
	}
	raw, err := json.Marshal(c)
	return string(raw), err
}

// checkWake expects that somebody will look at a case that waits for a time.
func (c *checker) checkWake(ctx context.Context, k cases.Case, wakes map[string]bool) error {
	if k.Closed != nil || wakes[k.ID] || k.Incident != "" && wakes[k.Incident] {
		return nil
	}
	held := k.Pending() || k.InForce(cases.Freeze) || k.InForce(cases.Isolate)
	retried := k.Escalated != nil && !k.Escalated.RetryAt.IsZero()
	if !held && !retried && len(k.RecheckTimes()) == 0 {
		return nil
	}
	p := Problem{ID: k.ID, What: "it is " + k.Status() + ", and nobody will look at it: it has no wake", Then: "run the check with --repair, which adds one"}
	if c.options.Repair {
		if err := c.log.WakeAt(ctx, k.ID, c.log.Clock()); err != nil {
			return err
		}
		p.Repaired, p.Then = true, "a wake was added: the next sweep looks at it"
	}
	c.found(p)
	return nil
}

// checkFindings expects each finding that was assigned to a case to be on record there.
func (c *checker) checkFindings(ctx context.Context, ids map[string]bool) error {
	keys, err := c.log.Objects.List(ctx, "occurrences/")
	if err != nil {
		return err
	}
	recorded := map[string]bool{}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for _, key := range keys {
		id := path.Base(path.Dir(key))
		recorded[id] = true
		if caselog.IsIncident(id) {
			continue
		}
		c.report.Findings++
		g.Go(func() error { return c.checkOccurrence(gctx, id, key) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for id := range recorded {
		if !ids[id] && !caselog.IsIncident(id) {
			c.found(Problem{ID: id, What: "it has findings and no event", Then: "its finding's delivery opens it; if there is none any more: contraband replay with the notification"})
		}
	}
	return nil
}

func (c *checker) checkOccurrence(ctx context.Context, id, key string) error {
	body, err := c.log.Objects.Read(ctx, key)
	if err != nil {
		return err
	}
	var f finding.Finding
	if err := json.Unmarshal(body, &f); err != nil {
		c.found(Problem{ID: id, What: fmt.Sprintf("%q: %v", key, err), Then: "this finding is not counted"})
	}
	return nil
}

// checkEvidence compares evidence with the hash that is its name.
func (c *checker) checkEvidence(ctx context.Context) error {
	keys, err := c.log.Objects.List(ctx, "evidence/")
	if err != nil {
		return err
	}
	c.report.Evidence = len(keys)
	for _, key := range keys {
		body, err := c.log.Objects.Read(ctx, key)
		if err != nil {
			return err
		}
		if sum := sha256.Sum256(body); hex.EncodeToString(sum[:]) != path.Base(key) {
			c.found(Problem{ID: key, What: "its bytes do not have the hash of its name", Then: "it proves nothing"})
		}
	}
	return nil
}
