package blobstore

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"cloud.google.com/go/storage"

	"github.com/contraband-dev/contraband/internal/sensorapi"
)

// uploadTime is how long an address that takes evidence is good.
const uploadTime = 10 * time.Minute

// UploadKey is where what an order asks for arrives, before it is verified.
func UploadKey(orderID string) string { return "uploads/" + orderID }

// EvidenceKey is where the bytes of a hash are kept.
func EvidenceKey(sha256 string) string { return "evidence/" + sha256 }

// Uploads makes addresses under which a node can create one key of a gs:// store,
// once, of at most max bytes, without any right of its own. For other stores it is nil.
func Uploads(ctx context.Context, address string) (func(ctx context.Context, key string, max int64) (*sensorapi.Upload, error), error) {
	if _, passing := addresses(address); passing != "" {
		address = passing
	}
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "gs" {
		return nil, nil
	}
	client, err := storage.NewClient(ctx)
	if err != nil {
		return nil, fmt.Errorf("open %q for uploads: %w", address, err)
	}
	bucket, prefix := client.Bucket(u.Host), u.Query().Get("prefix")
	return func(_ context.Context, key string, max int64) (*sensorapi.Upload, error) {
		return signUpload(bucket, prefix+key, max, storage.SignedURLOptions{})
	}, nil
}

// signUpload signs both conditions: the object must not exist, and its length is bounded.
func signUpload(bucket *storage.BucketHandle, key string, max int64, o storage.SignedURLOptions) (*sensorapi.Upload, error) {
	headers := map[string]string{"x-goog-if-generation-match": "0", "x-goog-content-length-range": fmt.Sprintf("0,%d", max)}
	o.Scheme, o.Method, o.Expires, o.ContentType = storage.SigningSchemeV4, http.MethodPut, time.Now().Add(uploadTime), "application/octet-stream"
	for name, value := range headers {
		o.Headers = append(o.Headers, name+":"+value)
	}
	address, err := bucket.SignedURL(key, &o)
	if err != nil {
		return nil, fmt.Errorf("sign an upload to %q: %w", key, err)
	}
	return &sensorapi.Upload{URL: address, Headers: headers, MaxBytes: max}, nil
}
