// Package casefile owns the case log: what is kept of a case, under which key,
// and who may write next. A case is an append-only list of events; nothing is
// updated in place. It does not know what the events mean.
//
// Keys, split by who writes them:
//
//	findings/<finding key>                 names the case of a finding, once for ever
//	events/<case>/<n, 10 digits>.json      the log: Respond, Advance
//	occurrences/<case>/<finding key>.json  the findings that joined; unordered
//	clicks/<case>/<id>.json                what people pressed: Interact, Casebook
//	evidence/<sha256>                      the bytes that ran, and what they ran in; verified
//	uploads/<order>                        what a node sent, until it is verified
//	budgets/...                            slots that a containment has to win
//	executions/<case>                      the one workflow that drives a case
//	callbacks/<case>/<time>                where that workflow can be resumed; the newest counts
//	wakes/<time>/<case>                    derived: cases to be looked at then
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

// ErrConflict means that somebody else appended first: read again, decide again.
var ErrConflict = errors.New("the case has moved on")

// ErrClosed means that the case takes no more events.
var ErrClosed = errors.New("the case is closed")

// Closed is the kind of the event after which a case takes no more events.
const Closed = "closed"

// Event is one entry of a case. Holder has the case until Until; a zero Until
// gives it back.
type Event struct {
	N      int             `json:"n"`
	Kind   string          `json:"kind"`
	At     time.Time       `json:"at"`
	Holder string          `json:"holder"`
	Until  time.Time       `json:"until,omitzero"`
	Body   json.RawMessage `json:"body,omitempty"`
}

// Entry is an occurrence or a click: a value under a name of its own.
type Entry struct {
	Name string // the finding key, or the click's id
	Body []byte
}

// Log is the cases in a store.
type Store struct {
	Objects blobstore.Store // required
	// Lease is how long a holder has a case after its last event. It must be
	// longer than a function may run and shorter than the ack deadline.
	Lease time.Duration // required
	// Alive tells of a holder whose lease has not ended whether it still can be
	// at work; nil: always. On one machine a process that has the store to itself
	// knows that earlier ones are dead.
	Alive func(holder string) bool
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

func (l *Store) now() time.Time {
	if l.Now != nil {
		return l.Now().UTC()
	}
	return time.Now().UTC()
}

// File is one case as it was read. It is safe for use by the goroutines of one holder.
type Log struct {
	ID         string
	store      *Store
	leaseOwner string
	mu         sync.Mutex
	events     []Event
}

// Events are those read and appended so far.
func (f *Log) Events() []Event {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.events)
}

// Name joins a finding to a case, or answers the case that it joined before.
func (l *Store) AssignCase(ctx context.Context, findingKey, caseID string) (string, error) {
	key := "findings/" + findingKey
	err := l.Objects.Create(ctx, key, []byte(caseID))
	if err == nil {
		return caseID, nil
	}
	if !errors.Is(err, blobstore.ErrExists) {
		return "", err
	}
	body, err := l.Objects.Read(ctx, key)
	return string(body), err
}

// CaseOf answers the case that a finding joined, or blobstore.ErrNotExist.
func (l *Store) CaseOf(ctx context.Context, findingKey string) (string, error) {
	body, err := l.Objects.Read(ctx, "findings/"+findingKey)
	return string(body), err
}

// Occur records a finding of a case; it answers false when it was recorded before.
func (l *Store) AddOccurrence(ctx context.Context, caseID, findingKey string, body []byte) (bool, error) {
	err := l.Objects.Create(ctx, "occurrences/"+caseID+"/"+findingKey+".json", body)
	if errors.Is(err, blobstore.ErrExists) {
		return false, nil
	}
	return err == nil, err
}

// Occurrences of a case, but for those whose names are in except.
func (l *Store) Occurrences(ctx context.Context, caseID string, except map[string]bool) ([]Entry, error) {
	return l.entries(ctx, "occurrences/"+caseID+"/", except)
}

