package slack

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/slack-go/slack"

	"github.com/contraband-dev/contraband/internal/notify"
)

// Limits of Slack's blocks, in characters.
const (
	maxFallback = 300 // of the text shown in notifications; it comes back with every click
	maxHeader   = 150
	maxText     = 3000
	maxField    = 2000
	maxConfirm  = 300
	maxLabel    = 75
	maxValue    = 2000
	maxFields   = 10
	maxElements = 25
)

// circles show the severity as a colour where blocks have none.
var circles = map[notify.Severity]string{
	notify.Critical: "🔴", notify.High: "🟠", notify.Medium: "🟡", notify.Low: "⚪",
}

// full returns the whole message.
func full(m notify.Message, mention string, buttons bool, metadata slack.SlackMetadata) []slack.MsgOption {
	options := []slack.MsgOption{
		slack.MsgOptionText(fallback(m, mention), false), slack.MsgOptionBlocks(Blocks(m, mention, buttons)...),
		slack.MsgOptionDisableLinkUnfurl(), slack.MsgOptionDisableMediaUnfurl(),
	}
	if metadata.EventType != "" {
		options = append(options, slack.MsgOptionMetadata(metadata))
	}
	return options
}

// smallest returns the smallest form of a message, which Slack accepts whatever the
// finding contains: one line of printable ASCII, with the state, and the link to the case.
func smallest(m notify.Message, mention string) []slack.MsgOption {
	text := "[" + m.Severity.String() + "] " + ascii(m.Summary)
	if m.Status != "" {
		text += " (" + ascii(m.Status) + ")"
	}
	if len(m.Links) > 0 {
		text += " " + notify.SafeURL(m.Links[0].URL)
	}
	return []slack.MsgOption{slack.MsgOptionText(strings.TrimSpace(mention+" "+text), false), slack.MsgOptionBlocks()}
}

// ascii returns the letters, digits and plain punctuation of s, bounded.
func ascii(s string) string {
	s = strings.Map(func(r rune) rune {
		if r >= ' ' && r < 0x7f && !strings.ContainsRune("<>&*_~`", r) {
			return r
		}
		return '?'
	}, s)
	return notify.Limit(s, 250)
}

// fallback is the text of notifications, and of where blocks are not shown.
func fallback(m notify.Message, mention string) string {
	text := fmt.Sprintf("%s %s", circles[m.Severity], escape(notify.Limit(notify.Plain(m.Summary), maxFallback)))
	if m.Resolved {
		text = "✅ " + escape(notify.Limit(notify.Plain(m.Status+": "+m.Summary), maxFallback))
	}
	return strings.TrimSpace(text + " " + mention)
}

// Blocks returns the message's blocks: header, state, fields, done, next, buttons, footer.
func Blocks(m notify.Message, mention string, buttons bool) []slack.Block {
	blocks := []slack.Block{header(m), slack.NewSectionBlock(markdown(stateLine(m, mention)), nil, nil)}
	if fields := fields(m); len(fields) > 0 {
		blocks = append(blocks, slack.NewSectionBlock(nil, fields, nil))
	}
	for _, part := range []struct {
		title string
		lines []notify.Line
	}{{"Done", m.Done}, {"Next", m.Next}} {
		if len(part.lines) > 0 {
			blocks = append(blocks, slack.NewSectionBlock(markdown("*"+part.title+"*\n"+lines(part.lines)), nil, nil))
		}
	}
	if a := actions(m, buttons); a != nil {
		blocks = append(blocks, a)
	}
	return append(blocks, slack.NewContextBlock("", markdown(footer(m))))
}

func header(m notify.Message) slack.Block {
	mark := circles[m.Severity]
	if m.Resolved {
		mark = "✅"
	}
	return slack.NewHeaderBlock(plain(mark+" "+notify.Plain(m.Summary), maxHeader))
}

// stateLine has the severity as a word, the state, and who is notified.
func stateLine(m notify.Message, mention string) string {
	parts := []string{"*" + escape(m.Verdict) + "* · " + m.Severity.String() + " severity", escape(notify.Limit(m.Status, 200))}
	if mention != "" {
		parts = append(parts, mention)
	}
	return strings.Join(parts, " · ")
}

func fields(m notify.Message) []*slack.TextBlockObject {
	var out []*slack.TextBlockObject
	for _, f := range m.Fields {
		if len(out) == maxFields {
			break
		}
		value := escape(notify.Limit(f.Text(), 300))
		switch {
		case !f.At.IsZero():
			value = date(f.At)
		case f.Code && f.Value != "":
			value = code(f.Value)
		}
		out = append(out, slack.NewTextBlockObject(slack.MarkdownType, notify.Limit("*"+escape(f.Name)+"*\n"+value, maxField), false, true))
	}
	return out
}

