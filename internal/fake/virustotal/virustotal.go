// Package virustotal stands in for VirusTotal's API v3, file reports only: it
// speaks its protocol, asks for a key, and fails on demand. Nothing that is
// deployed imports it.
package virustotal

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"regexp"
	"sync"
	"testing"
)

// Server knows the files that it was told of.
type Server struct {
	*httptest.Server
	key    string
	mu     sync.Mutex
	files  map[string]map[string]any // attributes by SHA-256
	status int
}

// Start one until the test ends.
func Start(t testing.TB, key string) *Server {
	s := &Server{key: key, files: map[string]map[string]any{}}
	s.Server = httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(s.Close)
	return s
}

// Analysed makes a file known, with the count of engines that call it malicious.
func (s *Server) Analysed(sum string, malicious, engines int, label string) {
	a := map[string]any{"last_analysis_stats": map[string]int{"malicious": malicious, "suspicious": 0, "undetected": engines - malicious, "harmless": 0, "timeout": 0}}
	if label != "" {
		a["popular_threat_classification"] = map[string]any{"suggested_threat_label": label}
	}
	s.put(sum, a)
}

// NotAnalysed makes a file known about which no engine has said anything.
func (s *Server) NotAnalysed(sum string) { s.put(sum, map[string]any{"meaningful_name": "x"}) }

// Fail answers every request with an empty body of this status; 0 ends it.
func (s *Server) Fail(status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status = status
}

func (s *Server) put(sum string, a map[string]any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files[sum] = a
}

var filePath = regexp.MustCompile(`^/api/v3/files/([0-9a-f]{64})$`)

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := filePath.FindStringSubmatch(r.URL.Path)
	switch {
	case s.status != 0:
		w.WriteHeader(s.status)
	case r.Header.Get("x-apikey") != s.key:
		fail(w, http.StatusUnauthorized, "WrongCredentialsError")
	case m == nil || r.Method != http.MethodGet:
		fail(w, http.StatusBadRequest, "BadRequestError")
	case s.files[m[1]] == nil:
		fail(w, http.StatusNotFound, "NotFoundError")
	default:
		answer(w, map[string]any{"data": map[string]any{"type": "file", "id": m[1], "attributes": s.files[m[1]]}})
	}
}

func fail(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	answer(w, map[string]any{"error": map[string]string{"code": code, "message": code}})
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v)
}
