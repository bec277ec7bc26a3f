package blobstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// directory is a Store on one machine. A key becomes a file of that path; a
// file is written whole and synced under a temporary name, then linked to its
// own: link(2) fails when the name is taken, for every process alike, and no
// reader ever sees half a value.
type directory struct{ root string }

const temporary = ".tmp"

func openDirectory(root string) (Store, error) {
	if !filepath.IsAbs(root) {
		return nil, fmt.Errorf("open store: the path %q must be absolute (dir:///path)", root)
	}
	if err := os.MkdirAll(filepath.Join(root, temporary), 0o700); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	return directory{root}, nil
}

func (d directory) file(key string) (string, error) {
	if key == "" || path.Clean("/"+key) != "/"+key || strings.HasPrefix(key, temporary) {
		return "", fmt.Errorf("key %q cannot be a file's name", key)
	}
	return filepath.Join(d.root, filepath.FromSlash(key)), nil
}

func (d directory) Create(_ context.Context, key string, body []byte) error {
	name, err := d.file(key)
	if err != nil {
		return err
	}
	if _, err := os.Lstat(name); err == nil {
		return ErrExists // saves the sync; the link below decides
	}
	if err := d.create(name, body); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return ErrExists
		}
		return fmt.Errorf("create %q: %w", key, err)
	}
	return nil
}

func (d directory) create(name string, body []byte) error {
	tmp, err := os.CreateTemp(filepath.Join(d.root, temporary), "new")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(body)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if err := d.makeParents(filepath.Dir(name)); err != nil {
		return err
	}
	if err := os.Link(tmp.Name(), name); err != nil {
		return err
	}
	return syncDir(filepath.Dir(name))
}

// makeParents makes a folder and syncs the ones above it that are new.
func (d directory) makeParents(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := d.makeParents(filepath.Dir(dir)); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(filepath.Dir(dir))
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func (d directory) Read(_ context.Context, key string) ([]byte, error) {
	name, err := d.file(key)
	if err != nil {
		return nil, err
	}
	body, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNotExist
	}
	if err != nil {
		return nil, fmt.Errorf("read %q: %w", key, err)
	}
	return body, nil
}

func (d directory) Created(_ context.Context, key string) (time.Time, error) {
	name, err := d.file(key)
	if err != nil {
		return time.Time{}, err
	}
	info, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return time.Time{}, ErrNotExist
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("attributes of %q: %w", key, err)
	}
	return info.ModTime(), nil
}

func (d directory) List(_ context.Context, prefix string) ([]string, error) {
	var keys []string
	top := filepath.Join(d.root, filepath.FromSlash(path.Dir(prefix+"x"))) // the folder that holds whatever can match
	err := filepath.WalkDir(top, func(name string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // nothing yet, or deleted meanwhile
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(d.root, name)
		if err != nil {
			return err
		}
		key := filepath.ToSlash(rel)
		switch {
		case key == temporary:
			return fs.SkipDir
		case e.IsDir() && key != "." && !strings.HasPrefix(key+"/", prefix) && !strings.HasPrefix(prefix, key+"/") && !strings.HasPrefix(key, prefix):
			return fs.SkipDir
		case !e.IsDir() && strings.HasPrefix(key, prefix):
			keys = append(keys, key)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list %q: %w", prefix, err)
	}
	return keys, nil
}

func (d directory) Delete(_ context.Context, key string) error {
	name, err := d.file(key)
	if err != nil {
		return err
	}
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete %q: %w", key, err)
	}
	return nil
}

func (d directory) Close() error { return nil }
