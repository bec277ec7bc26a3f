package contain

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/contraband-dev/contraband/internal/blobstore"
	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/cases/caselog"
)

// TestUploadWithAnotherHashIsNoEvidence: a node can send any bytes; only those that have
// the hash of what ran become evidence.
func TestUploadWithAnotherHashIsNoEvidence(t *testing.T) {
	store, err := blobstore.Open(t.Context(), "mem://")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	ran := []byte("what ran")
	sum := sha256.Sum256(ran)
	k := task{Executor: &Executor{Log: &caselog.Store{Objects: store}, Now: time.Now}, claim: cases.Claimed{SHA256: hex.EncodeToString(sum[:])}}
	if err := store.Create(t.Context(), "uploads/forged", []byte("something else")); err != nil {
		t.Fatal(err)
	}
	a, err := k.verify(t.Context(), "uploads/forged")
	if err != nil || a.Done || !strings.Contains(a.Error, "another hash") {
		t.Errorf("forged: %+v, %v", a, err)
	}
	if _, err := store.Read(t.Context(), blobstore.EvidenceKey(k.claim.SHA256)); !errors.Is(err, blobstore.ErrNotExist) {
		t.Errorf("it is evidence: %v", err)
	}
	if err := store.Create(t.Context(), "uploads/true", ran); err != nil {
		t.Fatal(err)
	}
	if a, err = k.verify(t.Context(), "uploads/true"); err != nil || !a.Done || a.Bytes != int64(len(ran)) {
		t.Errorf("true: %+v, %v", a, err)
	}
}
