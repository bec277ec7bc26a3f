// Package pagerduty is an in-process PagerDuty Events API v2: it checks routing keys
// and limits, de-duplicates by key, and fails on demand. Nothing deployed imports it.
package pagerduty

import (
	"encoding/json"
	"net/http"
	"slices"
	"sync"
	"unicode/utf8"
)

// Alert is what the events of one key add up to.
type Alert struct {
	Key      string
	Status   string // triggered, resolved
	Events   int
	Triggers int // events that opened it, and so paged
	Severity string
	Summary  string
}

// Server is the API; serve its Handler.
type Server struct {
	// Keys are the valid routing keys. Required.
	Keys []string
	// Fault is called before and after an event takes effect; a result other than 0 is
	// sent as the HTTP status. nil: never.
	Fault func(applied bool) int

	mu     sync.Mutex
	alerts map[string]*Alert
}

type event struct {
	RoutingKey string `json:"routing_key"`
	Action     string `json:"event_action"`
	DedupKey   string `json:"dedup_key"`
	Payload    struct {
		Summary, Source, Severity string
	} `json:"payload"`
	Links []struct{ Href, Text string } `json:"links"`
}

// Alerts returns the alerts in order of their keys.
func (s *Server) Alerts() []Alert {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Alert
	for _, a := range s.alerts {
		out = append(out, *a)
	}
	slices.SortFunc(out, func(a, b Alert) int {
		if a.Key < b.Key {
			return -1
		}
		return 1
	})
	return out
}

// Handler serves POST /v2/enqueue.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v2/enqueue", s.enqueue)
	return mux
}

func (s *Server) enqueue(w http.ResponseWriter, r *http.Request) {
	if s.faulty(w, false) {
		return
	}
	var e event
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 512<<10)).Decode(&e); err != nil {
		refuse(w, http.StatusBadRequest, "the event cannot be decoded")
		return
	}
	if !slices.Contains(s.Keys, e.RoutingKey) {
		refuse(w, http.StatusBadRequest, "'routing_key' is invalid")
		return
	}
	if problem := invalid(e); problem != "" {
		refuse(w, http.StatusBadRequest, problem)
		return
	}
	s.apply(e)
	if s.faulty(w, true) {
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusAccepted)
	_ = json.NewEncoder(w).Encode(map[string]string{"status": "success", "message": "Event processed", "dedup_key": e.DedupKey})
}

func (s *Server) faulty(w http.ResponseWriter, applied bool) bool {
	if s.Fault == nil {
		return false
	}
	code := s.Fault(applied)
	if code != 0 {
		refuse(w, code, "fault")
	}
	return code != 0
}

func invalid(e event) string {
	switch {
	case !slices.Contains([]string{"trigger", "acknowledge", "resolve"}, e.Action):
		return "'event_action' is invalid"
	case e.DedupKey == "" || utf8.RuneCountInString(e.DedupKey) > 255:
		return "'dedup_key' must have 1 to 255 characters"
	case e.Action != "trigger":
		return ""
	case e.Payload.Summary == "" || utf8.RuneCountInString(e.Payload.Summary) > 1024:
		return "'payload.summary' must have 1 to 1024 characters"
	case e.Payload.Source == "":
		return "'payload.source' is missing or blank"
	case !slices.Contains([]string{"critical", "error", "warning", "info"}, e.Payload.Severity):
		return "'payload.severity' is invalid"
	}
	return ""
}

func (s *Server) apply(e event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.alerts == nil {
		s.alerts = map[string]*Alert{}
	}
	a := s.alerts[e.DedupKey]
	if a == nil {
		if e.Action != "trigger" {
			return // of an alert that does not exist: accepted and ignored
		}
		a = &Alert{Key: e.DedupKey}
		s.alerts[e.DedupKey] = a
	}
	a.Events++
	switch e.Action {
	case "trigger":
		if a.Status != "triggered" {
			a.Triggers++
		}
		a.Status, a.Severity, a.Summary = "triggered", e.Payload.Severity, e.Payload.Summary
	case "resolve":
		a.Status = "resolved"
	}
}

func refuse(w http.ResponseWriter, status int, problem string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"status": "invalid event", "message": "Event object is invalid", "errors": []string{problem}})
}
