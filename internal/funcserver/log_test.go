package funcserver

import (
	"bytes"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http/httptest"
	"testing"
)

// TestLogEntriesHaveTheFieldsOfCloudLogging: a severity that alerts can filter by, and the
// trace of the request.
func TestLogEntriesHaveTheFieldsOfCloudLogging(t *testing.T) {
	const trace = "0123456789abcdef0123456789abcdef"
	for name, c := range map[string]struct{ header, value, project, want string }{
		"the W3C's header": {"traceparent", "00-" + trace + "-0123456789abcdef-01", "p", "projects/p/traces/" + trace},
		"Google's header":  {"X-Cloud-Trace-Context", trace + "/7;o=1", "p", "projects/p/traces/" + trace},
		"no header":        {"X-Other", trace, "p", ""},
		"a forged one":     {"X-Cloud-Trace-Context", `x","severity":"DEBUG/1`, "p", ""},
		"no project":       {"traceparent", "00-" + trace + "-0123456789abcdef-01", "", ""},
	} {
		var out bytes.Buffer
		log := slog.New(NewLogHandler(&out, c.project)).With("case", "c1")
		r := httptest.NewRequestWithContext(t.Context(), "POST", "/", nil)
		r.Header.Set(c.header, c.value)
		log.ErrorContext(withTrace(r), "no channel took the page", "error", errors.New("a \"quoted\"\nline"))
		var entry map[string]string
		if err := json.Unmarshal(out.Bytes(), &entry); err != nil {
			t.Fatalf("%s: %v in %s", name, err, &out)
		}
		if entry["severity"] != "ERROR" || entry["message"] != "no channel took the page" || entry["case"] != "c1" || entry["error"] != "a \"quoted\"\nline" || entry["logging.googleapis.com/trace"] != c.want {
			t.Errorf("%s: %s", name, &out)
		}
		if _, ok := entry["level"]; ok {
			t.Errorf("%s: %s", name, &out)
		}
	}
	for level, want := range map[slog.Level]string{slog.LevelDebug: "DEBUG", slog.LevelInfo: "INFO", slog.LevelWarn: "WARNING", slog.LevelError: "ERROR", slog.LevelError + 4: "ERROR"} {
		if got := severityOf(level); got != want {
			t.Errorf("%s is %s, want %s", level, got, want)
		}
	}
}
