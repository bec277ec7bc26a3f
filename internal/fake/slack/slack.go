// Package slack is an in-process Slack: the methods of the Web API that pages need,
// with Slack's documented limits, scopes, rate limits and errors enforced, messages
// kept on disk, faults on demand, and a page that shows the channels to a person.
// Nothing deployed imports it.
package slack

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"github.com/contraband-dev/contraband/internal/boltfile"
	"github.com/contraband-dev/contraband/internal/notify/preview"
)

// Channel is the ID of the channel that exists from the start; its name is #security.
const Channel = "C0CONTRABAND"

// Message is one message, in a channel or in a thread.
type Message struct {
	Channel   string          `json:"channel,omitempty"`
	Timestamp string          `json:"ts"`
	Thread    string          `json:"thread_ts,omitempty"` // of the parent, in a thread
	Broadcast bool            `json:"broadcast,omitempty"` // also shown in the channel
	Text      string          `json:"text"`
	Blocks    json.RawMessage `json:"blocks,omitempty"`
	Metadata  json.RawMessage `json:"metadata,omitempty"`
	Edits     int             `json:"edits"`
	Only      string          `json:"only,omitempty"` // the user who alone sees it: an ephemeral message
}

// Server is the Slack server; serve its Handler. Set fields before the first request.
type Server struct {
	// Token that callers must send. Required.
	Token string
	// URL at which Handler is reached, for permalinks.
	URL string
	// Fault is called before and after each call takes effect; a result other than 0
	// is sent as the HTTP status (429 with Retry-After: 1). nil: never.
	Fault func(method string, applied bool) int
	// Answer returns the error word to answer a call with, or "". nil: never.
	Answer func(method string, form url.Values) string
	// Scopes of the token; nil: all.
	Scopes []string
	// PostInterval is the least time between two messages in one channel; a sooner one
	// is answered 429 with the seconds to wait. 0: no limit.
	PostInterval time.Duration
	// HistoryPerMinute limits conversations.history. 0: no limit.
	HistoryPerMinute int
	// HideRetryAfter leaves the Retry-After header out.
	HideRetryAfter bool

	// Interact is where clicks go; without it nothing can be clicked.
	Interact Interactivity

	db *bbolt.DB

	mu       sync.Mutex
	channels map[string]room
	people   map[string]string // user IDs by e-mail address
	groups   map[string]string // user group IDs by handle
	posted   map[string]time.Time
	reads    []time.Time
	calls    map[string]int
	replies  map[string]*replyAddress
}

// room is a channel, or a person's direct messages.
type room struct {
	name     string
	archived bool
	outside  bool // the bot is not a member
}

var bucketMessages = []byte("messages")

// Open opens the messages on disk.
func Open(file string) (*Server, error) {
	db, damage, err := boltfile.Open(file)
	if err != nil {
		return nil, fmt.Errorf("fake Slack: open %q: %w", file, err)
	}
	if damage != nil {
		slog.Error("the messages of the built-in Slack", "error", damage)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(bucketMessages)
		return err
	})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &Server{db: db, channels: map[string]room{Channel: {name: "security"}}, people: map[string]string{},
		groups: map[string]string{}, posted: map[string]time.Time{}, calls: map[string]int{}, replies: map[string]*replyAddress{}}, nil
}

// OpenTemporary is Open without waiting for the disk: messages may be lost if the
// machine stops.
func OpenTemporary(file string) (*Server, error) {
	s, err := Open(file)
	if err == nil {
		s.db.NoSync = true
	}
	return s, err
}

// Close closes the disk.
func (s *Server) Close() error { return s.db.Close() }

// AddChannel adds a channel with an ID and a name without "#".
func (s *Server) AddChannel(id, name string) { s.setRoom(id, room{name: name}) }

// Archive archives a channel.
func (s *Server) Archive(id string) { s.setRoom(id, room{name: s.roomName(id), archived: true}) }

// Leave removes the bot from a channel.
func (s *Server) Leave(id string) { s.setRoom(id, room{name: s.roomName(id), outside: true}) }

