package blobstore

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"
)

// mutablePrefixes have the keys that are removed once they have served. All others are
// only ever created, and can be kept where nothing can be removed.
var mutablePrefixes = []string{"wakes", "callbacks", "uploads", "holds", "frozen", "people"}

// split keeps what is only created in one store, and what is removed in another.
type split struct{ kept, mutable Store }

// Split puts two stores together: the first may forbid that anything is removed.
func Split(kept, passing Store) Store { return split{kept, passing} }

func (s split) of(key string) Store {
	if dir, _, _ := strings.Cut(key, "/"); slices.Contains(mutablePrefixes, dir) {
		return s.mutable
	}
	return s.kept
}

func (s split) Create(ctx context.Context, key string, body []byte) error {
	return s.of(key).Create(ctx, key, body)
}

func (s split) Read(ctx context.Context, key string) ([]byte, error) { return s.of(key).Read(ctx, key) }

func (s split) Created(ctx context.Context, key string) (time.Time, error) {
	return s.of(key).Created(ctx, key)
}

func (s split) List(ctx context.Context, prefix string) ([]string, error) {
	return s.of(prefix).List(ctx, prefix)
}

func (s split) Delete(ctx context.Context, key string) error { return s.of(key).Delete(ctx, key) }

func (s split) Close() error { return errors.Join(s.kept.Close(), s.mutable.Close()) }

// addresses are the two of a store in two parts; the second is "" where it is one.
func addresses(address string) (kept, passing string) {
	kept, passing, _ = strings.Cut(address, ",")
	return kept, passing
}
