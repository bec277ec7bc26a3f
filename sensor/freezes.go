package sensor

import (
	"context"
	"encoding/json"
	"errors"
	"hash/fnv"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"github.com/contraband-dev/contraband/internal/sensorapi"
)

// freeze is remembered before it is made, so that one made by a sensor that died
// still ends. A container is thawed when the last of its freezes has ended: two cases
// may want it frozen, and one case for longer than at first.
type freeze struct {
	Container string    `json:"container"`
	Case      string    `json:"case"`
	Order     string    `json:"order"`
	Expires   time.Time `json:"expires"`
	Object    bool      `json:"object,omitempty"` // it lasts no longer than its object in the cluster
}

func (f freeze) key() string { return f.Container + "/" + f.Case + "/" + f.Order }

func (f freeze) same(other freeze) bool { return f.key() == other.key() }

// locks are of containers: a freeze and a thaw of the same one never cross. Two
// containers may share a lock.
type locks [64]sync.Mutex

func (l *locks) of(container string) *sync.Mutex {
	h := fnv.New32a()
	h.Write([]byte(container)) // never fails
	return &l[h.Sum32()%uint32(len(l))]
}

func (s *Sensor) freeze(ctx context.Context, h home, o sensorapi.Order, object bool) (int, error) {
	lock := s.freezing.of(h.ID)
	lock.Lock()
	defer lock.Unlock()
	if _, err := s.freezer.dirOf(h); err != nil {
		return 0, err
	}
	f := freeze{Container: h.ID, Case: o.Case, Order: o.ID, Expires: o.Expires, Object: object}
	if err := s.spool.db.Update(func(tx *bbolt.Tx) error { return putJSON(tx.Bucket(bucketFreezes), f.key(), f) }); err != nil {
		return 0, err
	}
	deadline, _ := ctx.Deadline()
	n, err := s.freezer.set(h, true, deadline)
	if err == nil {
		return n, nil
	}
	// Reported as not done, it must not be half done: nobody could release it.
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), orderTime)
	defer cancel()
	_, undone := s.end(undo, h, []freeze{f})
	if errors.Is(err, errGone) {
		return 0, err
	}
	return 0, errors.Join(err, undone)
}

// thaw ends one case's freezes, on its order: also those that we do not remember.
func (s *Sensor) thaw(ctx context.Context, h home, caseID string) (int, error) {
	lock := s.freezing.of(h.ID)
	lock.Lock()
	defer lock.Unlock()
	ours, err := s.freezes(func(f freeze) bool { return f.Container == h.ID && f.Case == caseID })
	if err != nil {
		return 0, err
	}
	return s.end(ctx, h, ours)
}

// end lets the container go on, unless others keep it frozen, and forgets what ended.
// The container's lock is held.
func (s *Sensor) end(ctx context.Context, h home, ended []freeze) (n int, err error) {
	others, err := s.freezes(func(f freeze) bool { return f.Container == h.ID && !slices.ContainsFunc(ended, f.same) })
	if err != nil {
		return 0, err
	}
	if len(others) == 0 {
		deadline, _ := ctx.Deadline()
		if n, err = s.freezer.set(h, false, deadline); err != nil && !errors.Is(err, errGone) {
			return n, err
		}
	}
	forget := s.spool.db.Update(func(tx *bbolt.Tx) (err error) {
		for _, f := range ended {
			err = errors.Join(err, tx.Bucket(bucketFreezes).Delete([]byte(f.key())))
		}
		return err
	})
	return n, errors.Join(err, forget)
}

// freezes returns those in force that fit.
func (s *Sensor) freezes(fit func(freeze) bool) (out []freeze, err error) {
	err = s.spool.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketFreezes).ForEach(func(_, v []byte) error {
			var f freeze
			if err := json.Unmarshal(v, &f); err != nil {
				return err
			}
			if fit(f) {
				out = append(out, f)
			}
			return nil
		})
	})
	return out, err
}

