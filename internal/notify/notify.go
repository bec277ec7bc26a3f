// Package notify defines messages to people, as data (Message), and what a
// channel to them must do (Channel). The packages below it render a Message for
// one system each: slack, pagerduty, googlechat, webhook, email. Package pager
// chooses the channels. None of them decides what happens to a case.
package notify

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"time"
)

// Severity orders messages; every channel shows it by a word and, where it can, a colour.
type Severity int

// Severities, from the least to the most severe.
const (
	Low Severity = iota
	Medium
	High
	Critical
)

// String returns the severity in lower case, as in a JSON message.
func (s Severity) String() string { return [...]string{"low", "medium", "high", "critical"}[s] }

// MarshalText encodes the severity as its word.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Color returns the severity's colour as #rrggbb.
func (s Severity) Color() string { return [...]string{"#6b7280", "#d9a406", "#e8710a", "#c5221f"}[s] }

// Message is one page, whatever the channel. Every string in it may come from an
// attacker: a channel escapes and bounds what it sends.
type Message struct {
	// Key identifies the subject (case or incident) and makes posting idempotent. Required.
	Key      string   `json:"key"`
	Severity Severity `json:"severity"`
	Verdict  string   `json:"verdict"` // one word, capitalised
	Summary  string   `json:"summary"` // one line, understood in two seconds
	Status   string   `json:"status"`  // "frozen, isolated"
	Resolved bool     `json:"resolved"`

	Done    []Line   `json:"done,omitempty"`    // what was done, failed or was lost
	Next    []Line   `json:"next,omitempty"`    // what happens next, and when
	Fields  []Field  `json:"fields,omitempty"`  // shown in two columns
	Owners  []Owner  `json:"owners,omitempty"`  // best first
	Actions []Action `json:"actions,omitempty"` // what a person can do now
	Links   []Link   `json:"links,omitempty"`   // the first is the case

	// Updates has one line for each change that a reader should notice, for the thread.
	Updates []Update `json:"updates,omitempty"`
	// Details go to the thread, or to the end of a message without threads.
	Details []Section `json:"details,omitempty"`

	// Mention is whom to notify on this channel, such as "@payments-oncall". Set per target.
	Mention string `json:"-"`
}

// Line is one sentence; At, when set, is the time it ends with.
type Line struct {
	Text string    `json:"text"`
	At   time.Time `json:"at,omitzero"`
	Warn bool      `json:"warn,omitempty"` // failed, lost or waiting for a person
}

// Field is a named value. Code values are shown verbatim, to be copied.
type Field struct {
	Name  string    `json:"name"`
	Value string    `json:"value,omitempty"`
	At    time.Time `json:"at,omitzero"`
	Code  bool      `json:"-"`
}

// Owner is somebody responsible, with the source that names them.
type Owner struct {
	Name   string `json:"name"` // an e-mail address, a group, a channel
	Source string `json:"source,omitempty"`
}

// Action is a button where the channel has buttons.
type Action struct {
	ID      string `json:"id"`
	Value   string `json:"value"`
	Label   string `json:"label"`
	Confirm string `json:"confirm,omitempty"`
	Style   string `json:"style,omitempty"` // "", "primary" or "danger"
}

// LinkActionPrefix begins the IDs of buttons that open a link: a click on one is no action.
const LinkActionPrefix = "link-"

// Link is a labelled address; only http and https addresses are sent.
type Link struct {
	Label string `json:"label"`
	URL   string `json:"url"`
}

// Update is a line of the thread. Key makes it one line however often it is sent.
type Update struct {
	Key  string    `json:"key"`
	Text string    `json:"text"`
	At   time.Time `json:"at,omitzero"`
	// Broadcast also shows the line in the channel, and notifies it.
	Broadcast bool `json:"broadcast,omitempty"`
}

// DetailsKey is the key of the update that carries Message.Details.
const DetailsKey = "details"

// Section is a titled part of the details.
type Section struct {
	Title string   `json:"title"`
	Lines []string `json:"lines,omitempty"`
	Code  bool     `json:"code,omitempty"` // to be copied verbatim
	Links []Link   `json:"links,omitempty"`
}

// Digest returns a short hash of everything that a reader would see.
func (m Message) Digest() string {
	raw, err := json.Marshal(m)
	if err != nil { // only strings, numbers and times: cannot happen
		return ""
	}
	sum := sha256.Sum256(append(raw, m.Mention...))
	return hex.EncodeToString(sum[:8])
}

// Ref identifies what was posted, as its channel needs it to edit it.
type Ref struct {
	Room string `json:"room,omitempty"` // channel ID, space, service, recipient
	ID   string `json:"id"`
	Link string `json:"link,omitempty"`
	// Found means that an earlier try had posted it: what it shows is not known.
	Found bool `json:"-"`
}

// Channel notifies people through one system. Errors are of the three classes of
// package retry; an unknown answer is misconfigured. A channel returns when ctx ends.
type Channel interface {
	// Post sends a message once. With again set, an earlier Post of the same key may
	// have arrived although its answer was lost: the channel must not send a second
	// one if it can find out.
	Post(ctx context.Context, m Message, again bool) (Ref, error)
	// Update shows the current state; where nothing can be edited it does nothing,
	// or sends what the reader must know. It returns the reference to use from now
	// on: a message that is gone is posted anew.
	Update(ctx context.Context, ref Ref, m Message) (Ref, error)
	// Resolve shows the end.
	Resolve(ctx context.Context, ref Ref, m Message) error
	// Thread adds a line below the message.
	Thread(ctx context.Context, ref Ref, m Message, u Update) error
}

// Target names a channel: the kind, and which one of its kind.
type Target struct {
	Kind    Kind   `json:"kind"`
	Name    string `json:"name"`
	Mention string `json:"mention,omitempty"`
	Why     string `json:"why,omitempty"` // which route or source names it
}

// String returns "kind:name".
func (t Target) String() string { return string(t.Kind) + ":" + t.Name }

// Kind of channel.
type Kind string

// Kinds of channels.
const (
	Slack      Kind = "slack"
	PagerDuty  Kind = "pagerduty"
	GoogleChat Kind = "chat"
	Webhook    Kind = "webhook"
	Email      Kind = "email"
)
