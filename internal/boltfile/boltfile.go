// Package boltfile opens bbolt files that may be damaged: by a disk that was full, a torn
// page, a file system that was repaired. bbolt itself panics on some of them, at every start.
package boltfile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"time"

	"go.etcd.io/bbolt"
)

// lockTimeout is how long a file is waited for that another process has open.
const lockTimeout = 3 * time.Second

// Open opens a file, or makes it. One that is damaged is set aside under a name, what can be
// read of it is copied into a new one, and damage says so; nil: it is whole.
func Open(path string) (db *bbolt.DB, damage, err error) {
	// Whoever has it open is writing to it: a copy made meanwhile would look damaged.
	lock, err := lockFile(path)
	if err != nil {
		return nil, nil, err
	}
	if wrong := check(path); wrong != nil {
		if damage, err = setAside(path, wrong); err != nil {
			return nil, nil, errors.Join(err, lock.Close())
		}
	}
	if err := lock.Close(); err != nil {
		return nil, damage, err
	}
	db, err = bbolt.Open(path, 0o600, &bbolt.Options{Timeout: lockTimeout})
	return db, damage, err
}

// check reads a copy of a file whole and writes to it; it returns what is wrong. bbolt's
// locks are held for ever after a panic: the copy is given up then.
func check(path string) error {
	copied := path + ".check"
	defer os.Remove(copied) // also half a copy: the disk may be full
	if err := copyFile(path, copied); err != nil {
		return nil // it is made, or its own opening says why it cannot be read, or there is no room for a copy
	}
	return guarded(func() error {
		db, err := bbolt.Open(copied, 0o600, &bbolt.Options{Timeout: lockTimeout, NoSync: true})
		if err != nil {
			return err
		}
		err = db.View(func(tx *bbolt.Tx) error {
			return tx.ForEach(func(name []byte, b *bbolt.Bucket) error {
				return walk(b, tx.Size(), func(k, v []byte) error { return nil })
			})
		})
		if err == nil {
			db.Update(write) // its error is the disk's, which may be full; damage makes it panic
		}
		return errors.Join(err, db.Close())
	})
}

// write uses the list of free pages.
func write(tx *bbolt.Tx) error {
	b, err := tx.CreateBucketIfNotExists([]byte("check"))
	if err != nil {
		return err
	}
	return b.Put([]byte("check"), make([]byte, 3*os.Getpagesize()))
}

// errEndless means that a bucket has more entries than its file has bytes.
var errEndless = errors.New("a bucket without an end")

// walk calls each for every entry of a bucket, at most most.
func walk(b *bbolt.Bucket, most int64, each func(k, v []byte) error) error {
	c := b.Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		if most--; most < 0 {
			return errEndless
		}
		if err := each(append([]byte(nil), k...), append([]byte(nil), v...)); err != nil {
			return err
		}
	}
	return nil
}

// guarded calls f, and returns as an error that it panics or reads beyond the file.
func guarded(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%v", r)
		}
	}()
	return f()
}

// setAside gives a damaged file another name, and copies what can be read of it.
func setAside(path string, wrong error) (damage, err error) {
	aside := fmt.Sprintf("%s.damaged-%s", path, time.Now().UTC().Format("20060102T150405.000"))
	if err := os.Rename(path, aside); err != nil {
		return nil, fmt.Errorf("set the damaged file aside: %w", err)
	}
	saved, lost := salvage(aside, path)
	return fmt.Errorf("%q was damaged (%w) and is kept as %q: %d entries were read from it, and %d of its parts could not be", path, wrong, aside, saved, lost), nil
}

// salvage copies the entries of the buckets of one file that can be read into another.
func salvage(from, to string) (saved, lost int) {
	copied := from + ".salvage"
	defer os.Remove(copied)
	var buckets map[string][][2][]byte
	read := guarded(func() error {
		if err := copyFile(from, copied); err != nil {
			return err
		}
		db, err := bbolt.Open(copied, 0o600, &bbolt.Options{Timeout: lockTimeout, ReadOnly: true})
		if err != nil {
			return err
		}
		buckets, lost = readBuckets(db)
		return nil // it stays open: a panic may have left it locked
	})
	if read != nil {
		return 0, lost + 1
	}
	written := guarded(func() error {
		db, err := bbolt.Open(to, 0o600, &bbolt.Options{Timeout: lockTimeout})
		if err != nil {
			return err
		}
		return errors.Join(db.Update(func(tx *bbolt.Tx) error {
			for name, entries := range buckets {
				b, err := tx.CreateBucketIfNotExists([]byte(name))
				if err != nil {
					return err
				}
				for _, e := range entries {
					if err := b.Put(e[0], e[1]); err != nil {
						return err
					}
					saved++
				}
				if err := b.SetSequence(uint64(len(entries)) + uint64(time.Now().UnixMilli())); err != nil { // beyond every one used
					return err
				}
			}
			return nil
		}), db.Close())
	})
	if written != nil {
		return 0, lost + 1
	}
	return saved, lost
}

// readBuckets returns the entries of each bucket as far as they can be read, and of how many
// some could not be.
func readBuckets(db *bbolt.DB) (buckets map[string][][2][]byte, lost int) {
	buckets = map[string][][2][]byte{}
	var names []string
	err := guarded(func() error {
		tx, err := db.Begin(false)
		if err != nil {
			return err
		}
		return tx.ForEach(func(name []byte, _ *bbolt.Bucket) error {
			names = append(names, string(name))
			return nil
		})
	})
	if err != nil {
		lost++
	}
	for _, name := range names {
		err := guarded(func() error {
			tx, err := db.Begin(false)
			if err != nil {
				return err
			}
			b := tx.Bucket([]byte(name))
			if b == nil {
				return errors.New("no such bucket")
			}
			return walk(b, tx.Size(), func(k, v []byte) error {
				buckets[name] = append(buckets[name], [2][]byte{k, v})
				return nil
			})
		})
		if err != nil {
			lost++
		}
	}
	return buckets, lost
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
