// Package slack stands in for Slack's Web API on one machine: the methods that
// pages need, the limits that Slack enforces, messages kept on disk, faults on
// demand, and a page that shows the channel to a person. Nothing that is
// deployed imports it.
package slack

import (
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"go.etcd.io/bbolt"
)

// Channel is the id of the one channel.
const Channel = "C0CONTRABAND"

// Message as the channel holds it.
type Message struct {
	Timestamp string          `json:"ts"`
	Text      string          `json:"text"`
	Blocks    json.RawMessage `json:"blocks,omitempty"`
	Metadata  json.RawMessage `json:"metadata,omitempty"`
	Edits     int             `json:"edits"`
}

// Server is the stand-in; serve its Handler.
type Server struct {
	// Token that callers must bring. Required.
	Token string
	// URL at which Handler is reached, for permalinks.
	URL string
	// Fault is asked before and after each call takes effect; an answer other
	// than 0 is sent as the HTTP status (429 with Retry-After: 1). nil: never.
	Fault func(method string, applied bool) int

	// Interact is where presses go; without it nothing can be pressed.
	Interact Interactivity

	db *bbolt.DB
	mu sync.Mutex
}

var bucketMessages = []byte("messages")

// Open opens the messages on disk.
func Open(file string) (*Server, error) {
	db, err := bbolt.Open(file, 0o600, &bbolt.Options{Timeout: 3 * time.Second})
	if err != nil {
		return nil, fmt.Errorf("slack stand-in: open %q: %w", file, err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(bucketMessages)
		return err
	})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &Server{db: db}, nil
}

// Close the disk.
func (s *Server) Close() error { return s.db.Close() }

// Messages of the channel, oldest first.
func (s *Server) Messages() ([]Message, error) {
	var out []Message
	err := s.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketMessages).ForEach(func(_, v []byte) error {
			var m Message
			err := json.Unmarshal(v, &m)
			out = append(out, m)
			return err
		})
	})
	return out, err
}

// Handler serves /api/METHOD, and / for people.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/{method}", s.api)
	mux.HandleFunc("GET /api/{method}", s.api)
	return mux
}

// Page shows the channel to a person, with its buttons. Who may see it is the
// caller's to restrict.
func (s *Server) Page() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.show)
	mux.HandleFunc("POST /press", s.pressed)
	return mux
}

func (s *Server) api(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 1<<20)
	method := r.PathValue("method")
	if err := r.ParseForm(); err != nil {
		refuse(w, "invalid_form_data")
		return
	}
	if strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ") != s.Token && r.Form.Get("token") != s.Token {
		refuse(w, "invalid_auth")
		return
	}
	if s.faulty(w, method, false) {
		return
	}
	s.mu.Lock()
	answer, problem := s.call(method, r)
	s.mu.Unlock()
	if s.faulty(w, method, true) {
		return
	}
	if problem != "" {
		refuse(w, problem)
		return
	}
	answer["ok"] = true
	reply(w, answer)
}

func (s *Server) faulty(w http.ResponseWriter, method string, applied bool) bool {
	if s.Fault == nil {
		return false
	}
	code := s.Fault(method, applied)
	if code == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", "1")
	}
	if code != 0 {
		w.WriteHeader(code)
	}
	return code != 0
}

func (s *Server) call(method string, r *http.Request) (answer map[string]any, problem string) {
	form := r.Form
	if method == "auth.test" {
		return map[string]any{"team": "on this machine", "user": "contraband"}, ""
	}
	if form.Get("channel") != Channel {
		return nil, "channel_not_found"
	}
	switch method {
	case "chat.postMessage":
		m := Message{Text: form.Get("text"), Blocks: raw(form.Get("blocks")), Metadata: raw(form.Get("metadata"))}
		if problem := valid(m); problem != "" {
			return nil, problem
		}
		if err := s.add(&m); err != nil {
			return nil, "internal_error"
		}
		return map[string]any{"channel": Channel, "ts": m.Timestamp, "message": m}, ""
	case "chat.update":
		m, ok := s.get(form.Get("ts"))
		if !ok {
			return nil, "message_not_found"
		}
		m.Text, m.Blocks, m.Edits = form.Get("text"), raw(form.Get("blocks")), m.Edits+1
		if problem := valid(m); problem != "" {
			return nil, problem
		}
		if err := s.put(m); err != nil {
			return nil, "internal_error"
		}
		return map[string]any{"channel": Channel, "ts": m.Timestamp, "text": m.Text}, ""
	case "chat.getPermalink":
		if _, ok := s.get(form.Get("message_ts")); !ok {
			return nil, "message_not_found"
		}
		return map[string]any{"channel": Channel, "permalink": s.URL + "#" + form.Get("message_ts")}, ""
	case "conversations.history":
		return s.history(form.Get("oldest"), form.Get("limit"), form.Get("include_all_metadata")), ""
	}
	return nil, "unknown_method"
}

func raw(s string) json.RawMessage {
	if s == "" {
		return nil
	}
	return json.RawMessage(s)
}

