package sensor

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/sync/errgroup"

	"github.com/contraband-dev/contraband/bpf"
	"github.com/contraband-dev/contraband/internal/boltfile"
	"github.com/contraband-dev/contraband/internal/sensorapi"
)

// spool is the sensor's memory on disk. Each add is one fsynced transaction:
//
//	detections  class and sequence -> Detection, until it is published
//	files       fileKey -> when it was detected; keeps a restart from telling the same run twice
//	homes       container id -> home, for the orders that may follow
//	ran         container id/hash -> when it was detected, for the same; of a container
//	            that has run more than can be kept, container id/* as well
//	meta        alive -> when somebody last watched
//	orders      order id -> its status
//	freezes     container id/case/order id -> freeze, while it lasts
type spool struct {
	db         *bbolt.DB
	damage     error // of the file that was there; nil: it was whole
	max        int
	news       chan struct{} // holds a token when there may be something to publish
	count      atomic.Int64
	overflow   atomic.Uint64 // not yet reported
	overflowed atomic.Uint64 // in all

	// Since the start, of what a container can make many of; each within a transaction.
	files int
	ran   map[string]int

	recentMu sync.Mutex
	recent   map[string]int // detections of a container since recentAt
	recentAt time.Time
}

// A class is when a detection is sent, relative to others that wait: it is the first byte
// of its key. A container that runs hundreds of programs, or copies, delays no other.
type class uint64

const (
	firstClass class = iota // health, and the first detections of a container in a minute
	laterClass              // further ones of a container
	copyClass               // copies of programs of the image
)

// firstOfContainer is how many detections of a container in a minute are of firstClass.
const firstOfContainer = 16

func (s *spool) classOf(d sensorapi.Detection) class {
	if d.Health != "" {
		return firstClass
	}
	if d.SameAs != "" {
		return copyClass
	}
	s.recentMu.Lock()
	defer s.recentMu.Unlock()
	if now := time.Now(); s.recent == nil || now.Sub(s.recentAt) > time.Minute || len(s.recent) >= maxKnown {
		s.recent, s.recentAt = map[string]int{}, now
	}
	if s.recent[d.Container.ID]++; s.recent[d.Container.ID] > firstOfContainer {
		return laterClass
	}
	return firstClass
}

// room returns how many detections may wait when one of a class is added: an eighth of the
// spool is kept for the first class.
func (s *spool) room(c class) int64 {
	if c == firstClass {
		return int64(s.max)
	}
	return int64(s.max - s.max/8)
}

var (
	bucketDetections = []byte("detections")
	bucketFiles      = []byte("files")
	bucketHomes      = []byte("homes")
	bucketRan        = []byte("ran")
	bucketMeta       = []byte("meta")
	bucketOrders     = []byte("orders")
	bucketFreezes    = []byte("freezes")

	errSpoolFull = errors.New("spool is full")
)

// keepFor is how long files and homes are remembered, and how many.
const (
	keepFor  = 7 * 24 * time.Hour
	maxFiles = 100_000 // then all are forgotten: after a restart what still runs is reported again
	maxRan   = 4096    // of a container
)

func openSpool(path string, max int) (*spool, error) {
	db, damage, err := boltfile.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open spool %q (is another sensor running on it?): %w", path, err)
	}
	db.MaxBatchDelay = time.Millisecond // company is welcome, waiting for it is not
	s := &spool{db: db, damage: damage, max: max, news: make(chan struct{}, 1), ran: map[string]int{}}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{bucketDetections, bucketFiles, bucketHomes, bucketRan, bucketMeta, bucketOrders, bucketFreezes} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		s.count.Store(int64(tx.Bucket(bucketDetections).Stats().KeyN))
		return nil
	})
	if err == nil {
		err = s.prune(time.Now())
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("prepare spool %q: %w", path, err), db.Close())
	}
	if s.count.Load() > 0 {
		s.wake()
	}
	return s, nil
}

func (s *spool) close() error { return s.db.Close() }

// fileKey names one state of one file in one container. It holds across
// restarts of the sensor, unlike process ids.
func fileKey(container string, e bpf.Event) []byte {
	return fmt.Appendf(nil, "%s/%d/%d/%d", container, e.Dev, e.Inode, e.ChangeTime)
}

// add stores a detection. It returns false for one that ran before the sensor
// started and was already detected then.
func (s *spool) add(d sensorapi.Detection, h home, key []byte) (bool, error) {
	class := s.classOf(d)
	if s.count.Load() >= s.room(class) {
		s.overflow.Add(1)
		s.overflowed.Add(1)
		return false, errSpoolFull
	}
	added := false
	err := s.db.Batch(func(tx *bbolt.Tx) error {
		added = false   // it may be called again
		if key != nil { // nil: it is about no file
			files := tx.Bucket(bucketFiles)
			if d.Preceding && files.Get(key) != nil {
				return nil
			}
			h.Detected = time.Now().UTC()
			at := []byte(h.Detected.Format(time.RFC3339))
			err := s.remember(tx, key, d, at)
			if err := errors.Join(err, putJSON(tx.Bucket(bucketHomes), d.Container.ID, h)); err != nil {
				return err
			}
		}
		b := tx.Bucket(bucketDetections)
		seq, err := b.NextSequence()
		if err != nil {
			return err
		}
		body, err := json.Marshal(d)
		if err != nil {
			return err
		}
		added = true
		return b.Put(binary.BigEndian.AppendUint64(nil, uint64(class)<<56|seq), body)
	})
	if err != nil || !added {
		return false, err
	}
	s.count.Add(1)
	s.wake()
	return true, nil
}