// Click records what a person pressed, once by its id, and wakes the case.
func (l *Store) Click(ctx context.Context, caseID, id string, body []byte) error {
	if err := l.Objects.Create(ctx, "clicks/"+caseID+"/"+id+".json", body); err != nil && !errors.Is(err, blobstore.ErrExists) {
		return err
	}
	// A wake of this second may be another click's, and just be answered: who sees one of
	// the next has begun after this click was written.
	return l.WakeAt(ctx, caseID, l.now().Add(time.Second))
}

// Clicks of a case, but for those whose names are in except.
func (l *Store) Clicks(ctx context.Context, caseID string, except map[string]bool) ([]Entry, error) {
	return l.entries(ctx, "clicks/"+caseID+"/", except)
}

func (l *Store) entries(ctx context.Context, prefix string, except map[string]bool) ([]Entry, error) {
	keys, err := l.Objects.List(ctx, prefix)
	if err != nil {
		return nil, err
	}
	keys = slices.DeleteFunc(keys, func(key string) bool { return except[entryName(key)] })
	out := make([]Entry, len(keys))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for i, key := range keys {
		g.Go(func() error {
			body, err := l.Objects.Read(ctx, key)
			out[i] = Entry{entryName(key), body}
			return err
		})
	}
	return out, g.Wait()
}

func entryName(key string) string { return strings.TrimSuffix(path.Base(key), ".json") }

// lookBack bounds how many episodes are read to find one that is open.
const lookBack = 4

// Latest reads the last episode of a case by its base id that is open and fits; fits
// nil: any. Where there is none, the answer is a new episode without events.
func (l *Store) Latest(ctx context.Context, base, holder string, fits func(*Log) (bool, error)) (*Log, error) {
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
		ok := fits == nil
		if !ok {
			var err error
			if ok, err = fits(f); err != nil {
				return nil, err
			}
		}
		if ok {
			return f, nil
		}
	}
	return &Log{ID: episodeID(base, last+1), store: l, leaseOwner: holder}, nil
}

func episodeID(base string, n int) string {
	if n == 1 {
		return base
	}
	return fmt.Sprintf("%s-%d", base, n)
}

// Read reads one case. A case without events is no error: it is not opened yet.
func (l *Store) Read(ctx context.Context, caseID, holder string) (*Log, error) {
	f := &Log{ID: caseID, store: l, leaseOwner: holder}
	return f, f.Reload(ctx)
}

