// Package webhook is a receiver of Contraband's signed webhook, as docs/notify.md
// describes one: it checks signature and time, takes each idempotency key once, and
// fails on demand. Nothing deployed imports it.
package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Server is the receiver; serve its Handler.
type Server struct {
	// Secret that requests are signed with. Required.
	Secret string
	// Fault is called before and after an event is taken; a result other than 0 is sent
	// as the HTTP status. nil: never.
	Fault func(applied bool) int

	mu     sync.Mutex
	seen   map[string]bool
	events []json.RawMessage
}

// Events returns the bodies that were taken, in order.
func (s *Server) Events() []json.RawMessage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]json.RawMessage(nil), s.events...)
}

// Handler serves every path.
func (s *Server) Handler() http.Handler { return http.HandlerFunc(s.receive) }

func (s *Server) receive(w http.ResponseWriter, r *http.Request) {
	if s.faulty(w, false) {
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	if err != nil || !s.signed(r.Header, body) {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	if !json.Valid(body) {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	s.take(r.Header.Get("Idempotency-Key"), body)
	if !s.faulty(w, true) {
		w.WriteHeader(http.StatusNoContent)
	}
}

func (s *Server) signed(h http.Header, body []byte) bool {
	stamp := h.Get("X-Contraband-Timestamp")
	seconds, err := strconv.ParseInt(stamp, 10, 64)
	if age := time.Since(time.Unix(seconds, 0)); err != nil || age > 5*time.Minute || age < -5*time.Minute {
		return false
	}
	mac := hmac.New(sha256.New, []byte(s.Secret))
	mac.Write([]byte(stamp + "." + string(body)))
	given, err := hex.DecodeString(strings.TrimPrefix(h.Get("X-Contraband-Signature"), "v1="))
	return err == nil && hmac.Equal(given, mac.Sum(nil))
}

func (s *Server) take(key string, body []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen == nil {
		s.seen = map[string]bool{}
	}
	if !s.seen[key] {
		s.seen[key] = true
		s.events = append(s.events, body)
	}
}

func (s *Server) faulty(w http.ResponseWriter, applied bool) bool {
	if s.Fault == nil {
		return false
	}
	code := s.Fault(applied)
	if code != 0 {
		w.WriteHeader(code)
	}
	return code != 0
}