func (s *spool) wake() {
	select {
	case s.news <- struct{}{}:
	default:
	}
}

func (s *spool) waiting() int         { return int(s.count.Load()) }
func (s *spool) takeOverflow() uint64 { return s.overflow.Swap(0) }

// Bounds of a round of publishing.
const (
	drainRound = 256
	atOnce     = 16
)

// A sendFunc publishes one detection.
type sendFunc = func(body []byte, p sensorapi.Priority) error

// priorityOf returns the priority of the detection with a key of the spool.
func priorityOf(key []byte) sensorapi.Priority {
	if class(key[0]) == firstClass {
		return sensorapi.First
	}
	return sensorapi.Later
}

// drain sends each detection and forgets it once it is sent; each round looks for the first
// class again. One that cannot be sent holds up no other; while some fail, the first error
// is returned and those stay.
func (s *spool) drain(send sendFunc) error {
	var failed error
	for from := []byte(nil); ; {
		keys, bodies, err := s.next(from)
		if err != nil || len(keys) == 0 {
			return errors.Join(failed, err)
		}
		sent, err := sendAll(keys, bodies, send)
		if failed == nil {
			failed = err
		}
		if err := s.forget(sent); err != nil {
			return errors.Join(failed, err)
		}
		if len(sent) == 0 { // nobody is there
			return failed
		}
		if from = nil; failed != nil { // what failed is not sent again in this round
			from = keys[len(keys)-1]
		}
	}
}

// next returns a round of detections behind a key: by class, each the oldest first.
func (s *spool) next(behind []byte) (keys, bodies [][]byte, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		c := tx.Bucket(bucketDetections).Cursor()
		k, v := c.First()
		if behind != nil {
			if k, v = c.Seek(behind); bytes.Equal(k, behind) {
				k, v = c.Next()
			}
		}
		for ; k != nil && len(keys) < drainRound; k, v = c.Next() {
			keys, bodies = append(keys, bytes.Clone(k)), append(bodies, bytes.Clone(v))
		}
		return nil
	})
	return keys, bodies, err
}

func sendAll(keys, bodies [][]byte, send sendFunc) (sent [][]byte, err error) {
	var (
		mu sync.Mutex
		g  errgroup.Group
	)
	g.SetLimit(atOnce)
	for i, key := range keys {
		g.Go(func() error {
			err := send(bodies[i], priorityOf(key))
			if err == nil {
				mu.Lock()
				defer mu.Unlock()
				sent = append(sent, key)
			}
			return err
		})
	}
	err = g.Wait()
	return sent, err
}

func (s *spool) forget(keys [][]byte) error {
	if len(keys) == 0 {
		return nil
	}
	err := s.db.Update(func(tx *bbolt.Tx) error {
		for _, k := range keys {
			if err := tx.Bucket(bucketDetections).Delete(k); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		s.count.Add(-int64(len(keys)))
	}
	return err
}

func (s *spool) home(container string) (home, error) {
	var h home
	err := s.db.View(func(tx *bbolt.Tx) error { return getJSON(tx.Bucket(bucketHomes), container, &h) })
	return h, err
}

// remember notes which file ran in which container, and what it was, within bounds: whoever
// runs many files makes this neither large nor blind.
func (s *spool) remember(tx *bbolt.Tx, key []byte, d sensorapi.Detection, at []byte) error {
	if s.files++; s.files > maxFiles {
		s.files = 1
		if err := tx.DeleteBucket(bucketFiles); err != nil {
			return err
		}
		if _, err := tx.CreateBucket(bucketFiles); err != nil {
			return err
		}
	}
	err := tx.Bucket(bucketFiles).Put(key, at)
	b, sum := tx.Bucket(bucketRan), d.File.SHA256
	if sum == "" || b.Get(ranKey(d.Container.ID, sum)) != nil {
		return err
	}
	if len(s.ran) >= maxKnown {
		clear(s.ran)
	}
	if s.ran[d.Container.ID]++; s.ran[d.Container.ID] > maxRan {
		sum = anyProgram
	}
	return errors.Join(err, b.Put(ranKey(d.Container.ID, sum), at))
}

// anyProgram stands for those that are too many to remember.
const anyProgram = "*"

// alive notes that somebody watches.
func (s *spool) alive(now time.Time) error {
	return s.db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketMeta).Put([]byte("alive"), []byte(now.UTC().Format(time.RFC3339)))
	})
}

// downUntil is for how long nobody has watched until now; 0 at the first start.
func (s *spool) downUntil(now time.Time) (down time.Duration, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		if at, err := time.Parse(time.RFC3339, string(tx.Bucket(bucketMeta).Get([]byte("alive")))); err == nil {
			down = max(now.Sub(at), 0)
		}
		return nil
	})
	return down, err
}

func ranKey(container, sum string) []byte { return []byte(container + "/" + sum) }

// hasRun reports whether a program was detected in a container, by its hash.
func (s *spool) hasRun(container, sum string) (ran bool, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketRan)
		ran = b.Get(ranKey(container, sum)) != nil || b.Get(ranKey(container, anyProgram)) != nil
		return nil
	})
	return ran, err
}

var errAbsent = errors.New("absent")

func putJSON(b *bbolt.Bucket, key string, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return b.Put([]byte(key), body)
}

func getJSON(b *bbolt.Bucket, key string, v any) error {
	body := b.Get([]byte(key))
	if body == nil {
		return errAbsent
	}
	return json.Unmarshal(body, v)
}