// Exists tells whether there is such a case.
func (l *Store) Exists(ctx context.Context, caseID string) (bool, error) {
	_, err := l.Objects.Read(ctx, eventKey(caseID, 0))
	if errors.Is(err, blobstore.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Reload reads what others have appended.
func (f *Log) Reload(ctx context.Context) error {
	keys, err := f.store.Objects.List(ctx, "events/"+f.ID+"/")
	if err != nil {
		return err
	}
	return f.load(ctx, keys)
}

func (f *Log) load(ctx context.Context, keys []string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	sort.Strings(keys)
	events := make([]Event, len(keys))
	copy(events, f.events) // what was read before does not change
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for i := len(f.events); i < len(keys); i++ {
		g.Go(func() error {
			if want := eventKey(f.ID, i); keys[i] != want {
				return fmt.Errorf("case %q: event %d is missing (found %q)", f.ID, i, keys[i])
			}
			body, err := f.store.Objects.Read(ctx, keys[i])
			if err != nil {
				return err
			}
			if err := json.Unmarshal(body, &events[i]); err != nil {
				return fmt.Errorf("case %q, event %d: %w", f.ID, i, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	f.events = events
	return nil
}

func eventKey(caseID string, n int) string { return fmt.Sprintf("events/%s/%010d.json", caseID, n) }

// IsClosed tells whether the last event closed the case.
func (f *Log) IsClosed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.events) > 0 && f.events[len(f.events)-1].Kind == Closed
}

// HeldByOther tells whether somebody else has the case now.
func (f *Log) LeasedByOther() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.events) == 0 {
		return false
	}
	last := f.events[len(f.events)-1]
	if last.Holder == f.leaseOwner || !last.Until.After(f.store.now()) {
		return false
	}
	return f.store.Alive == nil || f.store.Alive(last.Holder)
}

// HeldUntil is the end of the lease of whoever has the case.
func (f *Log) LeasedUntil() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.events) == 0 {
		return time.Time{}
	}
	return f.events[len(f.events)-1].Until
}

// Append adds an event after those that were read, and takes or keeps the case.
// ErrConflict means that somebody else was first, ErrClosed that there is
// nothing to add to any more. When an answer was lost on
// the way and the event is there after all, by our hand, that is success.
func (f *Log) Append(ctx context.Context, kind string, body any) (Event, error) {
	return f.append(ctx, kind, body, f.store.now().Add(f.store.Lease))
}

// Yield gives the case back.
func (f *Log) Release(ctx context.Context) error {
	_, err := f.append(ctx, "yielded", nil, time.Time{})
	return err
}

// Close appends the last event.
func (f *Log) Close(ctx context.Context, body any) (Event, error) {
	return f.append(ctx, Closed, body, time.Time{})
}

func (f *Log) append(ctx context.Context, kind string, body any, until time.Time) (Event, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := len(f.events); n > 0 && f.events[n-1].Kind == Closed {
		return Event{}, fmt.Errorf("case %q: %w", f.ID, ErrClosed)
	}
	e := Event{N: len(f.events), Kind: kind, At: f.store.now(), Holder: f.leaseOwner, Until: until}
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

// WakeAt notes that a case is to be looked at from a time on.
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

// Wake is a case that somebody is to look at.
type Wake struct {
	Case string
	At   time.Time
	key  string
}

// Due are the wakes whose time has come, and ahead those that have not, each by time.
func (l *Store) Due(ctx context.Context) (due, ahead []Wake, err error) {
	keys, err := l.Objects.List(ctx, "wakes/")
	if err != nil {
		return nil, nil, err
	}
	limit := wakeKey(l.now(), "\xff")
	for _, key := range keys {
		w := Wake{Case: path.Base(key), key: key}
		if w.At, err = time.Parse(wakeForm, path.Base(path.Dir(key))); err != nil {
			slog.Warn("not a wake, and not looked at", "key", key, "error", err.Error())
			continue // one that nobody can read keeps no other case from its turn
		}
		if key <= limit {
			due = append(due, w)
		} else {
			ahead = append(ahead, w)
		}
	}
	return due, ahead, nil
}

// WakesWithin tells whether somebody is to look at a case after one time and until another,
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

// Woken forgets a wake that was answered.
func (l *Store) DeleteWake(ctx context.Context, w Wake) error { return l.Objects.Delete(ctx, w.key) }

// Cases are the ids of all cases, newest last by their id only.
func (l *Store) Cases(ctx context.Context) ([]string, error) {
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

// Drives claims a case for a workflow's execution; false: another drives it.
func (l *Store) ClaimExecution(ctx context.Context, caseID, execution string) (bool, error) {
	key := "executions/" + caseID
	err := l.Objects.Create(ctx, key, []byte(execution))
	if !errors.Is(err, blobstore.ErrExists) {
		return err == nil, err
	}
	holder, err := l.Objects.Read(ctx, key)
	return string(holder) == execution, err
}

// SetCallback notes where the workflow that drives a case can be resumed now.
func (l *Store) SetCallback(ctx context.Context, caseID, url string) error {
	prefix := "callbacks/" + caseID + "/"
	old, err := l.Objects.List(ctx, prefix)
	if err != nil {
		return err
	}
	if err := l.Objects.Create(ctx, prefix+l.now().UTC().Format("20060102T150405.000000000"), []byte(url)); err != nil && !errors.Is(err, blobstore.ErrExists) {
		return err
	}
	for _, key := range old {
		if err := l.Objects.Delete(ctx, key); err != nil {
			return err
		}
	}
	return nil
}

// Callback answers where the workflow that drives a case can be resumed, or "".
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