func (s *Server) setRoom(id string, r room) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.channels[id] = r
}

func (s *Server) roomName(id string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.channels[id].name
}

// AddPerson adds a user with an e-mail address.
func (s *Server) AddPerson(id, email string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.people[email] = id
}

// AddGroup adds a user group with a handle without "@".
func (s *Server) AddGroup(id, handle string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.groups[handle] = id
}

// Calls returns how often a method was called with the right token.
func (s *Server) Calls(method string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[method]
}

// Messages returns what channel #security shows, oldest first: no replies in threads
// but those that are also shown in the channel.
func (s *Server) Messages() ([]Message, error) { return s.MessagesIn(Channel) }

// MessagesIn returns what a channel shows, oldest first.
func (s *Server) MessagesIn(channel string) ([]Message, error) {
	return s.filter(func(m Message) bool { return m.Channel == channel && m.Only == "" && (m.Thread == "" || m.Broadcast) })
}

// Thread returns the replies to a message, oldest first.
func (s *Server) Thread(ts string) ([]Message, error) {
	return s.filter(func(m Message) bool { return m.Thread == ts && m.Only == "" })
}

func (s *Server) filter(keep func(Message) bool) ([]Message, error) {
	var out []Message
	err := s.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketMessages).ForEach(func(_, v []byte) error {
			var m Message
			if err := json.Unmarshal(v, &m); err != nil {
				return err
			}
			if m.Channel == "" { // kept by an earlier version
				m.Channel = Channel
			}
			if keep(m) {
				out = append(out, m)
			}
			return nil
		})
	})
	return out, err
}

// Handler serves /api/METHOD, and /actions/ID for replies to clicks.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/{method}", s.api)
	mux.HandleFunc("GET /api/{method}", s.api)
	mux.HandleFunc("POST /actions/{id}", s.reply)
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
	if s.Answer != nil {
		if word := s.Answer(method, r.Form); word != "" {
			refuse(w, word)
			return
		}
	}
	if scope := scopes[method]; scope != "" && s.Scopes != nil && !slices.Contains(s.Scopes, scope) {
		reply(w, map[string]any{"ok": false, "error": "missing_scope", "needed": scope, "provided": strings.Join(s.Scopes, ",")})
		return
	}
	s.mu.Lock()
	s.calls[method]++
	wait := s.limit(method, r.Form)
	var answer map[string]any
	problem := ""
	if wait == 0 {
		answer, problem = s.call(method, r.Form)
	}
	s.mu.Unlock()
	switch {
	case wait > 0:
		s.tooMany(w, wait)
	case s.faulty(w, method, true):
	case problem != "":
		refuse(w, problem)
	default:
		answer["ok"] = true
		reply(w, answer)
	}
}

// scopes that the methods need, as Slack documents them.
var scopes = map[string]string{
	"chat.postMessage": "chat:write", "chat.update": "chat:write", "conversations.history": "channels:history",
	"users.lookupByEmail": "users:read.email", "usergroups.list": "usergroups:read", "conversations.list": "channels:read",
}

// limit returns for how long the caller of a method has to wait; 0 if it may go on.
func (s *Server) limit(method string, form url.Values) time.Duration {
	now := time.Now()
	switch {
	case method == "chat.postMessage" && s.PostInterval > 0:
		channel := form.Get("channel")
		if wait := s.posted[channel].Add(s.PostInterval).Sub(now); wait > 0 {
			return wait
		}
		s.posted[channel] = now
	case method == "conversations.history" && s.HistoryPerMinute > 0:
		s.reads = slices.DeleteFunc(s.reads, func(t time.Time) bool { return now.Sub(t) > time.Minute })
		if len(s.reads) >= s.HistoryPerMinute {
			return s.reads[0].Add(time.Minute).Sub(now)
		}
		s.reads = append(s.reads, now)
	}
	return 0
}

