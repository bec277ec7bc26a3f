package blobstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"gocloud.dev/blob"
	_ "gocloud.dev/blob/gcsblob" // gs://
	"gocloud.dev/blob/memblob"
	"gocloud.dev/gcerrors"
	"google.golang.org/api/googleapi"
)

// ErrExists is returned by Create when the key exists.
var ErrExists = errors.New("key exists")

// ErrNotExist is returned by Read for a key that does not exist.
var ErrNotExist = errors.New("key does not exist")

// Store is where cases are kept. Create is the one primitive that carries
// everything: of any number of racing callers, in any number of processes,
// exactly one succeeds, and when it has returned nil the value is durable.
type Store interface {
	// Create writes a new key whole, or fails with ErrExists and writes nothing.
	Create(ctx context.Context, key string, body []byte) error
	// Read returns a key's value, or ErrNotExist.
	Read(ctx context.Context, key string) ([]byte, error)
	// Created returns when a key was created by the store's own clock, or ErrNotExist.
	Created(ctx context.Context, key string) (time.Time, error)
	// List returns the keys with a prefix, in order.
	List(ctx context.Context, prefix string) ([]string, error)
	// Delete removes a key of a derived index; an absent one is not an error.
	// Nothing of the log itself is ever deleted.
	Delete(ctx context.Context, key string) error
	Close() error
}

// Open opens a store by its address: gs://BUCKET, mem:// (lost at the end of
// the process; for tests), or dir:///PATH (one machine). Of two addresses with a comma
// between them the first keeps cases, and the second what is removed once it has
// served (Split).
func Open(ctx context.Context, address string) (Store, error) {
	if kept, passing := addresses(address); passing != "" {
		k, err := Open(ctx, kept)
		if err != nil {
			return nil, err
		}
		p, err := Open(ctx, passing)
		if err != nil {
			return nil, errors.Join(err, k.Close())
		}
		return Split(k, p), nil
	}
	switch scheme, rest, _ := strings.Cut(address, "://"); scheme {
	case "dir":
		return openDirectory(rest)
	case "mem":
		return bucket{memblob.OpenBucket(nil)}, nil
	case "gs":
		b, err := blob.OpenBucket(ctx, address)
		if err != nil {
			return nil, fmt.Errorf("open bucket %q: %w", address, err)
		}
		return bucket{b}, nil
	default:
		return nil, fmt.Errorf("open store %q: the address must begin with gs://, dir:/// or mem://", address)
	}
}

// FromBucket is a Store on an open bucket whose driver makes IfNotExist atomic
// (gcsblob and memblob do; fileblob does not between processes).
func FromBucket(b *blob.Bucket) Store { return bucket{b} }

type bucket struct{ b *blob.Bucket }

func (s bucket) Create(ctx context.Context, key string, body []byte) error {
	err := s.b.WriteAll(ctx, key, body, &blob.WriterOptions{IfNotExist: true, ContentType: "application/octet-stream"})
	if gcerrors.Code(err) == gcerrors.FailedPrecondition {
		return ErrExists
	}
	if s.denied(err) { // a writer without read access may get a refusal instead of "exists"
		if there, look := s.b.Exists(ctx, key); look == nil && there {
			return ErrExists
		}
	}
	if err != nil {
		return fmt.Errorf("create %q: %w", key, err)
	}
	return nil
}

func (s bucket) Read(ctx context.Context, key string) ([]byte, error) {
	body, err := s.b.ReadAll(ctx, key)
	if gcerrors.Code(err) == gcerrors.NotFound && !s.denied(err) {
		return nil, ErrNotExist
	}
	if err != nil {
		return nil, fmt.Errorf("read %q: %w", key, err)
	}
	return body, nil
}

func (s bucket) Created(ctx context.Context, key string) (time.Time, error) {
	a, err := s.b.Attributes(ctx, key)
	if gcerrors.Code(err) == gcerrors.NotFound && !s.denied(err) {
		return time.Time{}, ErrNotExist
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("attributes of %q: %w", key, err)
	}
	if a.CreateTime.IsZero() { // not every driver has it, and no key is changed
		return a.ModTime, nil
	}
	return a.CreateTime, nil
}

func (s bucket) List(ctx context.Context, prefix string) ([]string, error) {
	var keys []string
	for it := s.b.List(&blob.ListOptions{Prefix: prefix}); ; {
		o, err := it.Next(ctx)
		if errors.Is(err, io.EOF) {
			return keys, nil
		}
		if err != nil {
			return nil, fmt.Errorf("list %q: %w", prefix, err)
		}
		keys = append(keys, o.Key)
	}
}

func (s bucket) Delete(ctx context.Context, key string) error {
	if err := s.b.Delete(ctx, key); err != nil && (gcerrors.Code(err) != gcerrors.NotFound || s.denied(err)) {
		return fmt.Errorf("delete %q: %w", key, err)
	}
	return nil
}

// denied reports whether err is a refusal: the driver calls refusal and absence "not found".
func (s bucket) denied(err error) bool {
	var g *googleapi.Error
	return s.b.ErrorAs(err, &g) && g.Code == http.StatusForbidden
}

func (s bucket) Close() error { return s.b.Close() }
