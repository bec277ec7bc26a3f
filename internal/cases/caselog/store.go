// Package caselog stores append-only event logs, one for each case and one for each
// incident, and decides who may write next. Nothing is updated in place. It does
// not know what the events mean.
//
// Keys, split by who writes them:
//
//	findings/<finding key>                 assigns a finding to its case, permanently
//	findings/of/<name digest>/<case>       the cases of an SCC finding, by its name
//	findings/pages/<slot>/<incident>       pages of a window of time, which are limited
//	findings/expected/<workload>/...       what people have declared to be expected
//	findings/active/<workload>/<minute>.<episode>  when a workload was last seen
//	events/<id>/<n, 10 digits>.json        the log of a case or an incident: Respond, Advance
//	occurrences/<case>/<slot>-<key>.json   the findings that joined; unordered within a slot
//	occurrences/<incident>/...             the cases of an incident
//	clicks/<id>/<click>.json               what people clicked: Interact, Casebook
//	clicks/expected-<workload>/...         what people have revoked of what was expected
//	evidence/<sha256>                      the bytes that ran, and what they ran in; verified
//	uploads/<order>                        what a node sent, until it is verified
//	budgets/...                            slots that a containment has to win
//	executions/<case>                      the one workflow that drives a case
//	callbacks/<case>/<time>                where that workflow can be resumed; the newest counts
//	people/<week>/<digest of an address>   IDs of people in Slack, to ask it less
//	wakes/<time>/<id>                      derived: what is to be looked at then
package caselog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/contraband-dev/contraband/internal/blobstore"
)

// ErrConflict means that another holder appended first: read again, decide again.
var ErrConflict = errors.New("the log has moved on")

// ErrClosed means that the log accepts no more events.
var ErrClosed = errors.New("the case is closed")

// ErrUnreadable means that an event is stored and cannot be decoded, or is missing.
var ErrUnreadable = errors.New("the log is damaged")

// Closed is the kind of the event after which a case takes no more events.
const Closed = "closed"

// Event is one entry of a log. Holder has the lease until Until; a zero Until
// gives it back.
type Event struct {
	N      int             `json:"n"`
	Kind   string          `json:"kind"`
	At     time.Time       `json:"at"`
	Holder string          `json:"holder"`
	Until  time.Time       `json:"until,omitzero"`
	Body   json.RawMessage `json:"body,omitempty"`
	// Snapshot is what the events before this one add up to; set on every
	// SnapshotEvery-th event, so that reading a log is a constant number of operations.
	Snapshot json.RawMessage `json:"snapshot,omitempty"`
}

// SnapshotEvery is the number of events between two snapshots.
const SnapshotEvery = 32

// Entry is an occurrence or a click: a value under a name of its own.
type Entry struct {
	Name string // the finding key, or the click's ID
	Slot string // of an occurrence
	Body []byte
}

// Store has the logs in a blob store.
type Store struct {
	Objects blobstore.Store // required
	// Lease is how long a holder has a case after its last event. It must be
	// longer than a function may run and shorter than the ack deadline.
	Lease time.Duration // required
	// Alive reports whether a holder whose lease has not ended can still be at
	// work; nil: always. On one machine a process that has the store to itself
	// knows that earlier ones are dead.
	Alive func(holder string) bool
	// Now is the clock; nil: time.Now.
	Now func() time.Time
	// Snapshot folds the events of a log; nil: no snapshots are written.
	Snapshot func(id string, events []Event) (json.RawMessage, error)
}

// Clock returns the time by the store's clock.
func (l *Store) Clock() time.Time {
	if l.Now != nil {
		return l.Now().UTC()
	}
	return time.Now().UTC()
}

// Log is one log as it was read. It is safe for use by the goroutines of one holder.
type Log struct {
	ID         string
	store      *Store
	leaseOwner string
	whole      bool // read from the first event on
	mu         sync.Mutex
	events     []Event // those from the last snapshot that was read on
}

// Events returns the events read and appended so far, from the last snapshot on.
func (f *Log) Events() []Event {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.events)
}

// Assignment is the case that a finding joined, and the time slot of its occurrence.
type Assignment struct {
	Case string
	Slot string // "" for cases of earlier versions
}