// stillTrue returns the outcome of an order that was carried out before: of a freeze
// only while it is in force.
func (s *Sensor) stillTrue(o sensorapi.Order, done sensorapi.OrderStatus) (sensorapi.OrderStatus, error) {
	if o.Action != sensorapi.Freeze || !done.Done {
		return done, nil
	}
	now, err := s.freezes(func(f freeze) bool { return f.Order == o.ID })
	if err != nil || len(now) > 0 {
		return done, err
	}
	return sensorapi.OrderStatus{ID: o.ID, At: done.At, Error: "it was frozen, and has been thawed since"}, nil
}

// Frozen returns the orders of a cluster whose freezes are in force.
func (s *Sensor) Frozen() ([]string, error) {
	all, err := s.freezes(func(f freeze) bool { return f.Object })
	var out []string
	for _, f := range all {
		out = append(out, f.Order)
	}
	return out, err
}

// Withdrawn ends the freeze of an order whose object is no more: nobody knows of it,
// so nobody would release it.
func (s *Sensor) Withdrawn(ctx context.Context, order string) error {
	return s.endFreezes(ctx, "its order was withdrawn", func(f freeze) bool { return f.Object && f.Order == order })
}

// endFreezes ends each freeze that fits, unless that has changed when its turn comes.
func (s *Sensor) endFreezes(ctx context.Context, why string, fit func(freeze) bool) error {
	all, err := s.freezes(fit)
	for _, f := range all {
		thawed := s.endOne(ctx, f)
		s.cfg.Log.Warn("a freeze has ended", "why", why, "container", f.Container, "case", f.Case, "order", f.Order, "error", thawed)
		err = errors.Join(err, thawed)
	}
	return err
}

func (s *Sensor) endOne(ctx context.Context, f freeze) error {
	ctx, cancel := context.WithTimeout(ctx, orderTime)
	defer cancel()
	lock := s.freezing.of(f.Container)
	lock.Lock()
	defer lock.Unlock()
	now, err := s.freezes(f.same)
	if err != nil || len(now) == 0 {
		return err
	}
	h, err := s.spool.home(f.Container)
	if err != nil {
		return err
	}
	_, err = s.end(ctx, h, now)
	return err
}

// expireFreezes thaws what has been frozen for as long as its order allows.
func (s *Sensor) expireFreezes(ctx context.Context) error {
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	pruned := time.Now()
	for {
		s.held.expire()
		now := time.Now()
		// What fails is in the log, and tried again.
		_ = s.endFreezes(ctx, "its time is over", func(f freeze) bool { return now.After(f.Expires) })
		if now.Sub(pruned) > time.Hour {
			pruned = now
			if err := s.spool.prune(now); err != nil {
				s.cfg.Log.Warn("old entries cannot be forgotten", "error", err.Error())
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// prune forgets what is older than keepFor, but nothing about what is frozen.
func (s *spool) prune(now time.Time) error {
	return s.db.Update(func(tx *bbolt.Tx) error {
		frozen := map[string]bool{}
		err := tx.Bucket(bucketFreezes).ForEach(func(k, _ []byte) error {
			container, rest, _ := strings.Cut(string(k), "/")
			_, order, _ := strings.Cut(rest, "/")
			frozen[container], frozen[order] = true, true
			return nil
		})
		limit := now.Add(-keepFor)
		old := func(t time.Time, err error) bool { return err != nil || t.Before(limit) }
		return errors.Join(err,
			forget(tx.Bucket(bucketFiles), func(_ string, v []byte) bool { return old(time.Parse(time.RFC3339, string(v))) }),
			forget(tx.Bucket(bucketRan), func(_ string, v []byte) bool { return old(time.Parse(time.RFC3339, string(v))) }),
			forget(tx.Bucket(bucketHomes), func(k string, v []byte) bool {
				var h home
				err := json.Unmarshal(v, &h)
				return !frozen[k] && old(h.Detected, err)
			}),
			forget(tx.Bucket(bucketOrders), func(k string, v []byte) bool {
				var o sensorapi.OrderStatus
				err := json.Unmarshal(v, &o)
				return !frozen[k] && old(o.At, err)
			}))
	})
}

func forget(b *bbolt.Bucket, old func(key string, value []byte) bool) error {
	var keys [][]byte
	err := b.ForEach(func(k, v []byte) error {
		if old(string(k), v) {
			keys = append(keys, slices.Clone(k))
		}
		return nil
	})
	for _, k := range keys {
		err = errors.Join(err, b.Delete(k))
	}
	return err
}
