// Package slack posts a case to a Slack channel: one message, edited as the
// case changes, with reminders in its thread. It decides nothing.
package slack

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/slack-go/slack"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/cases/casetext"
	"github.com/contraband-dev/contraband/internal/retry"
)

// eventType marks our messages in Slack's message metadata, with the case's id:
// that is how a page whose answer was lost is found again.
const eventType = "contraband_case"

// Slack is a channel in which cases are told.
type Channel struct {
	API     *slack.Client
	Channel string                     // its id. Required.
	Link    func(caseID string) string // the casebook's page of a case
	// Buttons shows what can be pressed; it needs the Interact function.
	Buttons bool
}

// Digest of what the page of a case would show now: an edit is due when it
// differs from the one that was posted.
func (s *Channel) Digest(c cases.Case) string {
	raw, err := json.Marshal(s.blocks(c))
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:8])
}

// Post tells a case once. With again set an earlier try may have reached Slack
// without our knowing: the channel is searched for the case's message first.
func (s *Channel) Post(ctx context.Context, c cases.Case, again bool) (cases.Paged, error) {
	if again {
		p, err := s.find(ctx, c)
		if err != nil && !retry.IsRefused(err) || p.Timestamp != "" {
			return p, err
		}
		// Where the channel may not be read, twice told is better than not told.
	}
	channel, ts, err := s.API.PostMessageContext(ctx, s.Channel, append(s.options(c),
		slack.MsgOptionMetadata(slack.SlackMetadata{EventType: eventType, EventPayload: map[string]any{"case": c.ID}}))...)
	if err != nil {
		return cases.Paged{}, classify(fmt.Errorf("post to Slack channel %q: %w", s.Channel, err))
	}
	p := cases.Paged{Channel: channel, Timestamp: ts, Digest: s.Digest(c)}
	// A page without its link is a page all the same.
	p.Link, _ = s.API.GetPermalinkContext(ctx, &slack.PermalinkParameters{Channel: channel, Ts: ts})
	return p, nil
}

// Edit brings the message of a case up to date.
func (s *Channel) Edit(ctx context.Context, c cases.Case) (cases.Paged, error) {
	p := *c.Paged
	if _, _, _, err := s.API.UpdateMessageContext(ctx, p.Channel, p.Timestamp, s.options(c)...); err != nil {
		return p, classify(fmt.Errorf("edit Slack message %s: %w", p.Timestamp, err))
	}
	p.Digest = s.Digest(c)
	return p, nil
}

func (s *Channel) find(ctx context.Context, c cases.Case) (cases.Paged, error) {
	return s.findOf(ctx, c, eventType, nil)
}

// findOf looks for our message of a kind about a case; of tells it from others of the
// kind, and is nil where there is one.
func (s *Channel) findOf(ctx context.Context, c cases.Case, kind string, of any) (cases.Paged, error) {
	p := slack.GetConversationHistoryParameters{ChannelID: s.Channel, IncludeAllMetadata: true, Limit: 200,
		Oldest: fmt.Sprintf("%d.000000", c.Opened.Add(-time.Minute).Unix())}
	for {
		h, err := s.API.GetConversationHistoryContext(ctx, &p)
		if err != nil {
			return cases.Paged{}, classify(fmt.Errorf("search Slack channel %q: %w", s.Channel, err))
		}
		for _, m := range h.Messages {
			if m.Metadata.EventType == kind && m.Metadata.EventPayload["case"] == c.ID && m.Metadata.EventPayload["of"] == of {
				found := cases.Paged{Channel: s.Channel, Timestamp: m.Timestamp}
				found.Link, _ = s.API.GetPermalinkContext(ctx, &slack.PermalinkParameters{Channel: s.Channel, Ts: m.Timestamp})
				return found, nil // its digest is not known: an edit follows
			}
		}
		if p.Cursor = h.ResponseMetaData.NextCursor; p.Cursor == "" {
			return cases.Paged{}, nil
		}
	}
}

// passing are the errors of Slack that may mend by themselves; any other answer
// of Slack's, as opposed to none, is for good.
var transientErrors = map[string]bool{
	"ratelimited": true, "rate_limited": true, "internal_error": true, "fatal_error": true, "service_unavailable": true, "request_timeout": true, "team_added_to_org": true,
}

func classify(err error) error {
	var answer slack.SlackErrorResponse
	if errors.As(err, &answer) && !transientErrors[answer.Err] {
		return retry.Refused(err)
	}
	return err
}

func (s *Channel) options(c cases.Case) []slack.MsgOption {
	blocks := s.blocks(c)
	return []slack.MsgOption{slack.MsgOptionText(limit(clean(casetext.Headline(c)), maxFallback), false), slack.MsgOptionBlocks(blocks...), slack.MsgOptionDisableLinkUnfurl()}
}

// Limits of Slack's blocks, in characters.
const (
	maxFallback = 300 // of the text for where blocks are not shown; it comes back with every press
	maxHeader   = 150
	maxText     = 3000
	maxField    = 2000
	maxConfirm  = 300
)

