// Package virustotal stands in for VirusTotal's API v3, file reports only: it
// speaks its protocol, asks for a key, and fails on demand. Nothing that is
// deployed imports it.
package virustotal

import (
	"compress/gzip"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// Server serves reports of the files that were added.
type Server struct {
	*httptest.Server
	key   string
	mu    sync.Mutex
	files map[string]map[string]any // attributes by SHA-256
	// reports are objects as JSON, by SHA-256.
	reports map[string]string
	status  int
}

// Start one until the test ends.
func Start(t testing.TB, key string) *Server {
	s := &Server{key: key, files: map[string]map[string]any{}, reports: map[string]string{}}
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

// Report makes a file known with a report as it is: the JSON of its object.
func (s *Server) Report(sum, object string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reports[sum] = object
}

// NotAnalysed makes a file known about which no engine has said anything.
func (s *Server) NotAnalysed(sum string) { s.put(sum, map[string]any{"meaningful_name": "x"}) }

// Fail makes every request fail with this status and an empty body; 0 ends it.
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
	case s.reports[m[1]] != "":
		serveReport(w, r, s.reports[m[1]])
	case s.files[m[1]] == nil:
		fail(w, http.StatusNotFound, "NotFoundError")
	default:
		answer(w, map[string]any{"data": map[string]any{"type": "file", "id": m[1], "attributes": s.files[m[1]]}})
	}
}

// serveReport writes a report, compressed where the client takes it, as the service does.
func serveReport(w http.ResponseWriter, r *http.Request, object string) {
	w.Header().Set("Content-Type", "application/json")
	out := io.Writer(w)
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		defer z.Close()
		out = z
	}
	io.WriteString(out, `{"data":`+object+`}`)
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
