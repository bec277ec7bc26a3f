package finding

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/valyala/fastjson"
)

// envelope is a finding with what lies beside it in its message.
type envelope struct {
	finding, resource, properties value
	deleted                       bool
}

// maxWrappings bounds how many wrappings (a Pub/Sub message, a log entry, a string of
// JSON) lie around a finding.
const maxWrappings = 4

// unwrapper collects the findings of a message.
type unwrapper struct {
	found []envelope
	// seen is what there was instead of a finding, and where; the first alone.
	seen string
}

// unwrap returns the findings in a message, which are valid until the parser is used
// again. Its error wraps ErrMalformed or ErrNoFinding.
func unwrap(p *fastjson.Parser, data []byte) ([]envelope, error) {
	if len(data) > MaxBytes {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are read", ErrMalformed, len(data), MaxBytes)
	}
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	var u unwrapper
	top, err := parse(p, data)
	if err != nil {
		lines, ok := parseLines(data)
		if !ok {
			return nil, err
		}
		for i, v := range lines {
			if err := u.add(v, fmt.Sprintf("line %d", i+1), 0); err != nil {
				return nil, err
			}
		}
	} else if err := u.add(top, "", 0); err != nil {
		return nil, err
	}
	if len(u.found) == 0 {
		return nil, fmt.Errorf("%w: %s", ErrNoFinding, u.seen)
	}
	return u.found, nil
}

// parseLines parses one JSON value per line; ok is false unless there are several, and
// every line is one.
func parseLines(data []byte) (out []value, ok bool) {
	for line := range bytes.Lines(data) {
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		v, err := parse(new(fastjson.Parser), line)
		if err != nil || len(out) == maxFindings {
			return nil, false
		}
		out = append(out, v)
	}
	return out, len(out) > 1
}

// add collects the findings of a value that is found at a place in the message.
func (u *unwrapper) add(v value, where string, wrappings int) error {
	switch {
	case wrappings > maxWrappings:
		return fmt.Errorf("%w: more than %d wrappings around the finding%s", ErrMalformed, maxWrappings, in(where))
	case v.isList():
		return u.addList(v, where, wrappings)
	case v.get("listFindingsResults").present():
		return u.add(v.get("listFindingsResults"), join(where, "listFindingsResults"), wrappings)
	case v.get("receivedMessages").isList():
		return u.add(v.get("receivedMessages"), join(where, "receivedMessages"), wrappings)
	}
	for _, name := range []string{"finding", "findings"} {
		if f := v.get(name); f.present() {
			if f.isList() {
				return u.add(f, join(where, name), wrappings)
			}
			return u.addFinding(f, v, join(where, name))
		}
	}
	if wrapped, err := u.addWrapped(v, where, wrappings); wrapped || err != nil {
		return err
	}
	return u.addFinding(v, v, where)
}

func (u *unwrapper) addList(v value, where string, wrappings int) error {
	list := v.list()
	if len(list) == 0 {
		u.note("an empty list", where)
	}
	for i, e := range list {
		if err := u.add(e, join(where, fmt.Sprintf("item %d", i+1)), wrappings); err != nil {
			return err
		}
	}
	return nil
}

// addWrapped collects what is wrapped in a Pub/Sub message or in a log entry.
func (u *unwrapper) addWrapped(v value, where string, wrappings int) (wrapped bool, err error) {
	if m := v.get("message"); m.get("data").str() != "" {
		return true, u.addData(m, join(where, "message"), wrappings)
	}
	if v.get("data").isString() && v.get("category").str() == "" {
		return true, u.addData(v, where, wrappings)
	}
	if payload := v.get("jsonPayload"); payload.present() {
		return true, u.add(payload, join(where, "jsonPayload"), wrappings+1)
	}
	if payload := v.get("textPayload"); payload.isString() {
		return true, u.addText(payload.raw(), join(where, "textPayload"), "a log entry whose text is not JSON", wrappings)
	}
	return false, nil
}

// addData collects what is in the data of a Pub/Sub message.
func (u *unwrapper) addData(message value, where string, wrappings int) error {
	body, err := base64.StdEncoding.DecodeString(string(message.get("data").raw()))
	if err != nil {
		if body, err = base64.URLEncoding.DecodeString(string(message.get("data").raw())); err != nil {
			return fmt.Errorf("%w: a Pub/Sub message whose data is not base64%s", ErrMalformed, in(where))
		}
	}
	return u.addText(body, join(where, "data"), "a Pub/Sub message whose data is not JSON", wrappings)
}

// addText collects what is in JSON that was kept as text; otherwise says what the text is
// where it is not JSON.
func (u *unwrapper) addText(text []byte, where, otherwise string, wrappings int) error {
	v, err := parse(new(fastjson.Parser), text)
	if err != nil {
		u.note(otherwise, where)
		return nil
	}
	return u.add(v, where, wrappings+1)
}

// addFinding collects a finding, with the object that it lies in.
func (u *unwrapper) addFinding(found, beside value, where string) error {
	if found.get("name").str() == "" || found.get("category").str() == "" {
		u.note(describe(found), where)
		return nil
	}
	if len(u.found) == maxFindings {
		return fmt.Errorf("%w: more than %d findings in one message", ErrMalformed, maxFindings)
	}
	e := envelope{finding: found, resource: beside.get("resource"), properties: found.get("sourceProperties").decoded(), deleted: beside.get("deletedFinding").boolean()}
	if !e.resource.present() {
		e.resource = found.get("resource")
	}
	if !e.properties.present() {
		e.properties = beside.get("sourceProperties").decoded()
	}
	u.found = append(u.found, e)
	return nil
}

func (u *unwrapper) note(what, where string) {
	if u.seen == "" {
		u.seen = what + in(where)
	}
}

// maxDescribed bounds the names of fields in an error.
const maxDescribed = 5

// describe says what a value is: the names of its fields, never their values.
func describe(v value) string {
	members := v.members()
	if len(members) == 0 {
		return v.kind()
	}
	var names []string
	for _, m := range members[:min(len(members), maxDescribed)] {
		names = append(names, printable(m.name))
	}
	text := "an object with " + strings.Join(names, ", ")
	if more := len(members) - maxDescribed; more > 0 {
		text += fmt.Sprintf(" and %d more fields", more)
	}
	return text + ", without a name and a category"
}

// printable returns a field's name, bounded and without what is not a letter or a digit.
func printable(name string) string {
	name = strings.Map(func(r rune) rune {
		if r == '_' || r == '-' || r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' {
			return r
		}
		return '?'
	}, name)
	return name[:min(len(name), 32)]
}

func join(where, more string) string {
	if where == "" {
		return more
	}
	return where + ", " + more
}

func in(where string) string {
	if where == "" {
		return ""
	}
	return " (" + where + ")"
}
