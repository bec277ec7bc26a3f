// Package googlechat is an in-process Google Chat that serves incoming webhooks: it
// checks key and token, limits and links, sends a request ID once, and fails on
// demand. Nothing deployed imports it.
package googlechat

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
)

// Message is a message in the space.
type Message struct {
	Name   string
	Thread string
	Body   string // the request's JSON
}

// Server is one space's webhook; serve its Handler.
type Server struct {
	// Token of the webhook. Required.
	Token string
	// Fault is called before and after a message is stored; a result other than 0 is
	// sent as the HTTP status. nil: never.
	Fault func(applied bool) int

	mu       sync.Mutex
	messages []Message
	requests map[string]string // message name by request ID
}

// Path returns the path and query of the webhook.
func (s *Server) Path() string { return "/v1/spaces/S1/messages?key=k&token=" + s.Token }

// Messages returns what was stored, oldest first.
func (s *Server) Messages() []Message {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Message(nil), s.messages...)
}

// Handler serves the webhook.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/spaces/S1/messages", s.create)
	return mux
}

func (s *Server) create(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("token") != s.Token || r.URL.Query().Get("key") == "" {
		refuse(w, http.StatusUnauthorized)
		return
	}
	if s.faulty(w, false) {
		return
	}
	var raw json.RawMessage
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 32_000)).Decode(&raw); err != nil || !valid(raw) {
		refuse(w, http.StatusBadRequest)
		return
	}
	name := s.store(r.URL.Query().Get("requestId"), raw)
	if s.faulty(w, true) {
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]string{"name": name})
}

func (s *Server) faulty(w http.ResponseWriter, applied bool) bool {
	if s.Fault == nil {
		return false
	}
	code := s.Fault(applied)
	if code != 0 {
		refuse(w, code)
	}
	return code != 0
}

// valid checks the parts of a message that Google Chat refuses when they are wrong.
func valid(raw json.RawMessage) bool {
	var m struct {
		Text  string
		Cards []struct {
			Card struct {
				Sections []struct{ Widgets []map[string]any }
			}
		} `json:"cardsV2"`
	}
	if json.Unmarshal(raw, &m) != nil || m.Text == "" && len(m.Cards) == 0 || len(m.Text) > 4096*4 {
		return false
	}
	widgets := 0
	for _, c := range m.Cards {
		for _, s := range c.Card.Sections {
			widgets += len(s.Widgets)
			for _, w := range s.Widgets {
				if !validWidget(w) {
					return false
				}
			}
		}
	}
	return widgets <= 100
}

func validWidget(w map[string]any) bool {
	if len(w) != 1 {
		return false
	}
	for _, kind := range []string{"decoratedText", "textParagraph", "buttonList"} {
		if body, ok := w[kind].(map[string]any); ok {
			text, isText := body["text"].(string)
			return !isText || strings.TrimSpace(text) != ""
		}
	}
	return false
}

func (s *Server) store(requestID string, raw json.RawMessage) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if name := s.requests[requestID]; name != "" {
		return name
	}
	var m struct {
		Thread struct {
			Key string `json:"threadKey"`
		}
	}
	_ = json.Unmarshal(raw, &m)
	name := fmt.Sprintf("spaces/S1/messages/%d", len(s.messages)+1)
	s.messages = append(s.messages, Message{Name: name, Thread: m.Thread.Key, Body: string(raw)})
	if s.requests == nil {
		s.requests = map[string]string{}
	}
	if requestID != "" {
		s.requests[requestID] = name
	}
	return name
}

func refuse(w http.ResponseWriter, status int) {
	if status == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", "1")
	}
	w.WriteHeader(status)
}
