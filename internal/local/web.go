package local

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"cloud.google.com/go/pubsub/v2"

	"github.com/contraband-dev/contraband/internal/blobstore"
	"github.com/contraband-dev/contraband/internal/respond"
	"github.com/contraband-dev/contraband/internal/sensorapi"
)

// handler serves the pages and the API. Every request needs the token: as a bearer
// token, in the cookie that /?key=TOKEN sets, or, for uploads, in a signature.
func (m *Machine) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /upload/{key...}", m.upload.serve)
	if m.slack != nil {
		mux.Handle("/slack-api/", http.StripPrefix("/slack-api", m.slack.Handler())) // checks the token itself
		mux.Handle("/slack/", m.guarded(http.StripPrefix("/slack", m.slack.Page())))
	}
	if m.sensor != nil {
		mux.Handle("/orders/", m.guarded(m.sensor.Handler()))
	}
	mux.Handle("POST /v1/publish", m.guarded(http.HandlerFunc(m.publish)))
	mux.Handle("GET /v1/deadletters", m.guarded(http.HandlerFunc(m.deadLetters)))
	mux.Handle("POST /v1/deadletters/{id}/replay", m.guarded(http.HandlerFunc(m.replayDeadLetter)))
	mux.Handle("GET /v1/outcomes/{id}", m.guarded(http.HandlerFunc(m.outcome)))
	mux.Handle("GET /v1/status", m.guarded(http.HandlerFunc(m.status)))
	mux.Handle("/", m.guarded(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.book.Casebook(w, r)
	})))
	return onlyLoopback(mux)
}

