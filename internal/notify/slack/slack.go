// Package page owns how people are told: one Slack message a case, edited as
// the case goes on. It renders and delivers; it decides nothing.
package slack

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/slack-go/slack"

	"github.com/contraband-dev/contraband/internal/cases"
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
	return []slack.MsgOption{slack.MsgOptionText(limit(headline(c), maxFallback), false), slack.MsgOptionBlocks(blocks...), slack.MsgOptionDisableLinkUnfurl()}
}

// Limits of Slack's blocks, in characters.
const (
	maxFallback = 300 // of the text for where blocks are not shown; it comes back with every press
	maxHeader   = 150
	maxText     = 3000
	maxField    = 2000
)

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
		slack.NewHeaderBlock(slack.NewTextBlockObject(slack.PlainTextType, limit(headline(c), maxHeader), false, false)),
		slack.NewSectionBlock(nil, []*slack.TextBlockObject{
			field("Where", place(c)), field("Program", f.Process.Path), field("Image", f.Container.Image), field("Node", f.Node),
			field("First run", f.EventTime.UTC().Format(time.RFC3339)), field("SHA-256", f.Process.SHA256),
		}, nil),
		slack.NewSectionBlock(text("*Verdict* "+verdictLine(c.Decided.Verdict)), nil, nil),
		slack.NewSectionBlock(text("*Done*\n"+strings.Join(Steps(c, clean), "\n")), nil, nil),
	}
	if tell := c.Decided.Facts.Contacts; len(tell) > 0 {
		blocks = append(blocks, slack.NewSectionBlock(text("*Tell* "+clean(strings.Join(tell, ", "))), nil, nil))
	}
	footer := "case " + c.ID
	if s.Link != nil {
		footer = fmt.Sprintf("<%s|case %s>", s.Link(c.ID), c.ID)
	}
	blocks = append(blocks, slack.NewContextBlock("", text(footer)))
	if b := buttons(c); s.Buttons && b != nil {
		blocks = append(blocks, b)
	}
	return blocks
}

var labels = map[string]string{
	cases.ActionApprove: "Approve", cases.ActionDeny: "Deny", cases.ActionRelease: "Release", cases.ActionExtend: "Hold longer",
	cases.ActionEvict: "Evict the pod", cases.ActionExpected: "Close: meant to be there", cases.ActionRemediated: "Close: dealt with",
}

// buttons of a case: the action's id is what is pressed, its value the case and the
// decision that is shown. What
// cannot be undone, or lets something go on, asks to confirm.
func buttons(c cases.Case) slack.Block {
	var elements []slack.BlockElement
	for _, what := range c.ClickActions() {
		b := slack.NewButtonBlockElement(what, fmt.Sprintf("%s/%d", c.ID, c.DecisionN()), slack.NewTextBlockObject(slack.PlainTextType, labels[what], false, false))
		if sure := confirmations(c)[what]; sure != "" {
			b.Confirm = slack.NewConfirmationBlockObject(slack.NewTextBlockObject(slack.PlainTextType, labels[what], false, false),
				slack.NewTextBlockObject(slack.PlainTextType, limit(sure, 300), false, false), slack.NewTextBlockObject(slack.PlainTextType, "Yes", false, false),
				slack.NewTextBlockObject(slack.PlainTextType, "No", false, false))
		}
		switch what {
		case cases.ActionApprove:
			b.Style = slack.StylePrimary
		case cases.ActionEvict:
			b.Style = slack.StyleDanger
		}
		elements = append(elements, b)
	}
	if len(elements) == 0 {
		return nil
	}
	return slack.NewActionBlock("buttons", elements...)
}

