package slack

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// replyAddress is a response_url: what clicks on a message can be replied to with.
type replyAddress struct {
	channel, ts string // of the message that was clicked
	user        string
	used        int
	expires     time.Time
}

// Slack's bounds of a response_url.
const (
	replyUses = 5
	replyFor  = 30 * time.Minute
)

// replyTo returns a new response_url for a click of a user on a message.
func (s *Server) replyTo(m Message, user string) string {
	if s.Interact.Replies == "" {
		return ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	id := rand.Text()
	s.replies[id] = &replyAddress{channel: m.Channel, ts: m.Timestamp, user: user, expires: time.Now().Add(replyFor)}
	return strings.TrimSuffix(s.Interact.Replies, "/") + "/actions/" + id
}

// reply takes what is posted to a response_url.
func (s *Server) reply(w http.ResponseWriter, r *http.Request) {
	if s.faulty(w, "response_url", false) {
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 256<<10))
	var in struct {
		ResponseType    string          `json:"response_type"`
		Text            string          `json:"text"`
		Blocks          json.RawMessage `json:"blocks"`
		ReplaceOriginal bool            `json:"replace_original"`
		DeleteOriginal  bool            `json:"delete_original"`
	}
	if err != nil || json.Unmarshal(body, &in) != nil {
		http.Error(w, "invalid_payload", http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls["response_url"]++
	a := s.replies[r.PathValue("id")]
	switch {
	case a == nil || time.Now().After(a.expires):
		http.Error(w, "expired_url", http.StatusNotFound)
		return
	case a.used >= replyUses:
		http.Error(w, "used_url", http.StatusNotFound)
		return
	}
	a.used++
	if problem := s.applyReply(a, in.DeleteOriginal, in.ReplaceOriginal, in.ResponseType, in.Text, in.Blocks); problem != "" {
		http.Error(w, problem, http.StatusBadRequest)
		return
	}
	io.WriteString(w, "ok")
}

func (s *Server) applyReply(a *replyAddress, remove, replace bool, kind, text string, blocks json.RawMessage) (problem string) {
	original, ok := s.get(a.ts)
	if remove {
		if !ok || s.Delete(a.ts) != nil {
			return "message_not_found"
		}
		return ""
	}
	m := Message{Channel: a.channel, Text: text, Blocks: blocks}
	if kind != "in_channel" { // ephemeral is the default
		m.Only = a.user
	}
	if problem := valid(m); problem != "" {
		return problem
	}
	if replace {
		if !ok {
			return "message_not_found"
		}
		original.Text, original.Blocks, original.Edits = text, blocks, original.Edits+1
		m = original
	}
	var err error
	if replace {
		err = s.put(m)
	} else {
		err = s.add(&m)
	}
	if err != nil {
		return "internal_error"
	}
	return ""
}

// Ephemeral returns the messages that one user alone sees, oldest first.
func (s *Server) Ephemeral(user string) ([]Message, error) {
	return s.filter(func(m Message) bool { return m.Only == user })
}

// inputBlock is a block of type input.
type inputBlock struct {
	Type    string
	BlockID string `json:"block_id"`
	Label   *textObject
	Element *inputElement
}

type inputElement struct {
	Type        string
	ActionID    string `json:"action_id"`
	MaxLength   int    `json:"max_length"`
	InitialDate string `json:"initial_date"`
	Options     []struct{ Value string }
	Initial     *struct{ Value string } `json:"initial_option"`
}

// stateOf returns a payload's state: the value of each input of a message.
func stateOf(m Message, filled map[string]string) (map[string]any, error) {
	var blocks []inputBlock
	if m.Blocks != nil {
		if err := json.Unmarshal(m.Blocks, &blocks); err != nil {
			return nil, fmt.Errorf("blocks of message %q: %w", m.Timestamp, err)
		}
	}
	values, known := map[string]any{}, map[string]bool{}
	for _, b := range blocks {
		if b.Type != "input" {
			continue
		}
		value, given := filled[b.Element.ActionID]
		known[b.Element.ActionID] = true
		state, err := b.Element.state(value, given)
		if err != nil {
			return nil, err
		}
		values[b.BlockID] = map[string]any{b.Element.ActionID: state}
	}
	for id := range filled {
		if !known[id] {
			return nil, fmt.Errorf("message %q has no input %q", m.Timestamp, id)
		}
	}
	return map[string]any{"values": values}, nil
}

// state returns the value of an input as a payload has it.
func (e inputElement) state(value string, given bool) (map[string]any, error) {
	out := map[string]any{"type": e.Type}
	switch e.Type {
	case "plain_text_input":
		if e.MaxLength > 0 && len([]rune(value)) > e.MaxLength {
			return nil, fmt.Errorf("input %q takes %d characters", e.ActionID, e.MaxLength)
		}
		out["value"] = nil
		if value != "" {
			out["value"] = value
		}
	case "datepicker":
		if !given {
			value = e.InitialDate
		}
		out["selected_date"] = nil
		if value != "" {
			if _, err := time.Parse(time.DateOnly, value); err != nil {
				return nil, fmt.Errorf("input %q takes dates: %w", e.ActionID, err)
			}
			out["selected_date"] = value
		}
	case "radio_buttons":
		if !given && e.Initial != nil {
			value = e.Initial.Value
		}
		out["selected_option"] = nil
		for _, o := range e.Options {
			if o.Value == value {
				out["selected_option"] = map[string]any{"value": value}
			}
		}
		if value != "" && out["selected_option"] == nil {
			return nil, fmt.Errorf("input %q has no option %q", e.ActionID, value)
		}
	}
	return out, nil
}

// valid reports whether Slack takes an input block in a message.
func (b inputBlock) valid() bool {
	e := b.Element
	if e == nil || b.Label == nil || b.Label.Type != "plain_text" || !within(b.Label.Text, 2000) || len(b.BlockID) > 255 || len(e.ActionID) > 255 {
		return false
	}
	switch e.Type {
	case "plain_text_input":
		return e.MaxLength <= 3000
	case "datepicker":
		_, err := time.Parse(time.DateOnly, e.InitialDate)
		return e.InitialDate == "" || err == nil
	case "radio_buttons":
		return len(e.Options) > 0 && len(e.Options) <= 10
	}
	return false
}