// stepLines returns the steps of a case as lines of Slack's markup.
func stepLines(c cases.Case) string {
	var lines []string
	for _, step := range casetext.Steps(c) {
		lines = append(lines, clean(step))
	}
	return strings.Join(lines, "\n")
}

func (s *Channel) blocks(c cases.Case) []slack.Block {
	f := c.Decided.Finding
	text := func(t string) *slack.TextBlockObject {
		return slack.NewTextBlockObject(slack.MarkdownType, limit(t, maxText), false, false)
	}
	field := func(name, value string) *slack.TextBlockObject {
		if value == "" {
			value = "unknown"
		}
		return slack.NewTextBlockObject(slack.MarkdownType, limit("*"+name+"*\n"+clean(value), maxField), false, false)
	}
	blocks := []slack.Block{
		slack.NewHeaderBlock(slack.NewTextBlockObject(slack.PlainTextType, limit(clean(casetext.Headline(c)), maxHeader), false, false)),
		slack.NewSectionBlock(nil, []*slack.TextBlockObject{
			field("Where", casetext.Place(c)), field("Program", f.Process.Path), field("Image", f.Container.Image), field("Node", f.Node),
			field("First run", f.EventTime.UTC().Format(time.RFC3339)), field("SHA-256", f.Process.SHA256),
		}, nil),
		slack.NewSectionBlock(text("*Verdict* "+clean(casetext.VerdictLine(c.Decided.Verdict))), nil, nil),
		slack.NewSectionBlock(text("*Steps*\n"+stepLines(c)), nil, nil),
	}
	if contacts := c.Decided.Facts.Contacts; len(contacts) > 0 {
		blocks = append(blocks, slack.NewSectionBlock(text("*Contacts* "+clean(strings.Join(contacts, ", "))), nil, nil))
	}
	footer := "case " + c.ID
	if s.Link != nil {
		footer = fmt.Sprintf("<%s|case %s>", s.Link(c.ID), c.ID)
	}
	blocks = append(blocks, slack.NewContextBlock("", text(footer)))
	if b := actionBlock(c); s.Buttons && b != nil {
		blocks = append(blocks, b)
	}
	return blocks
}

// actionBlock returns the buttons of a case, or nil. A button's action ID is what a
// click records; its value is "<case>/<decision>".
func actionBlock(c cases.Case) slack.Block {
	plain := func(t string) *slack.TextBlockObject {
		return slack.NewTextBlockObject(slack.PlainTextType, t, false, false)
	}
	var elements []slack.BlockElement
	for _, a := range casetext.Actions(c) {
		b := slack.NewButtonBlockElement(a.ID, fmt.Sprintf("%s/%d", c.ID, a.Decision), plain(a.Label))
		if a.Confirm != "" {
			b.Confirm = slack.NewConfirmationBlockObject(plain(a.Label), plain(limit(clean(a.Confirm), maxConfirm)), plain("Yes"), plain("No"))
		}
		b.Style = slack.Style(a.Style)
		elements = append(elements, b)
	}
	if len(elements) == 0 {
		return nil
	}
	return slack.NewActionBlock("buttons", elements...)
}

// reminderType marks a reminder in a message's metadata.
const reminderType = "contraband_reminder"

// Remind tells the channel again, below the case's message and beside it, that an
// answer is waited for, or that it is graver than was told.
func (s *Channel) Remind(ctx context.Context, c cases.Case, graver bool) (string, error) {
	of := fmt.Sprintf("%s of the decision of %s", map[bool]string{true: "warning", false: "reminder"}[graver], c.DecidedAt().UTC().Format(time.RFC3339Nano))
	if p, err := s.findOf(ctx, c, reminderType, of); err == nil && p.Timestamp != "" {
		return p.Timestamp, nil // an earlier try's, whose answer was lost
	}
	text := fmt.Sprintf("<!channel> Approval pending for %s: %s", time.Since(c.DecidedAt()).Round(time.Minute), clean(casetext.Headline(c)))
	if graver {
		text = "<!channel> Severity raised since the page: " + clean(casetext.Headline(c))
	}
	options := []slack.MsgOption{slack.MsgOptionText(text, false),
		slack.MsgOptionMetadata(slack.SlackMetadata{EventType: reminderType, EventPayload: map[string]any{"case": c.ID, "of": of}})}
	if c.Paged != nil && c.Paged.Timestamp != "" {
		options = append(options, slack.MsgOptionTS(c.Paged.Timestamp), slack.MsgOptionBroadcast())
	}
	_, ts, err := s.API.PostMessageContext(ctx, s.Channel, options...)
	if err != nil {
		return "", classify(fmt.Errorf("remind Slack channel %q: %w", s.Channel, err))
	}
	return ts, nil
}

// clean makes text from a finding harmless in Slack: no mentions, links or
// formatting of its own, no control or direction characters.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case unicode.IsControl(r), unicode.Is(unicode.Bidi_Control, r), r == '\u200b', r == '\ufeff':
			return -1
		}
		return r
	}, s)
	s = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "*", "∗", "`", "ʼ", "~", "∼").Replace(s)
	// "@channel" and the like mean something in plain text when link_names is on.
	return strings.ReplaceAll(s, "@", "@\u2060")
}

func limit(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return string(r[:n-1]) + "…"
}
