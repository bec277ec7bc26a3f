package blobstore_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/contraband-dev/contraband/internal/blobstore"
	"github.com/contraband-dev/contraband/internal/blobstore/blobstoretest"
)

// TestSplit: cases live where nothing can be removed; what passes lives beside.
func TestSplit(t *testing.T) {
	kept, passing := blobstoretest.Open(t, "mem://"), blobstoretest.Open(t, "mem://")
	s := blobstore.Split(kept, passing)
	for _, key := range []string{"events/a/1", "evidence/x", "clicks/a/1", "findings/f", "wakes/2026/a", "holds/p/a.isolate", "frozen/w/p.a", "uploads/o", "callbacks/a/1"} {
		if err := s.Create(t.Context(), key, []byte(key)); err != nil {
			t.Fatal(err)
		}
		if b, err := s.Read(t.Context(), key); err != nil || string(b) != key {
			t.Errorf("%s: %q, %v", key, b, err)
		}
		dir, _, _ := strings.Cut(key, "/")
		if all, err := s.List(t.Context(), dir+"/"); err != nil || !slices.Equal(all, []string{key}) {
			t.Errorf("%s: %v, %v", dir, all, err)
		}
		_, err := kept.Read(t.Context(), key)
		passes := slices.Contains([]string{"wakes", "holds", "frozen", "uploads", "callbacks", "people"}, dir)
		if passes != errors.Is(err, blobstore.ErrNotExist) {
			t.Errorf("%s is in the wrong store: %v", key, err)
		}
		if passes {
			if err := s.Delete(t.Context(), key); err != nil {
				t.Error(err)
			}
			if left, err := passing.List(t.Context(), dir+"/"); err != nil || len(left) != 0 {
				t.Errorf("%s stays: %v, %v", key, left, err)
			}
		}
	}
	both, err := blobstore.Open(t.Context(), "mem://,dir://"+t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := both.Create(t.Context(), "wakes/1/a", nil); err != nil {
		t.Error(err)
	}
	if err := both.Close(); err != nil {
		t.Error(err)
	}
	if _, err := blobstore.Open(t.Context(), "mem://,nowhere"); err == nil {
		t.Error("the second address is not looked at")
	}
}
