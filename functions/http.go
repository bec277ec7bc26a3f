package functions

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"

	"github.com/contraband-dev/contraband/internal/respond"
	"github.com/contraband-dev/contraband/internal/retry"
)

// Advance takes every step that a case is due. No decision arrives in the request.
func (s *Suite) Advance(w http.ResponseWriter, r *http.Request) {
	var in advanceRequest
	if !read(w, r, &in) {
		return
	}
	// Who asked may have no time to wait: Interact has three seconds.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), respond.FunctionTimeout)
	defer cancel()
	answer, err := s.advance(ctx, in)
	reply(w, answer, err)
}

// Contain carries out one recorded claim.
func (s *Suite) Contain(w http.ResponseWriter, r *http.Request) {
	var in containRequest
	if !read(w, r, &in) {
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), respond.ActDeadline)
	defer cancel()
	acted, err := s.container.Do(ctx, in.Case, in.Event)
	reply(w, acted, err)
}

// Casebook serves the pages.
func (s *Suite) Casebook(w http.ResponseWriter, r *http.Request) { s.casebook.ServeHTTP(w, r) }

func read(w http.ResponseWriter, r *http.Request, v any) bool {
	if r.Method != http.MethodPost {
		http.Error(w, "POST only", http.StatusMethodNotAllowed)
		return false
	}
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4<<10))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		http.Error(w, "the body cannot be read: "+err.Error(), http.StatusBadRequest)
		return false
	}
	return true
}

func reply(w http.ResponseWriter, v any, err error) {
	switch {
	case err == nil:
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(v)
	case retry.IsPermanent(err):
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
	default:
		slog.Warn("to be tried again", "error", err.Error())
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
	}
}
