// Package googlechat notifies a Google Chat space through its incoming webhook: one card a
// case, changes as replies in its thread. A webhook cannot edit a message.
package googlechat

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html"
	"net/http"
	"net/url"
	"strings"

	"github.com/contraband-dev/contraband/internal/notify"
	"github.com/contraband-dev/contraband/internal/notify/httpcall"
)

// Space is one space's webhook. It implements notify.Channel.
type Space struct {
	name    string
	webhook string
	client  *http.Client
}

// New returns the space with an incoming webhook's address, which is a secret.
func New(name, webhook string) *Space {
	return &Space{name: name, webhook: webhook, client: httpcall.Client()}
}

// Post sends the card. Its request ID makes Google Chat send it once.
func (s *Space) Post(ctx context.Context, m notify.Message, _ bool) (notify.Ref, error) {
	return s.send(ctx, m, "post", Render(m))
}

// Update does nothing: a webhook cannot edit, and Thread sends each change.
func (s *Space) Update(_ context.Context, ref notify.Ref, _ notify.Message) (notify.Ref, error) {
	return ref, nil
}

// Resolve does nothing: the last update shows the end.
func (s *Space) Resolve(context.Context, notify.Ref, notify.Message) error { return nil }

// Thread sends a reply in the thread of the card.
func (s *Space) Thread(ctx context.Context, _ notify.Ref, m notify.Message, u notify.Update) error {
	text := plain(notify.Line{Text: u.Text, At: u.At}.String())
	if u.Key == notify.DetailsKey {
		text = plainLines(m.DetailText())
	}
	_, err := s.send(ctx, m, u.Key, Body{Text: text})
	return err
}

// Limits of a message, in characters.
const (
	maxText  = 3500
	maxValue = 500
)

// Render returns the message that Post sends.
func Render(m notify.Message) Body {
	return Body{Text: plain(m.Verdict + " (" + m.Severity.String() + "): " + m.Summary), Cards: []cardEntry{card(m)}}
}

// Body is a message of Google Chat's API.
type Body struct {
	Text   string      `json:"text,omitempty"`
	Cards  []cardEntry `json:"cardsV2,omitempty"`
	Thread struct {
		Key string `json:"threadKey"`
	} `json:"thread"`
}

type cardEntry struct {
	ID   string         `json:"cardId"`
	Card map[string]any `json:"card"`
}

func (s *Space) send(ctx context.Context, m notify.Message, part string, b Body) (notify.Ref, error) {
	b.Thread.Key = m.Key
	raw, err := json.Marshal(b)
	if err != nil {
		return notify.Ref{}, fmt.Errorf("encode Google Chat message: %w", err)
	}
	answer, err := httpcall.Do(ctx, s.client, func(ctx context.Context) (*http.Request, error) {
		address, err := url.Parse(s.webhook)
		if err != nil {
			return nil, err
		}
		q := address.Query()
		q.Set("messageReplyOption", "REPLY_MESSAGE_FALLBACK_TO_NEW_THREAD")
		q.Set("requestId", requestID(m.Key, part))
		address.RawQuery = q.Encode()
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, address.String(), bytes.NewReader(raw))
		if err == nil {
			req.Header.Set("Content-Type", "application/json; charset=UTF-8")
		}
		return req, err
	})
	if err != nil {
		return notify.Ref{}, fmt.Errorf("post to Google Chat space %q: %w", s.name, err)
	}
	var sent struct{ Name string }
	if json.Unmarshal(answer, &sent) != nil || sent.Name == "" {
		sent.Name = "unknown"
	}
	return notify.Ref{Room: s.name, ID: sent.Name}, nil
}

// requestID is the same for the same part of the same message.
func requestID(key, part string) string {
	sum := sha256.Sum256([]byte(key + "\x00" + part))
	return "client-" + hex.EncodeToString(sum[:16])
}

func card(m notify.Message) cardEntry {
	var widgets []map[string]any
	for _, f := range m.Fields {
		widgets = append(widgets, map[string]any{"decoratedText": map[string]any{
			"topLabel": label(f.Name, 100), "text": inCard(f.Text()), "wrapText": true}})
	}
	sections := []map[string]any{{"widgets": append(paragraphs(m), widgets...)}}
	if buttons := buttons(m); len(buttons) > 0 {
		sections = append(sections, map[string]any{"widgets": []map[string]any{{"buttonList": map[string]any{"buttons": buttons}}}})
	}
	return cardEntry{ID: "case", Card: map[string]any{
		"header":   map[string]any{"title": label(m.Verdict+" · "+m.Severity.String(), 100), "subtitle": label(m.Summary, 300)},
		"sections": sections,
	}}
}

func paragraphs(m notify.Message) []map[string]any {
	var out []map[string]any
	for _, part := range []struct {
		title string
		lines []notify.Line
	}{{"Done", m.Done}, {"Next", m.Next}} {
		if len(part.lines) == 0 {
			continue
		}
		text := []string{fmt.Sprintf(`<b><font color="%s">%s</font></b>`, m.Severity.Color(), part.title)}
		for _, l := range part.lines[:min(len(part.lines), 12)] {
			text = append(text, inCard(l.String()))
		}
		out = append(out, map[string]any{"textParagraph": map[string]any{"text": strings.Join(text, "<br>")}})
	}
	if owners := m.OwnerLine(); owners != "" {
		out = append(out, map[string]any{"textParagraph": map[string]any{"text": "Owners: " + inCard(owners)}})
	}
	return out
}

// buttons are links: a webhook's card cannot send clicks back.
func buttons(m notify.Message) []map[string]any {
	var out []map[string]any
	for _, l := range m.Links {
		if u := notify.SafeURL(l.URL); u != "" {
			out = append(out, map[string]any{"text": label(l.Label, 75), "onClick": map[string]any{"openLink": map[string]any{"url": u}}})
		}
	}
	return out
}

// inCard escapes a value for the HTML subset of cards.
func inCard(s string) string { return html.EscapeString(notify.Limit(notify.Plain(s), maxValue)) }

// inert replaces what formats, links or mentions in a message's text.
var inert = strings.NewReplacer("<", "‹", ">", "›", "*", "∗", "_", "ˍ", "~", "∼", "`", "ʼ", "://", ":∕∕", "@", "＠")

func label(s string, limit int) string { return notify.Limit(inert.Replace(notify.Plain(s)), limit) }

func plain(s string) string { return notify.Limit(inert.Replace(notify.Plain(s)), maxText) }

func plainLines(s string) string {
	var out []string
	for line := range strings.Lines(s) {
		out = append(out, plain(strings.TrimRight(line, "\n")))
	}
	return notify.Limit(strings.Join(out, "\n"), maxText)
}