func lines(all []notify.Line) string {
	var b strings.Builder
	for i, l := range all {
		mark := "• "
		if l.Warn {
			mark = "⚠️ "
		}
		line := mark + escape(notify.Limit(l.Text, 400))
		if !l.At.IsZero() {
			line += " " + date(l.At)
		}
		if b.Len()+len(line) > maxText-200 { // whole lines: markup is never cut
			fmt.Fprintf(&b, "• %d more in the case\n", len(all)-i)
			break
		}
		b.WriteString(line + "\n")
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// actions returns the buttons, then the links as buttons; nil when there are none.
func actions(m notify.Message, buttons bool) slack.Block {
	var elements []slack.BlockElement
	if buttons {
		for _, a := range m.Actions {
			elements = append(elements, button(a))
		}
	}
	for i, l := range m.Links {
		if u := notify.SafeURL(l.URL); u != "" {
			b := slack.NewButtonBlockElement(notify.LinkActionPrefix+strconv.Itoa(i), "", plain(l.Label, maxLabel))
			b.URL = u
			elements = append(elements, b)
		}
	}
	if len(elements) == 0 {
		return nil
	}
	return slack.NewActionBlock("buttons", elements[:min(len(elements), maxElements)]...)
}

func button(a notify.Action) *slack.ButtonBlockElement {
	b := slack.NewButtonBlockElement(a.ID, notify.Limit(a.Value, maxValue), plain(a.Label, maxLabel))
	b.Style = slack.Style(a.Style)
	if a.Confirm != "" {
		b.Confirm = slack.NewConfirmationBlockObject(plain(a.Label, 100), plain(notify.Plain(a.Confirm), maxConfirm), plain("Yes", 30), plain("No", 30))
	}
	return b
}

func footer(m notify.Message) string {
	text := "case " + code(m.Key)
	if owners := m.OwnerLine(); owners != "" {
		text = "Owners: " + escape(notify.Limit(owners, 1000)) + " · " + text
	}
	return text
}

// threadLine returns a line for the thread; the first of them has the details.
func threadLine(m notify.Message, u notify.Update, mention string) []slack.MsgOption {
	text := escape(notify.Limit(u.Text, 1000))
	if !u.At.IsZero() {
		text += " " + date(u.At)
	}
	blocks := []slack.Block{slack.NewSectionBlock(markdown(strings.TrimSpace(mention+" "+text)), nil, nil)}
	if u.Key == notify.DetailsKey {
		blocks = Details(m)
	}
	options := []slack.MsgOption{
		slack.MsgOptionText(strings.TrimSpace(mention+" "+text), false), slack.MsgOptionBlocks(blocks...),
		slack.MsgOptionDisableLinkUnfurl(), slack.MsgOptionDisableMediaUnfurl(),
	}
	if u.Broadcast {
		options = append(options, slack.MsgOptionBroadcast(), slack.MsgOptionMetadata(slack.SlackMetadata{
			EventType: updateType, EventPayload: map[string]any{"case": m.Key, "of": u.Key}}))
	}
	return options
}

// Details returns the blocks of the first reply in the thread.
func Details(m notify.Message) []slack.Block {
	var blocks []slack.Block
	for _, s := range m.Details {
		var b strings.Builder
		b.WriteString("*" + escape(s.Title) + "*")
		for _, l := range s.Lines {
			line := "\n" + escape(notify.Limit(l, 600))
			if s.Code {
				line = "\n" + code(l)
			}
			if b.Len()+len(line) > maxText {
				break
			}
			b.WriteString(line)
		}
		for _, l := range s.Links {
			line := link(l)
			if line == "" || b.Len()+len(line) > maxText {
				continue
			}
			b.WriteString("\n" + line)
		}
		blocks = append(blocks, slack.NewSectionBlock(markdown(b.String()), nil, nil))
	}
	return blocks[:min(len(blocks), 45)]
}

// link returns a labelled link, or "" if the address is not one to link to.
func link(l notify.Link) string {
	u := notify.SafeURL(l.URL)
	if u == "" {
		return ""
	}
	return "<" + entities.Replace(u) + "|" + escape(notify.Limit(l.Label, 200)) + ">"
}

func plain(s string, limit int) *slack.TextBlockObject {
	return slack.NewTextBlockObject(slack.PlainTextType, notify.Limit(notify.Plain(s), limit), false, false)
}

// markdown makes a text object that Slack takes verbatim: no address, channel name or
// mention in it becomes a link by itself.
func markdown(s string) *slack.TextBlockObject {
	return slack.NewTextBlockObject(slack.MarkdownType, s, false, true)
}

// date is shown in the reader's time zone.
func date(t time.Time) string {
	return fmt.Sprintf("<!date^%d^{date_short_pretty} {time_secs}|%s>", t.Unix(), t.UTC().Format("2006-01-02 15:04:05 UTC"))
}

var (
	entities = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")
	// Look-alikes of what formats text: nothing else can stop Slack from formatting it.
	lookalikes = strings.NewReplacer("*", "∗", "`", "ʼ", "~", "∼", "_", "ˍ")
	emoji      = regexp.MustCompile(`:([a-zA-Z0-9_+'-]+):`)
	broadcasts = regexp.MustCompile(`@(here|channel|everyone|group)\b`)
)

// escape makes text from a finding inert in Slack's markup: no mention, link, emoji or
// formatting, no control or direction characters.
func escape(s string) string {
	s = emoji.ReplaceAllString(notify.Plain(s), "∶$1∶")
	s = broadcasts.ReplaceAllString(s, "＠$1")
	return entities.Replace(lookalikes.Replace(s))
}

// code shows a value verbatim, to be copied: within it Slack formats nothing.
func code(s string) string {
	s = strings.ReplaceAll(notify.Plain(notify.Limit(s, 300)), "`", "ʼ")
	return "`" + entities.Replace(broadcasts.ReplaceAllString(s, "＠$1")) + "`"
}
