// Package blobstoretest opens every blobstore driver for tests.
package blobstoretest

import (
	"testing"

	"net/http"

	"cloud.google.com/go/storage"
	"github.com/fsouza/fake-gcs-server/fakestorage"
	"gocloud.dev/blob/gcsblob"
	"gocloud.dev/gcp"
	"google.golang.org/api/option"

	"github.com/contraband-dev/contraband/internal/blobstore"
)

// GCS opens a Store over the real GCS protocol on the server at url.
func GCS(t *testing.T, url string) blobstore.Store {
	t.Helper()
	b, err := gcsblob.OpenBucket(t.Context(), &gcp.HTTPClient{Client: *http.DefaultClient}, "cases",
		&gcsblob.Options{ClientOptions: []option.ClientOption{option.WithEndpoint(url + "/storage/v1/"), option.WithoutAuthentication(), storage.WithJSONReads()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return blobstore.FromBucket(b)
}

// StartGCS starts an in-process GCS server with one bucket and returns its URL.
func StartGCS(t *testing.T) string {
	t.Helper()
	s, err := fakestorage.NewServerWithOptions(fakestorage.Options{Scheme: "http", Host: "127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	s.CreateBucketWithOpts(fakestorage.CreateBucketOpts{Name: "cases"})
	return s.URL()
}

// Open opens the store at address and closes it when the test ends.
func Open(t *testing.T, address string) blobstore.Store {
	t.Helper()
	s, err := blobstore.Open(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// Each runs f against every driver: memory, directory and GCS.
func Each(t *testing.T, f func(t *testing.T, s blobstore.Store)) {
	t.Run("memory", func(t *testing.T) { f(t, Open(t, "mem://")) })
	t.Run("directory", func(t *testing.T) { f(t, Open(t, "dir://"+t.TempDir())) })
	t.Run("gcs", func(t *testing.T) { f(t, GCS(t, StartGCS(t))) })
}