// onlyLoopback rejects requests for a host name that only resolves to this machine, which
// is how a foreign web page would reach it (DNS rebinding).
func onlyLoopback(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := strings.Cut(r.Host, ":")
		if strings.HasPrefix(r.Host, "[") {
			host, _, _ = strings.Cut(r.Host[1:], "]")
		}
		if !isLoopback(host) {
			http.Error(w, "this service is available on loopback addresses only", http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}

const cookie = "contraband"

func (m *Machine) guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if given := r.URL.Query().Get("key"); given != "" && m.isToken(given) {
			http.SetCookie(w, &http.Cookie{
				Name: cookie, Value: given, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode,
			})
			clean := *r.URL
			q := clean.Query()
			q.Del("key")
			clean.RawQuery = q.Encode()
			http.Redirect(w, r, clean.RequestURI(), http.StatusSeeOther)
			return
		}
		c, err := r.Cookie(cookie)
		bearer := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !m.isToken(bearer) && (err != nil || !m.isToken(c.Value)) {
			http.Error(w, "missing key: open the address that `contraband up` printed", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (m *Machine) isToken(s string) bool {
	return subtle.ConstantTimeCompare([]byte(s), []byte(m.Token)) == 1
}

// publish publishes the request body to the findings topic.
func (m *Machine) publish(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxMessage))
	if errors.As(err, new(*http.MaxBytesError)) {
		http.Error(w, fmt.Sprintf("a message of Pub/Sub has at most %d bytes", maxMessage), http.StatusRequestEntityTooLarge)
		return
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	p := m.broker.client.Publisher(topicFindings)
	p.PublishSettings.DelayThreshold = time.Millisecond
	defer p.Stop()
	id, err := p.Publish(r.Context(), &pubsub.Message{Data: body}).Get(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	writeJSON(w, map[string]string{"id": id})
}

// deadLetters lists the messages that were given up on.
func (m *Machine) deadLetters(w http.ResponseWriter, _ *http.Request) {
	all, err := m.broker.deadLetters()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	writeJSON(w, all)
}

// replayDeadLetter publishes one of them again.
func (m *Machine) replayDeadLetter(w http.ResponseWriter, r *http.Request) {
	switch err := m.broker.replayDead(r.Context(), r.PathValue("id")); {
	case errors.Is(err, errNoLetter):
		http.Error(w, err.Error(), http.StatusNotFound)
	case err != nil:
		http.Error(w, err.Error(), http.StatusBadGateway)
	default:
		writeJSON(w, struct{}{})
	}
}

// outcome waits for the outcome of a message.
func (m *Machine) outcome(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 30*time.Second)
	defer cancel()
	o, ok := m.done.wait(ctx, r.PathValue("id"))
	if !ok {
		http.Error(w, "no outcome yet", http.StatusNotFound)
		return
	}
	writeJSON(w, o)
}

// Status is the status of a running pipeline.
type Status struct {
	Waiting     int      `json:"waiting"` // published messages that are not delivered yet
	Dead        int      `json:"dead"`
	DeadReasons []string `json:"deadReasons,omitempty"`
	Findings    int      `json:"findings"` // stored in the in-process SCC server
	Escalated   int      `json:"escalated"`
	Pages       int      `json:"pages"` // messages in the in-process Slack server; -1 with a real Slack
	Sensor      any      `json:"sensor,omitempty"`
}

func (m *Machine) status(w http.ResponseWriter, _ *http.Request) {
	var s Status
	var errs [4]error
	s.Waiting, s.Dead, errs[0] = m.broker.counts()
	letters, err := m.broker.deadLetters()
	errs[1] = err
	for _, l := range letters {
		s.DeadReasons = append(s.DeadReasons, l.Reason)
	}
	all, sccErr := m.scc.Findings()
	errs[2] = sccErr
	s.Findings = len(all)
	for _, f := range all {
		if f.Category != "Added Binary Executed" {
			s.Escalated++
		}
	}
	s.Pages = -1
	if m.slack != nil {
		messages, err := m.slack.Messages()
		s.Pages, errs[3] = len(messages), err
	}
	if m.sensor != nil {
		if st, err := m.sensor.Stats(); err == nil {
			s.Sensor = st
		}
	}
	if err := errors.Join(errs[:]...); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	writeJSON(w, s)
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v)
}

// outcomes keeps the outcomes of the latest messages for clients that wait for them.
type outcomes struct {
	mu    sync.Mutex
	known map[string][]respond.Result
	order []string
	wake  chan struct{}
}

const maxOutcomes = 10_000

func (o *outcomes) put(id string, out []respond.Result) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.known == nil {
		o.known = map[string][]respond.Result{}
	}
	o.known[id] = out
	if o.order = append(o.order, id); len(o.order) > maxOutcomes {
		delete(o.known, o.order[0])
		o.order = o.order[1:]
	}
	if o.wake != nil {
		close(o.wake)
		o.wake = nil
	}
}

func (o *outcomes) wait(ctx context.Context, id string) ([]respond.Result, bool) {
	for {
		o.mu.Lock()
		out, ok := o.known[id]
		if o.wake == nil {
			o.wake = make(chan struct{})
		}
		wake := o.wake
		o.mu.Unlock()
		if ok {
			return out, true
		}
		select {
		case <-ctx.Done():
			return nil, false
		case <-wake:
		}
	}
}

// uploads accepts uploads to signed URLs, each of which creates one key, with a size limit,
// within ten minutes.
type uploads struct {
	key   []byte
	base  string
	store blobstore.Store
}

func (u uploads) sign(_ context.Context, key string, maxBytes int64) (*sensorapi.Upload, error) {
	until := time.Now().Add(10 * time.Minute).Unix()
	q := url.Values{"max": {fmt.Sprint(maxBytes)}, "until": {fmt.Sprint(until)}}
	q.Set("sig", u.mac(key, q.Get("max"), q.Get("until")))
	return &sensorapi.Upload{URL: u.base + key + "?" + q.Encode(), MaxBytes: maxBytes}, nil
}

func (u uploads) mac(parts ...string) string {
	h := hmac.New(sha256.New, u.key)
	io.WriteString(h, strings.Join(parts, "\n"))
	return hex.EncodeToString(h.Sum(nil))
}

func (u uploads) serve(w http.ResponseWriter, r *http.Request) {
	q, key := r.URL.Query(), r.PathValue("key")
	maxBytes, err1 := strconv.ParseInt(q.Get("max"), 10, 64)
	until, err2 := strconv.ParseInt(q.Get("until"), 10, 64)
	signed := hmac.Equal([]byte(u.mac(key, q.Get("max"), q.Get("until"))), []byte(q.Get("sig")))
	if !signed || err1 != nil || err2 != nil {
		http.Error(w, "invalid signature", http.StatusForbidden)
		return
	}
	if time.Now().Unix() > until {
		http.Error(w, "upload URL has expired", http.StatusForbidden)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBytes))
	if err != nil {
		http.Error(w, "request body is too large or incomplete", http.StatusRequestEntityTooLarge)
		return
	}
	switch err := u.store.Create(r.Context(), key, body); {
	case errors.Is(err, blobstore.ErrExists):
		http.Error(w, "object already exists", http.StatusPreconditionFailed)
	case err != nil:
		http.Error(w, err.Error(), http.StatusInternalServerError)
	default:
		w.WriteHeader(http.StatusCreated)
	}
}