func (s *Server) tooMany(w http.ResponseWriter, wait time.Duration) {
	if !s.HideRetryAfter {
		w.Header().Set("Retry-After", strconv.Itoa(int((wait+time.Second-1)/time.Second)))
	}
	w.WriteHeader(http.StatusTooManyRequests)
}

func (s *Server) faulty(w http.ResponseWriter, method string, applied bool) bool {
	if s.Fault == nil {
		return false
	}
	code := s.Fault(method, applied)
	switch code {
	case 0:
		return false
	case http.StatusTooManyRequests:
		s.tooMany(w, time.Second)
	default:
		w.WriteHeader(code)
	}
	return true
}

func (s *Server) call(method string, form url.Values) (answer map[string]any, problem string) {
	switch method {
	case "auth.test":
		return map[string]any{"team": "on this machine", "user": "contraband"}, ""
	case "users.lookupByEmail":
		id := s.people[form.Get("email")]
		if id == "" {
			return nil, "users_not_found"
		}
		return map[string]any{"user": map[string]any{"id": id, "name": form.Get("email")}}, ""
	case "usergroups.list":
		list := []map[string]any{}
		for _, handle := range slices.Sorted(maps.Keys(s.groups)) {
			list = append(list, map[string]any{"id": s.groups[handle], "handle": handle})
		}
		return map[string]any{"usergroups": list}, ""
	case "chat.postMessage", "chat.update", "chat.getPermalink", "conversations.history":
	default:
		return nil, "unknown_method"
	}
	channel, problem := s.room(form.Get("channel"))
	if problem != "" && (method != "chat.getPermalink" || problem == "channel_not_found") {
		return nil, problem
	}
	switch method {
	case "chat.postMessage":
		return s.post(channel, form)
	case "chat.update":
		return s.update(channel, form)
	case "chat.getPermalink":
		if _, ok := s.get(form.Get("message_ts")); !ok {
			return nil, "message_not_found"
		}
		return map[string]any{"channel": channel, "permalink": s.URL + "#" + form.Get("message_ts")}, ""
	}
	return s.history(channel, form)
}

// room returns the ID of a channel by ID, "#name" or user ID, or Slack's error.
func (s *Server) room(name string) (id, problem string) {
	for _, person := range s.people {
		if person == name {
			return "D" + strings.TrimPrefix(name, "U"), ""
		}
		if "D"+strings.TrimPrefix(person, "U") == name {
			return name, ""
		}
	}
	for id, r := range s.channels {
		if id != name && "#"+r.name != name {
			continue
		}
		switch {
		case r.archived:
			return "", "is_archived"
		case r.outside:
			return "", "not_in_channel"
		}
		return id, ""
	}
	return "", "channel_not_found"
}

func (s *Server) post(channel string, form url.Values) (map[string]any, string) {
	m := Message{Channel: channel, Text: form.Get("text"), Blocks: raw(form.Get("blocks")), Metadata: raw(form.Get("metadata")),
		Thread: form.Get("thread_ts"), Broadcast: form.Get("reply_broadcast") == "true"}
	if problem := valid(m); problem != "" {
		return nil, problem
	}
	if _, ok := s.get(m.Thread); m.Thread != "" && !ok {
		return nil, "thread_not_found"
	}
	if err := s.add(&m); err != nil {
		return nil, "internal_error"
	}
	return map[string]any{"channel": channel, "ts": m.Timestamp, "message": m}, ""
}

func (s *Server) update(channel string, form url.Values) (map[string]any, string) {
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
	return map[string]any{"channel": channel, "ts": m.Timestamp, "text": m.Text}, ""
}

// Delete deletes a message, as a person in the channel can.
func (s *Server) Delete(ts string) error {
	return s.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketMessages).Delete([]byte(ts)) })
}

