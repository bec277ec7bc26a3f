// Package preview renders messages as HTML for a person who wants to see what a
// channel would show: Slack's blocks, from the JSON that is sent. It runs no script
// and loads nothing.
package preview

import (
	"encoding/json"
	"fmt"
	"html"
	"html/template"
	"regexp"
	"strings"

	"github.com/contraband-dev/contraband/internal/notify"
)

// text is a text object of Slack's.
type text struct {
	Type string `json:"type"`
	Text string `json:"text"`
}

type element struct {
	Type     string          `json:"type"`
	Text     json.RawMessage `json:"text"` // an object in a button, a string in a context
	ActionID string          `json:"action_id"`
	Value    string          `json:"value"`
	URL      string          `json:"url"`
	Style    string          `json:"style"`
	Confirm  *struct {
		Text text `json:"text"`
	} `json:"confirm"`
}

type block struct {
	Type     string    `json:"type"`
	Text     *text     `json:"text"`
	Fields   []text    `json:"fields"`
	Elements []element `json:"elements"`
	Label    text      `json:"label"`
	Element  input     `json:"element"`
}

// input is the element of an input block.
type input struct {
	Type        string `json:"type"`
	ActionID    string `json:"action_id"`
	MaxLength   int    `json:"max_length"`
	InitialDate string `json:"initial_date"`
	Options     []struct {
		Text  text   `json:"text"`
		Value string `json:"value"`
	} `json:"options"`
	Initial struct {
		Value string `json:"value"`
	} `json:"initial_option"`
}

// Button says how a button with an action is rendered; nil renders one that does nothing.
type Button func(actionID, value, label, style, confirm string) template.HTML

// SlackBlocks renders the blocks of a Slack message. Inputs belong to the caller's HTML form
// with the ID form; each is named "input-" and its action ID.
func SlackBlocks(blocks json.RawMessage, form string, button Button) (template.HTML, error) {
	var all []block
	if err := json.Unmarshal(blocks, &all); err != nil {
		return "", fmt.Errorf("decode blocks: %w", err)
	}
	if button == nil {
		button = staticButton
	}
	var b strings.Builder
	for _, bl := range all {
		switch bl.Type {
		case "header":
			fmt.Fprintf(&b, `<h3>%s</h3>`, render(*bl.Text))
		case "section":
			section(&b, bl)
		case "context":
			b.WriteString(`<p class="context">` + elements(bl.Elements, nil) + `</p>`)
		case "input":
			fmt.Fprintf(&b, `<p><b>%s</b><br>%s</p>`, render(bl.Label), bl.Element.render(html.EscapeString(form)))
		case "actions":
			b.WriteString(`<p class="actions">` + elements(bl.Elements, button) + `</p>`)
		}
	}
	return template.HTML(b.String()), nil // every part was escaped by render
}

func section(b *strings.Builder, bl block) {
	if bl.Text != nil {
		fmt.Fprintf(b, `<p>%s</p>`, render(*bl.Text))
	}
	if len(bl.Fields) > 0 {
		b.WriteString(`<div class="fields">`)
		for _, f := range bl.Fields {
			fmt.Fprintf(b, `<div>%s</div>`, render(f))
		}
		b.WriteString(`</div>`)
	}
}

func elements(all []element, button Button) string {
	var b strings.Builder
	for _, e := range all {
		if e.Type != "button" {
			var s string
			if json.Unmarshal(e.Text, &s) == nil {
				b.WriteString(render(text{Type: e.Type, Text: s}))
			}
			continue
		}
		var label text
		if json.Unmarshal(e.Text, &label) != nil {
			continue
		}
		if e.URL != "" {
			b.WriteString(anchor(e.URL, render(label), "button") + " ")
			continue
		}
		confirm := ""
		if e.Confirm != nil {
			confirm = e.Confirm.Text.Text
		}
		b.WriteString(string(button(e.ActionID, e.Value, label.Text, e.Style, confirm)) + " ")
	}
	return b.String()
}

func (in input) render(form string) string {
	name := html.EscapeString("input-" + in.ActionID)
	var b strings.Builder
	switch in.Type {
	case "plain_text_input":
		fmt.Fprintf(&b, `<input form="%s" name="%s" maxlength="%d" size="50">`, form, name, in.MaxLength)
	case "datepicker":
		fmt.Fprintf(&b, `<input form="%s" type="date" name="%s" value="%s">`, form, name, html.EscapeString(in.InitialDate))
	case "radio_buttons":
		for _, o := range in.Options {
			checked := ""
			if o.Value == in.Initial.Value {
				checked = " checked"
			}
			fmt.Fprintf(&b, `<label><input form="%s" type="radio" name="%s" value="%s"%s> %s</label><br>`,
				form, name, html.EscapeString(o.Value), checked, render(o.Text))
		}
	}
	return b.String()
}

