// Package incidentlog reads incidents and their cases from the store of logs.
package incidentlog

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/cases/caselog"
	"github.com/contraband-dev/contraband/internal/incidents"
)

// maxCases bounds how many cases of an incident are read.
const maxCases = 50

// Read reads an incident and its cases.
func Read(ctx context.Context, log *caselog.Store, id string) (incidents.Incident, error) {
	file, err := log.Read(ctx, id, "reader")
	if err != nil {
		return incidents.Incident{}, err
	}
	i, err := incidents.Fold(file.ID, file.Events())
	if err != nil {
		return i, err
	}
	all, more, err := Members(ctx, log, i)
	return i.With(all, more), err
}

// Members reads the cases of an incident side by side.
func Members(ctx context.Context, log *caselog.Store, i incidents.Incident) (all []cases.Case, more int, err error) {
	ids, sightings, err := log.Members(ctx, i.ID)
	if err != nil {
		return nil, 0, err
	}
	if !slices.Contains(ids, i.FirstCase) && i.FirstCase != "" {
		ids = append([]string{i.FirstCase}, ids...)
	}
	more = max(0, len(ids)-maxCases)
	ids = ids[:len(ids)-more]
	read := make([]cases.Case, len(ids))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for n, id := range ids {
		g.Go(func() error {
			file, err := log.Read(ctx, id, "incident")
			if errors.Is(err, caselog.ErrUnreadable) { // it must not hide the others
				slog.ErrorContext(ctx, "unreadable case", "case", id, "error", err)
				return nil
			}
			if err != nil {
				return err
			}
			c, err := withSightings(file, sightings)
			if errors.Is(err, caselog.ErrUnreadable) {
				slog.ErrorContext(ctx, "unreadable case", "case", id, "error", err)
				return nil
			}
			read[n] = c
			return err
		})
	}
	err = g.Wait()
	return slices.DeleteFunc(read, func(c cases.Case) bool { return c.Opened.IsZero() }), more, err
}

// withSightings folds a case together with decisions that its log does not have yet.
func withSightings(file *caselog.Log, sightings []caselog.Entry) (cases.Case, error) {
	events := file.Events()
	c, err := cases.Fold(file.ID, events)
	if err != nil || len(events) == 0 {
		return c, err
	}
	for _, entry := range sightings {
		var s incidents.Sighting
		if err := json.Unmarshal(entry.Body, &s); err != nil { // it must not hide the others
			slog.Error("unreadable sighting of an incident", "case", c.ID, "sighting", entry.Name, "error", err)
			continue
		}
		if s.Case == c.ID && s.Decided.Verdict.Level.WorseThan(c.Decided.Verdict.Level) && c.Closed == nil {
			last := events[len(events)-1]
			at := s.Decided.Received // not that of the last event: each event would ask for an approval anew
			if at.IsZero() {
				at = last.At
			}
			if decided := c.DecidedAt().Add(2 * time.Millisecond); at.Before(decided) { // messages show times in milliseconds
				at = decided
			}
			if c, err = WithDecided(c, last.N+1, s.Decided, at); err != nil {
				return c, err
			}
			c.Updated = last.At
		}
	}
	return c, nil
}

// WithDecided returns the case as it is after one more decision, which would be event n.
func WithDecided(c cases.Case, n int, d cases.Decided, at time.Time) (cases.Case, error) {
	body, err := json.Marshal(d)
	if err != nil {
		return cases.Case{}, err
	}
	return c.With(caselog.Event{N: n, Kind: cases.KindDecided, At: at.UTC(), Body: body})
}

// Case reads a case from its first event on, together with the events of its incident that
// say who was notified: what people see of a case. Its events are in order of time. Of a log
// that is damaged they see what can be read, and what is wrong (Case.Damaged).
func Case(ctx context.Context, log *caselog.Store, id string) (cases.Case, []caselog.Event, error) {
	events, damage, err := log.Readable(ctx, id)
	if err != nil {
		return cases.Case{ID: id}, nil, err
	}
	events, undecodable := decodable(events)
	known := events[afterGap(events):]
	c, err := cases.Fold(id, known)
	damage = errors.Join(damage, undecodable, err)
	if c.Incident != "" {
		notices, hidden, err := readNotices(ctx, log, c.Incident)
		if err != nil {
			return c, events, err
		}
		c, err = cases.Fold(id, withNotices(slices.Clone(known), notices))
		damage = errors.Join(damage, hidden, err)
		events = withNotices(events, notices)
	}
	if damage != nil {
		c.Damaged = damage.Error()
	}
	return c, events, nil
}

// readNotices reads the log of an incident, or the one that takes the place of a damaged one.
func readNotices(ctx context.Context, log *caselog.Store, id string) (events []caselog.Event, damage, err error) {
	events, damage, err = log.Readable(ctx, id)
	if err != nil || damage == nil {
		return events, nil, err
	}
	told, err := log.Read(ctx, id, "reader")
	if err != nil {
		return events, damage, err
	}
	return log.Readable(ctx, told.ID)
}

// decodable returns the events that can be decoded, and what is wrong with the others.
func decodable(events []caselog.Event) (out []caselog.Event, damage error) {
	var wrong []error
	for _, e := range events {
		if _, err := cases.Decode(e); err != nil {
			wrong = append(wrong, err)
			continue
		}
		out = append(out, e)
	}
	return out, errors.Join(wrong...)
}

// afterGap returns the index of the event from which on the log is added up: of one that
// lacks events that of the last snapshot behind them, which knows what they said.
func afterGap(events []caselog.Event) (from int) {
	for i, e := range events {
		if e.Snapshot != nil && e.N > i {
			from = i
		}
	}
	return from
}

// withNotices inserts the incident's notices at their times. The case's own events keep
// their order, whatever the clocks of those who wrote them.
func withNotices(events, told []caselog.Event) []caselog.Event {
	for _, e := range told {
		if e.Kind != cases.KindPaged && e.Kind != cases.KindReminded && e.Kind != cases.KindQueued {
			continue
		}
		e.Snapshot = nil // it is of the incident
		at := len(events)
		for at > 1 && events[at-1].At.After(e.At) {
			at--
		}
		events = slices.Insert(events, at, e)
	}
	return events
}
