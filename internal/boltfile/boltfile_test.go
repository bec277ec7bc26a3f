package boltfile_test

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/contraband-dev/contraband/internal/boltfile"
)

// filled makes a file with three buckets of 400 entries, and returns its bytes.
func filled(t *testing.T) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db")
	db, damage, err := boltfile.Open(path)
	if err != nil || damage != nil {
		t.Fatal(damage, err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range []string{"a", "b", "c"} {
			b, err := tx.CreateBucket([]byte(name))
			if err != nil {
				return err
			}
			for i := range 400 {
				if err := b.Put(binary.BigEndian.AppendUint64(nil, uint64(i)), []byte(strings.Repeat(name, 100))); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err == nil {
		err = db.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	body, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// entries returns how many entries a file has, and writes to it.
func entries(t *testing.T, db *bbolt.DB) (n int) {
	t.Helper()
	err := db.Update(func(tx *bbolt.Tx) error {
		return tx.ForEach(func(name []byte, b *bbolt.Bucket) error {
			c := b.Cursor()
			for k, _ := c.First(); k != nil; k, _ = c.Next() {
				n++
			}
			return nil
		})
	})
	if err == nil {
		err = db.Update(func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists([]byte("a"))
			if err != nil {
				return err
			}
			seq, err := b.NextSequence()
			if err != nil {
				return err
			}
			return b.Put(binary.BigEndian.AppendUint64(nil, seq), make([]byte, 20_000))
		})
	}
	if err != nil {
		t.Error(err)
	}
	return n
}

// TestDamagedFileIsSetAsideAndOpens: whatever page is zeroed, filled with noise or missing,
// the file opens, takes writes, and what was damaged is kept beside it.
func TestDamagedFileIsSetAsideAndOpens(t *testing.T) {
	whole := filled(t)
	page := os.Getpagesize()
	pages := len(whole) / page
	damages := map[string]func(body []byte, at int) []byte{
		"zeroed": func(body []byte, at int) []byte { clear(body[at*page : (at+1)*page]); return body },
		"noise": func(body []byte, at int) []byte {
			for i := at * page; i < (at+1)*page; i++ {
				body[i] = byte(i*7 + at)
			}
			return body
		},
		"torn": func(body []byte, at int) []byte { clear(body[at*page+page/2 : (at+1)*page]); return body },
		"cut":  func(body []byte, at int) []byte { return body[:at*page+100] },
	}
	unnoticed, saved := 0, 0
	for name, damage := range damages {
		for at := range pages {
			dir := t.TempDir()
			path := filepath.Join(dir, "db")
			if err := os.WriteFile(path, damage(append([]byte(nil), whole...), at), 0o600); err != nil {
				t.Fatal(err)
			}
			db, found, err := boltfile.Open(path)
			if err != nil {
				t.Errorf("page %d %s: %v", at, name, err)
				continue
			}
			n := entries(t, db)
			saved += n
			if err := db.Close(); err != nil {
				t.Error(err)
			}
			aside, err := filepath.Glob(filepath.Join(dir, "db.damaged-*"))
			if err != nil || (found != nil) != (len(aside) == 1) {
				t.Errorf("page %d %s: damage %v, set aside %v, %v", at, name, found, aside, err)
			}
			if found == nil {
				unnoticed++ // a page that is free, or the older of the two meta pages
			}
			left, err := filepath.Glob(filepath.Join(dir, "*"))
			if err != nil || len(left) != 1+len(aside) {
				t.Errorf("page %d %s: left behind %v, %v", at, name, left, err)
			}
		}
	}
	if n := 4 * pages; unnoticed > n*3/4 || saved < n*600 {
		t.Errorf("of %d damages %d were not noticed, %d entries were saved", n, unnoticed, saved)
	}
	t.Logf("%d pages: of %d damages %d were in pages that are not used; %d of %d entries were saved", pages, 4*pages, unnoticed, saved, 4*pages*1200)
}

func TestWholeFileIsOpenedAsItIs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	if err := os.WriteFile(path, filled(t), 0o600); err != nil {
		t.Fatal(err)
	}
	db, damage, err := boltfile.Open(path)
	if err != nil || damage != nil {
		t.Fatal(damage, err)
	}
	if n := entries(t, db); n != 1200 {
		t.Errorf("%d entries", n)
	}
	// While it is open another waits for it, and does not call it damaged.
	if _, damage, err := boltfile.Open(path); err == nil || damage != nil {
		t.Errorf("opened twice: %v, %v", damage, err)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
}

func TestFileThatIsNoneIsSetAside(t *testing.T) {
	for name, body := range map[string]string{"empty": "", "text": "hello\n", "long text": strings.Repeat("hello", 10_000)} {
		path := filepath.Join(t.TempDir(), "db")
		if err := os.WriteFile(path, []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
		db, damage, err := boltfile.Open(path)
		if err != nil || (damage == nil) != (body == "") {
			t.Errorf("%s: %v, %v", name, damage, err)
			continue
		}
		if damage != nil && !strings.Contains(fmt.Sprint(damage), "is kept as") {
			t.Errorf("%s: %v", name, damage)
		}
		entries(t, db)
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}
}

// brimful returns a file whose next entry would make it grow.
func brimful(t *testing.T) (before []byte) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db")
	if err := os.WriteFile(path, filled(t), 0o600); err != nil {
		t.Fatal(err)
	}
	for i := 0; ; i++ {
		body, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if before != nil && len(body) > len(before) {
			return before
		}
		before = body
		db, _, err := boltfile.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		err = db.Update(func(tx *bbolt.Tx) error {
			return tx.Bucket([]byte("a")).Put(fmt.Appendf(nil, "more%d", i), make([]byte, 3000))
		})
		if err == nil {
			err = db.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestFullDiskIsNoDamage: on a disk that has room for a copy and little more, or for none, a
// whole file is not called damaged.
func TestFullDiskIsNoDamage(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("NOT RUN: needs root, to mount a small tmpfs")
	}
	whole := brimful(t)
	for _, room := range []int{0, 16 << 10, len(whole), len(whole) + 4<<10, len(whole) + 16<<10} {
		dir := t.TempDir()
		options := fmt.Sprintf("size=%d", len(whole)+room)
		if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "db")
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			t.Error(err)
		}
		db, damage, err := boltfile.Open(path)
		if err != nil || damage != nil {
			t.Errorf("with room for %d bytes: %v, %v", room, damage, err)
		} else if err := db.Close(); err != nil {
			t.Error(err)
		}
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}
}