func confirmations(c cases.Case) map[string]string {
	where := clean(c.Decided.Finding.ShortName())
	return map[string]string{
		cases.ActionApprove: strings.Join(cases.InOrder(c.Decided.Decision.Do), ", ") + ": " + where,
		cases.ActionRelease: "What ran in " + where + " goes on.",
		cases.ActionEvict:   "The pod goes: " + where + ". Its evidence is saved.",
	}
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
	text := fmt.Sprintf("<!channel> Nobody has answered for %s: %s", time.Since(c.DecidedAt()).Round(time.Minute), headline(c))
	if graver {
		text = "<!channel> It is graver than was told: " + headline(c)
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

func headline(c cases.Case) string {
	f := c.Decided.Finding
	return clean(fmt.Sprintf("[%s] %s: %s in %s", c.Decided.Verdict.Level, f.Category, f.Process.Path, f.ShortName()))
}

func place(c cases.Case) string {
	f := c.Decided.Finding
	var parts []string
	for _, p := range []string{f.Project, f.Location, f.Cluster, f.ShortName()} {
		if p != "" {
			parts = append(parts, p)
		}
	}
	return strings.Join(parts, " / ")
}

func verdictLine(v cases.Verdict) string {
	line := string(v.Level)
	if v.Label != "" {
		line += ": " + clean(v.Label)
	}
	if v.Source != "" {
		line += " (" + clean(v.Source) + ")"
	}
	if v.Why != "" {
		line += " - " + clean(v.Why)
	}
	return line
}

// Steps tells in words what was done, what will be, and what was refused.
func Steps(c cases.Case, clean func(string) string) []string {
	d := c.Decided.Decision
	out := []string{"rule: " + clean(d.Rule)}
	if d.Why != "" {
		out = append(out, clean(d.Why))
	}
	if e := c.Escalated; e != nil && e.Error != "" {
		out = append(out, "escalation could not be written: "+clean(e.Error))
	} else if e != nil {
		out = append(out, "escalated in Security Command Center")
	} else if d.Includes(cases.Escalate) {
		out = append(out, "will be escalated")
	}
	if c.Asking() {
		out = append(out, "WAITING for approval of: "+strings.Join(cases.InOrder(d.Do), ", "))
	}
	if c.Expired {
		out = append(out, "the freeze has ended by itself: the container RUNS again")
	}
	if c.FreezeLostReason != "" {
		out = append(out, clean(c.FreezeLostReason))
	}
	if c.IsolationBroken != "" {
		out = append(out, "the pod is NOT ISOLATED any more: "+clean(c.IsolationBroken))
	}
	if c.RemovalStuck != "" {
		out = append(out, "the pod is STILL THERE: "+clean(c.RemovalStuck))
	}
	if c.Moves > 0 {
		out = append(out, fmt.Sprintf("the pod's container was replaced %d times by one that ran the same", c.Moves))
	}
	for _, action := range cases.Containments {
		out = append(out, actionLines(c, action, clean)...)
		if undo := cases.UndoOf(action); undo != "" {
			out = append(out, actionLines(c, undo, clean)...)
		}
	}
	if c.Joined > 0 {
		out = append(out, fmt.Sprintf("%d more findings about the same, the last at %s", c.Joined, c.LastSeen.UTC().Format(time.RFC3339)))
	}
	for _, k := range c.Clicks {
		line := clean(k.By) + " pressed " + clean(k.What)
		if k.Refused != "" {
			line += " - refused: " + clean(k.Refused)
		}
		out = append(out, line)
	}
	if c.Closed != nil {
		out = append(out, "closed: "+clean(c.Closed.Resolution)+" by "+clean(c.Closed.By))
	}
	return out
}

var done = map[string]string{
	cases.Freeze: "container frozen", cases.Evidence: "evidence saved", cases.Isolate: "pod isolated", cases.Cordon: "node cordoned",
	cases.Evict: "pod evicted", cases.Delete: "pod deleted",
	cases.Thaw: "container released", cases.Release: "pod released from isolation", cases.Uncordon: "node uncordoned",
}

func actionLines(c cases.Case, action string, clean func(string) string) []string {
	claim := c.Claim(action)
	switch {
	case claim == nil && !c.Approved():
		return nil
	case claim == nil && c.Decided.Decision.Includes(action):
		return []string{action + " will follow"}
	case claim == nil:
		return nil
	case claim.Outcome == nil:
		return []string{action + " is under way"}
	}
	a := claim.Outcome
	line := action + " NOT done: " + clean(a.Error)
	if a.Done {
		line = done[action] + " at " + a.At.UTC().Format(time.RFC3339)
	}
	if a.Processes > 0 {
		line += fmt.Sprintf(" (%d processes)", a.Processes)
	}
	if len(a.Items) > 0 {
		line += fmt.Sprintf(" (%d items)", len(a.Items))
	}
	if !a.RetryAt.IsZero() {
		line += "; tried again after " + a.RetryAt.UTC().Format(time.RFC3339)
	}
	out := []string{line}
	for prefix, text := range map[string]string{"NOT ENFORCED: ": a.NotEnforced, "verified: ": a.Verified, "not verified: ": a.Unverified} {
		if text != "" {
			out = append(out, "  "+prefix+clean(text))
		}
	}
	slices.Sort(out[1:])
	if a.Done && !a.Until.IsZero() && c.InForce(action) {
		out = append(out, "  until "+a.Until.UTC().Format(time.RFC3339)+", unless it is released before")
	}
	for _, n := range a.Notes {
		out = append(out, "  "+clean(n))
	}
	return out
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