// valid enforces Slack's limits on a message.
func valid(m Message) string {
	var blocks []struct {
		Type   string
		Text   *struct{ Type, Text string }
		Fields []struct{ Text string }
	}
	if m.Blocks != nil && json.Unmarshal(m.Blocks, &blocks) != nil {
		return "invalid_blocks_format"
	}
	if m.Metadata != nil && !json.Valid(m.Metadata) {
		return "invalid_metadata_format"
	}
	if m.Text == "" && len(blocks) == 0 {
		return "no_text"
	}
	if len(blocks) > 50 {
		return "invalid_blocks"
	}
	for _, b := range blocks {
		most := 3000
		if b.Type == "header" {
			most = 150
		}
		if b.Text != nil && (b.Text.Text == "" || utf8.RuneCountInString(b.Text.Text) > most) || len(b.Fields) > 10 {
			return "invalid_blocks"
		}
		for _, f := range b.Fields {
			if f.Text == "" || utf8.RuneCountInString(f.Text) > 2000 {
				return "invalid_blocks"
			}
		}
	}
	return ""
}

func (s *Server) add(m *Message) error {
	return s.db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketMessages)
		n, err := b.NextSequence()
		if err != nil {
			return err
		}
		m.Timestamp = fmt.Sprintf("%d.%06d", time.Now().Unix(), n)
		v, err := json.Marshal(m)
		if err != nil {
			return err
		}
		return b.Put([]byte(m.Timestamp), v)
	})
}

func (s *Server) put(m Message) error {
	v, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return s.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketMessages).Put([]byte(m.Timestamp), v) })
}

func (s *Server) get(ts string) (m Message, ok bool) {
	s.db.View(func(tx *bbolt.Tx) error {
		v := tx.Bucket(bucketMessages).Get([]byte(ts))
		ok = v != nil && json.Unmarshal(v, &m) == nil
		return nil
	})
	return m, ok
}

// history answers newest first, as Slack does; metadata only when asked for.
func (s *Server) history(oldest, limit, metadata string) map[string]any {
	most, err := strconv.Atoi(limit)
	if err != nil || most <= 0 {
		most = 100
	}
	all, _ := s.Messages()
	slices.Reverse(all)
	out := []map[string]any{}
	for _, m := range all {
		if m.Timestamp <= oldest || len(out) == most {
			break
		}
		e := map[string]any{"type": "message", "ts": m.Timestamp, "text": m.Text, "blocks": m.Blocks}
		if metadata == "1" || metadata == "true" {
			e["metadata"] = m.Metadata
		}
		out = append(out, e)
	}
	return map[string]any{"messages": out, "has_more": false}
}

func refuse(w http.ResponseWriter, problem string) {
	reply(w, map[string]any{"ok": false, "error": problem})
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v)
}

var channelPage = template.Must(template.New("channel").Parse(`<!doctype html><html lang="en"><meta charset="utf-8"><title>#security (stand-in for Slack)</title>
<h1>#security</h1><p>This machine has no SLACK_TOKEN: here is what Slack would have shown.</p>
{{range .}}<article id="{{.Timestamp}}"><h2>{{.Headline}}</h2>{{range .Lines}}<p>{{.}}</p>{{end}}{{if .Buttons}}<form method="post" action="press"><input type="hidden" name="ts" value="{{.Timestamp}}">{{range .Buttons}}<button name="press" value="{{.Action}} {{.Value}}">{{.Label}}</button> {{end}}</form>{{end}}{{if .Edits}}<small>edited {{.Edits}} times</small>{{end}}</article><hr>{{else}}<p>Nothing yet.</p>{{end}}`))

// show renders the channel for a person; the text is shown, never interpreted.
func (s *Server) show(w http.ResponseWriter, _ *http.Request) {
	all, err := s.Messages()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	type button struct{ Label, Action, Value string }
	type shown struct {
		Timestamp, Headline string
		Lines               []string
		Edits               int
		Buttons             []button
	}
	var out []shown
	for _, m := range slices.Backward(all) {
		v := shown{Timestamp: m.Timestamp, Headline: m.Text, Edits: m.Edits}
		var blocks []struct {
			Text     struct{ Text string }
			Fields   []struct{ Text string }
			Elements []struct {
				Type     string
				Text     json.RawMessage
				ActionID string `json:"action_id"`
				Value    string
			}
		}
		if json.Unmarshal(m.Blocks, &blocks) == nil && len(blocks) > 0 {
			for _, b := range blocks[1:] {
				for _, f := range b.Fields {
					v.Lines = append(v.Lines, f.Text)
				}
				if b.Text.Text != "" {
					v.Lines = append(v.Lines, b.Text.Text)
				}
				for _, e := range b.Elements {
					var label struct{ Text string }
					if e.Type == "button" && json.Unmarshal(e.Text, &label) == nil {
						v.Buttons = append(v.Buttons, button{label.Text, e.ActionID, e.Value})
					}
				}
			}
		}
		out = append(out, v)
	}
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'")
	channelPage.Execute(w, out)
}
