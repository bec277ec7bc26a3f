package funcserver

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
)

// Names of the fields by which Cloud Logging knows a structured log entry.
const (
	fieldSeverity = "severity"
	fieldMessage  = "message"
	fieldTrace    = "logging.googleapis.com/trace"
)

// logOnce sets the program's log up where it runs on Cloud Run: a line that is no JSON has no
// severity there, and an error is not seen as one.
var logOnce = sync.OnceFunc(func() {
	if os.Getenv("K_SERVICE") != "" {
		slog.SetDefault(slog.New(NewLogHandler(os.Stderr, os.Getenv("GOOGLE_CLOUD_PROJECT"))))
	}
})

// NewLogHandler returns a handler that writes entries as Cloud Logging reads them, with the
// trace of the request that they are about where project is known.
func NewLogHandler(w io.Writer, project string) slog.Handler {
	return logHandler{slog.NewJSONHandler(w, &slog.HandlerOptions{ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) > 0 {
			return a
		}
		switch a.Key {
		case slog.LevelKey:
			level, _ := a.Value.Any().(slog.Level)
			return slog.String(fieldSeverity, severityOf(level))
		case slog.MessageKey:
			a.Key = fieldMessage
		}
		return a
	}}), project}
}

func severityOf(l slog.Level) string {
	switch {
	case l >= slog.LevelError:
		return "ERROR"
	case l >= slog.LevelWarn:
		return "WARNING"
	case l >= slog.LevelInfo:
		return "INFO"
	}
	return "DEBUG"
}

type logHandler struct {
	slog.Handler
	project string
}

// Handle implements slog.Handler.
func (h logHandler) Handle(ctx context.Context, r slog.Record) error {
	if trace, ok := ctx.Value(traceKey{}).(string); ok && h.project != "" {
		r = r.Clone()
		r.AddAttrs(slog.String(fieldTrace, "projects/"+h.project+"/traces/"+trace))
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return logHandler{h.Handler.WithAttrs(attrs), h.project}
}

// WithGroup implements slog.Handler.
func (h logHandler) WithGroup(name string) slog.Handler {
	return logHandler{h.Handler.WithGroup(name), h.project}
}

type traceKey struct{}

// withTrace returns the context of a request with its trace, by the W3C's header or Google's.
func withTrace(r *http.Request) context.Context {
	id := ""
	if parts := strings.Split(r.Header.Get("traceparent"), "-"); len(parts) == 4 {
		id = parts[1]
	} else {
		id, _, _ = strings.Cut(r.Header.Get("X-Cloud-Trace-Context"), "/")
	}
	if !isTrace(id) {
		return r.Context()
	}
	return context.WithValue(r.Context(), traceKey{}, id)
}

// isTrace reports whether a string is a trace ID: it comes from whoever calls.
func isTrace(id string) bool {
	return len(id) == 32 && strings.Trim(id, "0123456789abcdef") == ""
}