func raw(s string) json.RawMessage {
	if s == "" {
		return nil
	}
	return json.RawMessage(s)
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

// history returns a page of the newest messages first, as Slack does; metadata only
// when asked for.
func (s *Server) history(channel string, form url.Values) (map[string]any, string) {
	most, err := strconv.Atoi(form.Get("limit"))
	if err != nil || most <= 0 {
		most = 100
	}
	if most > 999 {
		return nil, "invalid_limit"
	}
	before := ""
	if cursor := form.Get("cursor"); cursor != "" {
		decoded, err := base64.StdEncoding.DecodeString(cursor)
		if err != nil {
			return nil, "invalid_cursor"
		}
		before = string(decoded)
	}
	all, err := s.MessagesIn(channel)
	if err != nil {
		return nil, "internal_error"
	}
	metadata := form.Get("include_all_metadata") == "1" || form.Get("include_all_metadata") == "true"
	page, next := []map[string]any{}, ""
	for _, m := range slices.Backward(all) {
		if m.Timestamp <= form.Get("oldest") {
			break
		}
		if before != "" && m.Timestamp >= before {
			continue
		}
		if len(page) == most {
			next = base64.StdEncoding.EncodeToString([]byte(page[most-1]["ts"].(string)))
			break
		}
		e := map[string]any{"type": "message", "ts": m.Timestamp, "text": m.Text, "blocks": m.Blocks}
		if metadata {
			e["metadata"] = m.Metadata
		}
		page = append(page, e)
	}
	return map[string]any{"messages": page, "has_more": next != "", "response_metadata": map[string]any{"next_cursor": next}}, ""
}

func refuse(w http.ResponseWriter, problem string) {
	reply(w, map[string]any{"ok": false, "error": problem})
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v)
}

var channelPage = template.Must(template.New("channel").Parse(`<!doctype html><html lang="en"><meta charset="utf-8"><title>#security (a local Slack)</title><style>{{.Style}}</style>
<h1>Slack on this machine</h1><p>No SLACK_TOKEN is set: this is what Slack would show.</p>
{{range .Messages}}<article id="{{.Timestamp}}"{{if .Thread}} class="thread"{{end}}><p class="context">{{.Room}}{{with .Only}} (only {{.}} sees this){{end}}</p>{{.Body}}{{if .Edits}}<small>edited {{.Edits}} times</small>{{end}}</article>{{else}}<p>Nothing yet.</p>{{end}}`))

// show renders the messages for a person, the newest first, replies below their parent.
func (s *Server) show(w http.ResponseWriter, _ *http.Request) {
	all, err := s.filter(func(Message) bool { return true })
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	type shown struct {
		Message
		Room string
		Body template.HTML
	}
	var out []shown
	add := func(m Message) {
		body, err := preview.SlackBlocks(m.Blocks, "message-"+m.Timestamp, clickButton(m.Timestamp))
		if err != nil || body == "" {
			body = template.HTML(template.HTMLEscapeString(m.Text)) //nolint:gosec // escaped here
		}
		body = template.HTML(fmt.Sprintf(`<form id="message-%[1]s" method="post" action="press"><input type="hidden" name="ts" value="%[1]s"></form>`, //nolint:gosec // escaped
			template.HTMLEscapeString(m.Timestamp))) + body
		out = append(out, shown{Message: m, Room: "#" + s.roomName(m.Channel), Body: body})
	}
	for _, m := range slices.Backward(all) {
		if m.Thread != "" {
			continue
		}
		add(m)
		for _, reply := range all {
			if reply.Thread == m.Timestamp {
				add(reply)
			}
		}
	}
	w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'")
	if err := channelPage.Execute(w, map[string]any{"Style": template.CSS(preview.Style), "Messages": out}); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

// clickButton renders a button of a message, which submits the message's form.
func clickButton(ts string) preview.Button {
	return func(actionID, value, label, style, confirm string) template.HTML {
		esc := template.HTMLEscapeString
		return template.HTML(fmt.Sprintf(`<button form="message-%s" name="press" value="%s" class="%s" title="%s">%s</button>`, //nolint:gosec // every part is escaped
			esc(ts), esc(actionID+" "+value), esc(style), esc(confirm), esc(label)))
	}
}