func staticButton(_, _, label, style, confirm string) template.HTML {
	return template.HTML(fmt.Sprintf(`<button type="button" class="%s" title="%s">%s</button>`,
		html.EscapeString(style), html.EscapeString(confirm), html.EscapeString(label)))
}

// markup matches what Slack's mrkdwn formats: code, links and mentions, bold.
var markup = regexp.MustCompile("`[^`\n]+`|<[^<>\n]+>|\\*[^*\n]+\\*")

// render returns a text object as escaped HTML.
func render(t text) string {
	if t.Type == "plain_text" {
		return escape(t.Text)
	}
	var b strings.Builder
	rest := t.Text
	for {
		at := markup.FindStringIndex(rest)
		if at == nil {
			return b.String() + escape(rest)
		}
		b.WriteString(escape(rest[:at[0]]))
		b.WriteString(renderMarkup(rest[at[0]:at[1]]))
		rest = rest[at[1]:]
	}
}

func renderMarkup(s string) string {
	inner := s[1 : len(s)-1]
	switch {
	case s[0] == '`':
		return "<code>" + escape(inner) + "</code>"
	case s[0] == '*':
		return "<b>" + escape(inner) + "</b>"
	}
	target, label, _ := strings.Cut(inner, "|")
	switch {
	case strings.HasPrefix(target, "!date^"):
		return `<time>` + escape(label) + `</time>`
	case strings.HasPrefix(target, "!subteam^"), strings.HasPrefix(target, "@"), strings.HasPrefix(target, "!"):
		if label == "" {
			label = strings.TrimLeft(target, "!@")
		}
		return `<span class="mention">@` + escape(label) + `</span>`
	}
	return anchor(html.UnescapeString(target), escape(label), "")
}

// anchor returns a link, or the label alone if the address is not one to link to.
func anchor(address, label, class string) string {
	u := notify.SafeURL(address)
	if u == "" {
		return label
	}
	return fmt.Sprintf(`<a class="%s" href="%s" rel="noreferrer">%s</a>`, class, html.EscapeString(u), label)
}

// escape turns Slack's entities into text and the text into HTML.
func escape(s string) string {
	return symbols.Replace(html.EscapeString(html.UnescapeString(s)))
}

// symbols draws the coloured circles, for which not every machine has a font.
var symbols = strings.NewReplacer("\n", "<br>",
	"🔴", `<span class="dot" style="background:#c5221f"></span>`, "🟠", `<span class="dot" style="background:#e8710a"></span>`,
	"🟡", `<span class="dot" style="background:#e5b800"></span>`, "⚪", `<span class="dot" style="background:#9aa0a6"></span>`,
	"✅", `<span class="dot" style="background:#188038"></span>`)

// Style is the style sheet of a rendering.
const Style = `body{font:15px/1.46 Lato,"Helvetica Neue",Arial,sans-serif;color:#1d1c1d;margin:0;padding:16px;max-width:680px}
h3{font-size:18px;margin:0 0 4px}p{margin:6px 0}.fields{display:grid;grid-template-columns:1fr 1fr;gap:8px 16px;margin:8px 0}
.fields div{overflow-wrap:anywhere;min-width:0}code{font:12px/1.5 Monaco,Menlo,Consolas,monospace;color:#c01343;background:#f6f6f6;border:1px solid #ddd;border-radius:3px;padding:1px 3px;overflow-wrap:anywhere}
button,.button{font:700 13px/1 Lato,Arial,sans-serif;border:1px solid #bbb;border-radius:4px;background:#fff;color:#1d1c1d;padding:8px 12px;margin:3px 2px 3px 0;text-decoration:none;display:inline-block}
.primary{background:#007a5a;border-color:#007a5a;color:#fff}.danger{background:#fff;border-color:#e01e5a;color:#e01e5a}
.context{font-size:13px;color:#616061}.mention{color:#1264a3;background:#e8f5fa}a{color:#1264a3}article{border-left:4px solid #ddd;padding-left:12px;margin:0 0 16px}
.dot{display:inline-block;width:.8em;height:.8em;border-radius:50%}.thread{margin-left:24px;border-left-color:#eee}time{border-bottom:1px dotted #999}`