// AssignCase assigns a finding to a case, or returns the assignment that it has. fresh
// reports whether this call made it.
func (l *Store) AssignCase(ctx context.Context, findingKey string, to Assignment) (a Assignment, fresh bool, err error) {
	key := "findings/" + findingKey
	err = l.Objects.Create(ctx, key, []byte(strings.TrimSpace(to.Case+" "+to.Slot)))
	if err == nil {
		return to, true, nil
	}
	if !errors.Is(err, blobstore.ErrExists) {
		return a, false, err
	}
	body, err := l.Objects.Read(ctx, key)
	a.Case, a.Slot, _ = strings.Cut(string(body), " ")
	return a, false, err
}

// CaseOf returns the case that a finding joined, or blobstore.ErrNotExist.
func (l *Store) CaseOf(ctx context.Context, findingKey string) (string, error) {
	body, err := l.Objects.Read(ctx, "findings/"+findingKey)
	id, _, _ := strings.Cut(string(body), " ")
	return id, err
}

// LinkName records that an SCC finding of a name is part of a case.
func (l *Store) LinkName(ctx context.Context, nameDigest, caseID string) error {
	return ignoreExists(l.Objects.Create(ctx, "findings/of/"+nameDigest+"/"+caseID, nil))
}

// CasesOfName returns the cases that an SCC finding of a name is part of.
func (l *Store) CasesOfName(ctx context.Context, nameDigest string) ([]string, error) {
	keys, err := l.Objects.List(ctx, "findings/of/"+nameDigest+"/")
	for i := range keys {
		keys[i] = path.Base(keys[i])
	}
	return keys, err
}

func ignoreExists(err error) error {
	if errors.Is(err, blobstore.ErrExists) {
		return nil
	}
	return err
}

// slotForm is the time of a slot in UTC without its last digit: ten minutes. Slots sort by it.
const (
	slotForm   = "20060102T1504"
	slotLength = len(slotForm) - 1
	slotTime   = 10 * time.Minute
)

// Slot returns the time slot of an occurrence that is recorded at a time.
func Slot(at time.Time) string { return at.UTC().Format(slotForm)[:slotLength] }

// DigestAt returns the ID of the digest, sent every so often, that takes what is added to it
// at a time, and when it is sent.
func DigestAt(at time.Time, every time.Duration) (id string, until time.Time) {
	began := at.UTC().Truncate(every) // every divides a day, so this counts from midnight
	return DigestPrefix + began.Format("20060102-1504") + "-" + every.String(), began.Add(every)
}

// SlotEnd returns the end of a slot; zero for one that cannot be parsed.
func SlotEnd(slot string) time.Time {
	at, err := time.Parse(slotForm, slot+"0")
	if err != nil {
		return time.Time{}
	}
	return at.Add(slotTime)
}

func occurrenceKey(a Assignment, findingKey string) string {
	if a.Slot == "" {
		return "occurrences/" + a.Case + "/" + findingKey + ".json"
	}
	return "occurrences/" + a.Case + "/" + a.Slot + "-" + findingKey + ".json"
}

// AddOccurrence records a finding of a case; it reports false when it was recorded before.
func (l *Store) AddOccurrence(ctx context.Context, a Assignment, findingKey string, body []byte) (bool, error) {
	err := l.Objects.Create(ctx, occurrenceKey(a, findingKey), body)
	if errors.Is(err, blobstore.ErrExists) {
		return false, nil
	}
	return err == nil, err
}

