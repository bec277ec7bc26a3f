package respond

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/cases/caselog"
	"github.com/contraband-dev/contraband/internal/incidents"
	"github.com/contraband-dev/contraband/internal/incidents/incidentlog"
)

// overLimit reports whether more incidents are paged in this window than the limit
// allows, and counts this one. When the store fails there is no limit.
func (t *telling) overLimit(ctx context.Context) bool {
	if t.PagesPerWindow == 0 || t.known == nil || t.known.Decided.Verdict.Level == cases.Malicious {
		return false
	}
	if t.Policy.DigestEvery(t.known.Decided.Finding, t.known.Decided.Verdict) > 0 {
		return false // what is a line of the digest uses up no page
	}
	slot := caselog.Slot(t.Now())
	if !t.known.Decided.Finding.ReportedBy.Trusted() {
		slot += "-other" // a flood of theirs moves no page of a trusted source into a digest
	}
	before := 0
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		before, err = t.Log.PagesIn(ctx, slot, t.log.ID)
		return err
	})
	g.Go(func() error { return t.Log.CountPage(ctx, slot, t.log.ID) })
	if err := g.Wait(); err != nil {
		slog.ErrorContext(ctx, "count pages", "incident", t.log.ID, "error", err)
		return false
	}
	limit := t.PagesPerWindow
	if t.known.Decided.Verdict.Level == cases.Suspicious {
		limit *= 2 // lesser verdicts leave it a share
	}
	return before >= limit
}

// mayQueue reports whether an incident can wait for a digest: nothing malicious, and
// nothing that waits for a person.
func (t *telling) mayQueue(i incidents.Incident) bool {
	for _, c := range i.Cases {
		if c.Asking() || c.Decided.Verdict.Level == cases.Malicious {
			return false
		}
	}
	return i.Paged == nil
}

// digestEvery returns how often the digest is sent in which the policy has an incident; 0:
// it is paged. What is contained is paged.
func (t *telling) digestEvery(i incidents.Incident) time.Duration {
	every := time.Duration(0)
	for _, c := range i.Open() {
		d := c.Decided
		if c.Expected() != "" || !d.Decision.Includes(cases.Page) {
			continue
		}
		contains := slices.ContainsFunc(cases.InOrder(d.Decision.Do), func(a string) bool { return a != cases.Evidence })
		if every = t.Policy.DigestEvery(d.Finding, d.Verdict); every == 0 || contains {
			return 0
		}
	}
	return every
}

// queuedNotices returns what an incident is due that waits for a digest, or was in one: it
// is paged as soon as it may no longer wait, and a round of it ends after the digest.
func (t *telling) queuedNotices(i incidents.Incident) []notice {
	waits := t.mayQueue(i)
	if i.Queued.ByPolicy && waits {
		waits = t.digestEvery(i) > 0 && !t.bringsPage()
	}
	switch {
	case i.Resolved():
		if !t.Now().Before(i.Queued.Until.Add(digestGrace)) {
			return []notice{{"resolve", resolve}}
		}
	case !waits && i.Level() != "":
		return []notice{{"page", postNow}}
	}
	return nil
}

// bringsPage reports whether this invocation brings a finding that the policy wants paged,
// although it may have joined a case that can wait.
func (t *telling) bringsPage() bool {
	d := t.learnt
	return d != nil && d.Expected == "" && d.Decision.Includes(cases.Page) && t.Policy.DigestEvery(d.Finding, d.Verdict) == 0
}

// digestGrace is for how long after its time a digest may still be on its way.
const digestGrace = 2 * time.Minute

// queueMargin keeps an incident out of a digest that may be on its way while the incident
// is added to it.
const queueMargin = 15 * time.Second

// queue leaves an incident to a digest: that which the policy has it in, or where every is
// 0 that of this window.
func (t *telling) queue(ctx context.Context, i incidents.Incident, every time.Duration) error {
	at := t.Now().Add(queueMargin)
	b := cases.Queued{Level: i.Level()}
	if every > 0 {
		b.ByPolicy, b.Programs = true, len(i.Programs())
		b.Digest, b.Until = caselog.DigestAt(at, every)
	} else {
		slot := caselog.Slot(at)
		b.Digest, b.Until = caselog.DigestPrefix+strings.ToLower(slot), caselog.SlotEnd(slot)
	}
	if err := t.Log.AddMember(ctx, b.Digest, i.ID); err != nil {
		return err
	}
	if err := t.Log.WakeAt(ctx, b.Digest, b.Until.Add(time.Second)); err != nil {
		return err
	}
	if b.ByPolicy { // for what comes after the digest
		if err := t.Log.WakeAt(ctx, i.ID, b.Until.Add(digestGrace+time.Second)); err != nil {
			return err
		}
	}
	_, err := t.log.Append(ctx, cases.KindQueued, b)
	return err
}

// sendDigest notifies people, once, of the incidents that waited for a digest.
func (r *Responder) sendDigest(ctx context.Context, id string) error {
	log, err := r.Log.Read(ctx, id, r.LeaseOwner())
	if err != nil {
		return err
	}
	if log.LeasedByOther() {
		return ErrBusy
	}
	for _, e := range log.Events() {
		if e.Kind == cases.KindPaged {
			return nil // it was sent
		}
	}
	all, err := r.digestMembers(ctx, id)
	if err != nil || len(all) == 0 {
		return err
	}
	if _, err := log.Append(ctx, "taken", nil); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, cases.StepDeadline)
	defer cancel()
	p, err := r.Notifier.PostDigest(ctx, id, all, len(log.Events()) > 1)
	if err != nil {
		again := r.Log.WakeAt(context.WithoutCancel(ctx), id, r.Now().Add(shortestPause))
		return errors.Join(err, again, release(context.WithoutCancel(ctx), log))
	}
	if _, err := log.Append(ctx, cases.KindPaged, p); err != nil {
		return err
	}
	return release(ctx, log)
}

// digestMembers reads the incidents that a digest lists: those that were not paged
// since.
func (r *Responder) digestMembers(ctx context.Context, id string) ([]incidents.Incident, error) {
	ids, _, err := r.Log.Members(ctx, id)
	if err != nil {
		return nil, err
	}
	read := make([]incidents.Incident, len(ids))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for n, member := range ids {
		g.Go(func() (err error) {
			read[n], err = incidentlog.Read(ctx, r.Log, member)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var out []incidents.Incident
	for _, i := range read {
		if i.Paged == nil && i.Queued != nil && i.Queued.Digest == id && len(i.Cases) > 0 {
			out = append(out, i)
		}
	}
	slices.SortStableFunc(out, digestOrder)
	return out, nil
}

// digestOrder puts trusted sources first, then the most severe: of many, a digest names
// only the first.
func digestOrder(a, b incidents.Incident) int {
	x, y := a.Lead().Decided.Finding.ReportedBy.Trusted(), b.Lead().Decided.Finding.ReportedBy.Trusted()
	switch {
	case x && !y, x == y && a.Level().WorseThan(b.Level()):
		return -1
	case y && !x, b.Level().WorseThan(a.Level()):
		return 1
	}
	return 0
}
