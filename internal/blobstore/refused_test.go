package blobstore_test

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"cloud.google.com/go/storage"
	"gocloud.dev/blob/gcsblob"
	"gocloud.dev/gcp"
	"google.golang.org/api/option"

	"github.com/contraband-dev/contraband/internal/blobstore"
	"github.com/contraband-dev/contraband/internal/blobstore/blobstoretest"
)

// onlyCreates behaves like a bucket for a caller who may only create, where that is looked at
// before the precondition: an upload to a key that is there would need the right to
// delete it.
type onlyCreates struct {
	base   http.RoundTripper
	taken  map[string]bool
	closed bool // nothing may be created at all
}

func (o *onlyCreates) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method != http.MethodPost && o.closed {
		return refusal(r), nil
	}
	if r.Method == http.MethodPost && strings.Contains(r.URL.Path, "/upload/") {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		for key := range o.taken {
			if strings.Contains(string(body), `"`+key+`"`) || strings.Contains(r.URL.RawQuery, key) {
				return refusal(r), nil
			}
		}
		if o.closed {
			return refusal(r), nil
		}
	}
	return o.base.RoundTrip(r)
}

func refusal(r *http.Request) *http.Response {
	return &http.Response{StatusCode: http.StatusForbidden, Status: "403 Forbidden", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r,
		Header: http.Header{"Content-Type": {"application/json"}},
		Body:   io.NopCloser(strings.NewReader(`{"error":{"code":403,"message":"does not have storage.objects.delete access"}}`))}
}

// TestRefusedIsTaken: a create that is refused because the key is there has lost a race;
// one that is refused for another reason is an error.
func TestRefusedIsTaken(t *testing.T) {
	o := &onlyCreates{base: http.DefaultTransport, taken: map[string]bool{}}
	b, err := gcsblob.OpenBucket(t.Context(), &gcp.HTTPClient{Client: http.Client{Transport: o}}, "cases",
		&gcsblob.Options{ClientOptions: []option.ClientOption{option.WithEndpoint(blobstoretest.StartGCS(t) + "/storage/v1/"), option.WithoutAuthentication(), storage.WithJSONReads()}})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	s := blobstore.FromBucket(b)
	if err := s.Create(t.Context(), "events-1", []byte("first")); err != nil {
		t.Fatal(err)
	}
	o.taken["events-1"] = true
	if err := s.Create(t.Context(), "events-1", []byte("second")); !errors.Is(err, blobstore.ErrExists) {
		t.Errorf("a key that is there: %v", err)
	}
	if body, err := s.Read(t.Context(), "events-1"); err != nil || string(body) != "first" {
		t.Errorf("%q, %v", body, err)
	}
	o.closed = true
	if err := s.Create(t.Context(), "events-2", nil); err == nil || errors.Is(err, blobstore.ErrExists) {
		t.Errorf("no right at all: %v", err)
	}
	if _, err := s.Read(t.Context(), "events-1"); err == nil || errors.Is(err, blobstore.ErrNotExist) {
		t.Errorf("a read that is refused: %v", err) // a case that cannot be read is not a new case
	}
	if err := s.Delete(t.Context(), "events-1"); err == nil {
		t.Error("a removal that is refused is told as done")
	}
}