// HasOccurrence reports whether a finding was recorded in the slot of its assignment.
func (l *Store) HasOccurrence(ctx context.Context, a Assignment, findingKey string) (bool, error) {
	_, err := l.Objects.Read(ctx, occurrenceKey(a, findingKey))
	if errors.Is(err, blobstore.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Occurrences returns the occurrences of a case in the slots from since on; those for
// which skip reports true are not read. since "": all.
func (l *Store) Occurrences(ctx context.Context, caseID, since string, skip func(slot, key string) bool) ([]Entry, error) {
	keys, err := l.occurrenceKeys(ctx, caseID, since)
	if err != nil {
		return nil, err
	}
	return l.readEntries(ctx, slices.DeleteFunc(keys, func(key string) bool {
		slot, name := splitOccurrence(key)
		return slot < since || skip != nil && skip(slot, name)
	}))
}

// maxSlotLists bounds how many slots are listed one by one.
const maxSlotLists = 5

// occurrenceKeys lists by slot where few are asked for, else the whole case.
func (l *Store) occurrenceKeys(ctx context.Context, caseID, since string) ([]string, error) {
	prefix := "occurrences/" + caseID + "/"
	var slots []string
	last := l.Clock().Add(slotTime) // another instance's clock may be ahead
	for at := SlotEnd(since).Add(-slotTime); since != "" && !at.After(last) && len(slots) <= maxSlotLists; at = at.Add(slotTime) {
		slots = append(slots, Slot(at))
	}
	if len(slots) == 0 || len(slots) > maxSlotLists {
		return l.Objects.List(ctx, prefix)
	}
	lists := make([][]string, len(slots))
	g, ctx := errgroup.WithContext(ctx)
	for i, slot := range slots {
		g.Go(func() (err error) {
			lists[i], err = l.Objects.List(ctx, prefix+slot)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return slices.Concat(lists...), nil
}

// splitOccurrence returns slot and finding key of an occurrence's key.
func splitOccurrence(key string) (slot, findingKey string) {
	name := entryName(key)
	if slot, rest, ok := strings.Cut(name, "-"); ok && len(slot) == slotLength && slot[8] == 'T' {
		return slot, rest
	}
	return "", name
}

// Click records what a person clicked, once by its ID, and wakes the case.
func (l *Store) Click(ctx context.Context, caseID, id string, body []byte) error {
	if err := ignoreExists(l.Objects.Create(ctx, "clicks/"+caseID+"/"+id+".json", body)); err != nil {
		return err
	}
	// A wake of this second may be another click's, and be taken already: who takes one of
	// the next second has started after this click was written.
	return l.WakeAt(ctx, caseID, l.Clock().Add(time.Second))
}

// Clicks returns the clicks of a case but for those whose IDs are in except; of an incident
// also those on messages of the logs that it takes the place of.
func (l *Store) Clicks(ctx context.Context, caseID string, except map[string]bool) ([]Entry, error) {
	var keys []string
	for _, id := range replacedBy(caseID) {
		more, err := l.Objects.List(ctx, "clicks/"+id+"/")
		if err != nil {
			return nil, err
		}
		keys = append(keys, more...)
	}
	return l.readEntries(ctx, slices.DeleteFunc(keys, func(key string) bool { return except[entryName(key)] }))
}

// readEntries reads entries side by side. The name of an occurrence is its finding key.
func (l *Store) readEntries(ctx context.Context, keys []string) ([]Entry, error) {
	out := make([]Entry, len(keys))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for i, key := range keys {
		g.Go(func() error {
			body, err := l.Objects.Read(ctx, key)
			slot, name := splitOccurrence(key)
			out[i] = Entry{Name: name, Slot: slot, Body: body}
			return err
		})
	}
	return out, g.Wait()
}

func entryName(key string) string { return strings.TrimSuffix(path.Base(key), ".json") }

// lookBack bounds how many episodes are read to find one that is open.
const lookBack = 4

// Latest reads the last open episode of a case of an earlier version, by its base ID, that
// matches; matches nil: any. Where there is none it returns a new episode without events.
func (l *Store) Latest(ctx context.Context, base, holder string, matches func(*Log) (bool, error)) (*Log, error) {
	keys, err := l.Objects.List(ctx, "events/"+base) // "<base>/..." and "<base>-2/...": ids are of one length
	if err != nil {
		return nil, err
	}
	episodes := map[int][]string{}
	last := 0
	for _, key := range keys {
		id := path.Base(path.Dir(key))
		n := 1
		if rest, ok := strings.CutPrefix(id, base+"-"); ok {
			if n, err = strconv.Atoi(rest); err != nil {
				continue
			}
		} else if id != base {
			continue
		}
		episodes[n] = append(episodes[n], key)
		last = max(last, n)
	}
	if last == 0 {
		return &Log{ID: base, store: l, leaseOwner: holder}, nil
	}
	for n := last; n > max(0, last-lookBack); n-- {
		f := &Log{ID: episodeID(base, n), store: l, leaseOwner: holder}
		if len(episodes[n]) == 0 {
			continue
		}
		if err := f.load(ctx, episodes[n]); err != nil {
			return nil, err
		}
		if f.IsClosed() {
			continue
		}
		ok := matches == nil
		if !ok {
			var err error
			if ok, err = matches(f); err != nil {
				return nil, err
			}
		}
		if ok {
			return f, nil
		}
	}
	return &Log{ID: episodeID(base, last+1), store: l, leaseOwner: holder}, nil
}

// NextEpisode returns the ID of the case that follows a closed one: <id>-2, <id>-3, ...
func NextEpisode(id string) string {
	if i := strings.LastIndexByte(id, '-'); i > 0 && len(id)-i <= 4 {
		if n, err := strconv.Atoi(id[i+1:]); err == nil {
			return episodeID(id[:i], n+1)
		}
	}
	return episodeID(id, 2)
}

func episodeID(base string, n int) string {
	if n == 1 {
		return base
	}
	return fmt.Sprintf("%s-%d", base, n)
}

// Read reads one log from its last snapshot on. A log without events is not opened yet. Of
// an incident whose log is damaged it reads the log that takes its place: people are
// notified anew, rather than no more.
func (l *Store) Read(ctx context.Context, id, holder string) (*Log, error) {
	f := &Log{ID: id, store: l, leaseOwner: holder}
	err := f.reloadWhole(ctx)
	for n := 2; IsIncident(id) && errors.Is(err, ErrUnreadable) && n <= maxReplaced; n++ {
		slog.ErrorContext(ctx, "damaged log of an incident: another takes its place", "incident", f.ID, "error", err)
		f = &Log{ID: episodeID(baseIncident(id), n), store: l, leaseOwner: holder}
		err = f.reloadWhole(ctx)
	}
	return f, err
}

// reloadWhole is Reload that also sees whether an incident's events add up.
func (f *Log) reloadWhole(ctx context.Context) error {
	if err := f.Reload(ctx); err != nil || !IsIncident(f.ID) || f.store.Snapshot == nil || len(f.events) == 0 {
		return err
	}
	if _, err := f.store.Snapshot(f.ID, f.events); err != nil {
		return fmt.Errorf("%q: %w: %w", f.ID, ErrUnreadable, err)
	}
	return nil
}

// maxReplaced bounds how many damaged logs of one incident are replaced.
const maxReplaced = 5

// baseIncident returns the ID of the incident whose damaged log another has taken the place of.
func baseIncident(id string) string {
	if parts := strings.Split(id, "-"); IsIncident(id) && len(parts) == 4 { // inc-WORKLOAD-EPISODE-N
		return strings.Join(parts[:3], "-")
	}
	return id
}

// replacedBy returns an ID, and before it those of the damaged logs that it takes the place of.
func replacedBy(id string) []string {
	base := baseIncident(id)
	out := []string{base}
	for n := 2; id != base && out[len(out)-1] != id && n <= maxReplaced; n++ {
		out = append(out, episodeID(base, n))
	}
	return out
}

// Replaces returns the incident whose damaged log this one has taken the place of, or "".
func (f *Log) Replaces() string {
	if base := baseIncident(f.ID); base != f.ID {
		return base
	}
	return ""
}

// Readable reads one log from its first event on as far as it can be read: for people. It
// also returns what is wrong with it, of which errors.Is(ErrUnreadable) holds; nil: nothing.
func (l *Store) Readable(ctx context.Context, id string) (events []Event, damage error, err error) {
	keys, err := l.Objects.List(ctx, "events/"+id+"/")
	if err != nil {
		return nil, nil, err
	}
	sort.Strings(keys)
	all, wrong := make([]Event, len(keys)), make([]error, len(keys))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(SnapshotEvery)
	for i, key := range keys {
		g.Go(func() (err error) {
			all[i], err = l.readEvent(gctx, id, key)
			if errors.Is(err, ErrUnreadable) {
				wrong[i], err = err, nil
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, nil, err
	}
	for i, e := range all {
		if wrong[i] == nil {
			events = append(events, e)
		}
		if _, there := slices.BinarySearch(keys, eventKey(id, i)); !there {
			wrong = append(wrong, fmt.Errorf("event %d is missing: %w", i, ErrUnreadable))
		}
	}
	return events, errors.Join(wrong...), nil
}

// readEvent reads the event of a key of a log.
func (l *Store) readEvent(ctx context.Context, id, key string) (e Event, err error) {
	body, err := l.Objects.Read(ctx, key)
	if err != nil {
		return e, err
	}
	if err := json.Unmarshal(body, &e); err != nil {
		return e, fmt.Errorf("%q: %w: %v", key, ErrUnreadable, err)
	}
	if key != eventKey(id, e.N) {
		return e, fmt.Errorf("%q says that it is event %d: %w", key, e.N, ErrUnreadable)
	}
	return e, nil
}

// Exists reports whether a log has events.
func (l *Store) Exists(ctx context.Context, caseID string) (bool, error) {
	_, err := l.Objects.Read(ctx, eventKey(caseID, 0))
	if errors.Is(err, blobstore.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// ReadAll reads one log from its first event on: for people, whose number of operations
// grows with the log.
func (l *Store) ReadAll(ctx context.Context, id, holder string) (*Log, error) {
	f := &Log{ID: id, store: l, leaseOwner: holder, whole: true}
	return f, f.Reload(ctx)
}

// Reload reads what others have appended.
func (f *Log) Reload(ctx context.Context) error {
	keys, err := f.store.Objects.List(ctx, "events/"+f.ID+"/")
	if err != nil {
		return err
	}
	return f.load(ctx, keys)
}

// load reads the events from the last snapshot on that are not known yet. What was read
// before does not change.
func (f *Log) load(ctx context.Context, keys []string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	sort.Strings(keys)
	for i, key := range keys {
		if want := eventKey(f.ID, i); key != want {
			return fmt.Errorf("%q: event %d is missing (found %q): %w", f.ID, i, key, ErrUnreadable)
		}
	}
	from := 0
	if len(keys) > 0 && !f.whole {
		from = (len(keys) - 1) / SnapshotEvery * SnapshotEvery
	}
	if len(f.events) > 0 {
		from = f.next()
	}
	events, err := f.read(ctx, from, len(keys))
	if err != nil {
		return err
	}
	if len(f.events) == 0 && from > 0 && events[0].Snapshot == nil { // an earlier version wrote none
		if events, err = f.read(ctx, 0, len(keys)); err != nil {
			return err
		}
	}
	f.events = append(f.events, events...)
	return f.boundLease(ctx)
}

// maxSkew is how far the clocks of two instances may be apart without being noticed.
const maxSkew = time.Minute

// boundLease ends a lease by the store's clock that was taken by an instance whose own is
// ahead: when that instance dies, the case is not held for as long as its clock was wrong.
func (f *Log) boundLease(ctx context.Context) error {
	if len(f.events) == 0 {
		return nil
	}
	last := &f.events[len(f.events)-1]
	if last.Until.Sub(f.store.Clock()) <= f.store.Lease+maxSkew {
		return nil
	}
	created, err := f.store.Objects.Created(ctx, eventKey(f.ID, last.N))
	if err != nil {
		return err
	}
	last.Until = created.Add(f.store.Lease)
	return nil
}

// next returns the number of the event to append.
func (f *Log) next() int {
	if len(f.events) == 0 {
		return 0
	}
	return f.events[len(f.events)-1].N + 1
}

// read reads the events numbered from to, exclusively, end.
func (f *Log) read(ctx context.Context, from, end int) ([]Event, error) {
	events := make([]Event, max(0, end-from))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(SnapshotEvery)
	for i := range events {
		g.Go(func() error {
			var err error
			events[i], err = f.store.readEvent(ctx, f.ID, eventKey(f.ID, from+i))
			return err
		})
	}
	return events, g.Wait()
}

func eventKey(caseID string, n int) string { return fmt.Sprintf("events/%s/%010d.json", caseID, n) }

// IsClosed reports whether the last event closed the case.
func (f *Log) IsClosed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.events) > 0 && f.events[len(f.events)-1].Kind == Closed
}

// LeasedByOther reports whether another holder has the lease now.
func (f *Log) LeasedByOther() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.events) == 0 {
		return false
	}
	last := f.events[len(f.events)-1]
	if last.Holder == f.leaseOwner || !last.Until.After(f.store.Clock()) {
		return false
	}
	return f.store.Alive == nil || f.store.Alive(last.Holder)
}

// LeasedUntil returns the end of the current lease.
func (f *Log) LeasedUntil() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.events) == 0 {
		return time.Time{}
	}
	return f.events[len(f.events)-1].Until
}

// Append adds an event after those that were read, and takes or keeps the lease.
// ErrConflict means that another holder was first, ErrClosed that the log accepts no more
// events. When the store's response was lost and the event is there, written by this holder,
// that is success.
func (f *Log) Append(ctx context.Context, kind string, body any) (Event, error) {
	return f.AppendAt(ctx, f.store.Clock(), kind, body)
}

// AppendAt is Append with the time of the event.
func (f *Log) AppendAt(ctx context.Context, at time.Time, kind string, body any) (Event, error) {
	return f.append(ctx, at, kind, body, f.store.Clock().Add(f.store.Lease))
}

// Release gives the lease back.
func (f *Log) Release(ctx context.Context) error {
	_, err := f.append(ctx, f.store.Clock(), "yielded", nil, time.Time{})
	return err
}

// Close appends the last event.
func (f *Log) Close(ctx context.Context, body any) (Event, error) {
	return f.append(ctx, f.store.Clock(), Closed, body, time.Time{})
}

func (f *Log) append(ctx context.Context, at time.Time, kind string, body any, until time.Time) (Event, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := len(f.events); n > 0 && f.events[n-1].Kind == Closed {
		return Event{}, fmt.Errorf("case %q: %w", f.ID, ErrClosed)
	}
	e := Event{N: f.next(), Kind: kind, At: at.UTC(), Holder: f.leaseOwner, Until: until}
	if e.N > 0 && e.N%SnapshotEvery == 0 && f.store.Snapshot != nil {
		snapshot, err := f.store.Snapshot(f.ID, f.events)
		if err != nil {
			return e, fmt.Errorf("%q: snapshot before event %d: %w", f.ID, e.N, err)
		}
		e.Snapshot = snapshot
	}
	if body != nil {
		raw, err := json.Marshal(body)
		if err != nil {
			return e, fmt.Errorf("case %q: encode %s: %w", f.ID, kind, err)
		}
		e.Body = raw
	}
	whole, err := json.Marshal(e)
	if err != nil {
		return e, fmt.Errorf("case %q: encode %s: %w", f.ID, kind, err)
	}
	err = f.store.Objects.Create(ctx, eventKey(f.ID, e.N), whole)
	if errors.Is(err, blobstore.ErrExists) {
		there, err := f.store.Objects.Read(ctx, eventKey(f.ID, e.N))
		if err != nil {
			return e, err
		}
		if string(there) != string(whole) {
			return e, fmt.Errorf("case %q, event %d: %w", f.ID, e.N, ErrConflict)
		}
	} else if err != nil {
		return e, err
	}
	f.events = append(f.events, e)
	return e, nil
}

// WakeAt records that a case or an incident is to be looked at from a time on.
func (l *Store) WakeAt(ctx context.Context, caseID string, at time.Time) error {
	err := l.Objects.Create(ctx, wakeKey(at, caseID), nil)
	if errors.Is(err, blobstore.ErrExists) {
		return nil
	}
	return err
}

func wakeKey(at time.Time, caseID string) string {
	return "wakes/" + at.UTC().Format(wakeForm) + "/" + caseID
}

const wakeForm = "2006-01-02T15:04:05" // of a wake's time, in UTC: keys sort by it

// Wake is a case or an incident that is to be looked at.
type Wake struct {
	Case string
	At   time.Time
	key  string
}

// Due returns the wakes whose time has come, and ahead those whose time has not, each by time.
func (l *Store) Due(ctx context.Context) (due, ahead []Wake, err error) {
	keys, err := l.Objects.List(ctx, "wakes/")
	if err != nil {
		return nil, nil, err
	}
	limit := wakeKey(l.Clock(), "\xff")
	for _, key := range keys {
		w := Wake{Case: path.Base(key), key: key}
		if w.At, err = time.Parse(wakeForm, path.Base(path.Dir(key))); err != nil {
			slog.Warn("unreadable wake", "key", key, "error", err.Error())
			continue // it must not keep the others from their turn
		}
		if key <= limit {
			due = append(due, w)
		} else {
			ahead = append(ahead, w)
		}
	}
	return due, ahead, nil
}

// WakesWithin reports whether a case is to be looked at after one time and until another,
// hours apart at most.
func (l *Store) WakesWithin(ctx context.Context, caseID string, after, until time.Time) (bool, error) {
	from, to := wakeKey(after, "\xff"), wakeKey(until, "\xff")
	for hour := after.UTC().Truncate(time.Hour); !hour.After(until); hour = hour.Add(time.Hour) {
		keys, err := l.Objects.List(ctx, "wakes/"+hour.Format("2006-01-02T15:"))
		if err != nil {
			return false, err
		}
		for _, key := range keys {
			if path.Base(key) == caseID && key > from && key <= to {
				return true, nil
			}
		}
	}
	return false, nil
}

// DeleteWake removes a wake that was taken.
func (l *Store) DeleteWake(ctx context.Context, w Wake) error { return l.Objects.Delete(ctx, w.key) }

// IsID reports whether a string can be the ID of a log, which is part of keys.
func IsID(id string) bool {
	return len(id) >= 8 && len(id) <= 40 && !strings.ContainsFunc(id, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'a' || r > 'z') && r != '-'
	})
}

// IncidentPrefix begins the IDs of incidents.
const IncidentPrefix = "inc-"

// IsIncident reports whether an ID is an incident's.
func IsIncident(id string) bool { return strings.HasPrefix(id, IncidentPrefix) }

// DigestPrefix begins the IDs of digests, whose logs record that they were sent.
const DigestPrefix = "digest-"

// IsDigest reports whether an ID is a digest's.
func IsDigest(id string) bool { return strings.HasPrefix(id, DigestPrefix) }

// Cases returns the IDs of all cases.
func (l *Store) Cases(ctx context.Context) ([]string, error) {
	ids, err := l.ids(ctx)
	return slices.DeleteFunc(ids, func(id string) bool { return IsIncident(id) || IsDigest(id) }), err
}

// Incidents returns the IDs of all incidents.
func (l *Store) Incidents(ctx context.Context) ([]string, error) {
	ids, err := l.ids(ctx)
	return slices.DeleteFunc(ids, func(id string) bool { return !IsIncident(id) }), err
}

func (l *Store) ids(ctx context.Context) ([]string, error) {
	keys, err := l.Objects.List(ctx, "events/")
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, key := range keys {
		if id, n, ok := strings.Cut(strings.TrimPrefix(key, "events/"), "/"); ok && n == "0000000000.json" {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// ClaimExecution claims a case for a workflow's execution; false: another has it.
func (l *Store) ClaimExecution(ctx context.Context, caseID, execution string) (bool, error) {
	key := "executions/" + caseID
	err := l.Objects.Create(ctx, key, []byte(execution))
	if !errors.Is(err, blobstore.ErrExists) {
		return err == nil, err
	}
	holder, err := l.Objects.Read(ctx, key)
	return string(holder) == execution, err
}

// SetCallback records where the workflow that drives a case can be resumed now.
func (l *Store) SetCallback(ctx context.Context, caseID, url string) error {
	prefix := "callbacks/" + caseID + "/"
	old, err := l.Objects.List(ctx, prefix)
	if err != nil {
		return err
	}
	if err := l.Objects.Create(ctx, prefix+l.Clock().UTC().Format("20060102T150405.000000000"), []byte(url)); err != nil && !errors.Is(err, blobstore.ErrExists) {
		return err
	}
	for _, key := range old {
		if err := l.Objects.Delete(ctx, key); err != nil {
			return err
		}
	}
	return nil
}

// Callback returns where the workflow that drives a case can be resumed, or "".
func (l *Store) Callback(ctx context.Context, caseID string) (string, error) {
	keys, err := l.Objects.List(ctx, "callbacks/"+caseID+"/")
	if err != nil || len(keys) == 0 {
		return "", err
	}
	url, err := l.Objects.Read(ctx, keys[len(keys)-1])
	if errors.Is(err, blobstore.ErrNotExist) { // it was just replaced
		return "", nil
	}
	return string(url), err
}
