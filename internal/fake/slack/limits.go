package slack

import (
	"encoding/json"
	"net/url"
	"unicode/utf8"
)

type textObject struct{ Type, Text string }

type button struct {
	Type     string
	Text     json.RawMessage
	ActionID string `json:"action_id"`
	Value    string
	URL      string
	Style    string
	Confirm  *struct{ Title, Text, Confirm, Deny *textObject }
}

type block struct {
	Type     string
	Text     *textObject
	Fields   []textObject
	Elements []button
}

// valid returns Slack's error for a message that exceeds its documented limits, or "".
func valid(m Message) string {
	var blocks []block
	if m.Blocks != nil && json.Unmarshal(m.Blocks, &blocks) != nil {
		return "invalid_blocks_format"
	}
	switch {
	case m.Metadata != nil && !json.Valid(m.Metadata):
		return "invalid_metadata_format"
	case m.Text == "" && len(blocks) == 0:
		return "no_text"
	case utf8.RuneCountInString(m.Text) > 40000:
		return "msg_too_long"
	case len(blocks) > 50:
		return "invalid_blocks"
	}
	var inputs []inputBlock
	if m.Blocks != nil && json.Unmarshal(m.Blocks, &inputs) != nil {
		return "invalid_blocks_format"
	}
	for i, b := range blocks {
		if b.Type == "input" && inputs[i].valid() {
			continue
		}
		if !validBlock(b) {
			return "invalid_blocks"
		}
	}
	return ""
}

func validBlock(b block) bool {
	switch b.Type {
	case "header":
		return b.Text != nil && b.Text.Type == "plain_text" && within(b.Text.Text, 150)
	case "section":
		return validSection(b)
	case "context":
		if len(b.Elements) == 0 || len(b.Elements) > 10 {
			return false
		}
		for _, e := range b.Elements {
			var text string
			if json.Unmarshal(e.Text, &text) != nil || !within(text, 3000) {
				return false
			}
		}
		return true
	case "actions":
		return validActions(b.Elements)
	case "divider":
		return true
	}
	return false
}

func validSection(b block) bool {
	if b.Text == nil && len(b.Fields) == 0 || b.Text != nil && !within(b.Text.Text, 3000) || len(b.Fields) > 10 {
		return false
	}
	for _, f := range b.Fields {
		if !within(f.Text, 2000) {
			return false
		}
	}
	return true
}

func validActions(buttons []button) bool {
	if len(buttons) == 0 || len(buttons) > 25 {
		return false
	}
	seen := map[string]bool{}
	for _, b := range buttons {
		if !validButton(b) || seen[b.ActionID] {
			return false
		}
		seen[b.ActionID] = true
	}
	return true
}

func validButton(b button) bool {
	var label textObject
	if b.Type != "button" || json.Unmarshal(b.Text, &label) != nil || label.Type != "plain_text" || !within(label.Text, 75) {
		return false
	}
	if utf8.RuneCountInString(b.ActionID) > 255 || utf8.RuneCountInString(b.Value) > 2000 || len(b.URL) > 3000 {
		return false
	}
	if u, err := url.Parse(b.URL); b.URL != "" && (err != nil || u.Host == "") {
		return false
	}
	if b.Style != "" && b.Style != "primary" && b.Style != "danger" {
		return false
	}
	c := b.Confirm
	return c == nil || textWithin(c.Title, 100) && textWithin(c.Text, 300) && textWithin(c.Confirm, 30) && textWithin(c.Deny, 30)
}

func textWithin(t *textObject, most int) bool { return t != nil && within(t.Text, most) }

func within(s string, most int) bool { return s != "" && utf8.RuneCountInString(s) <= most }
