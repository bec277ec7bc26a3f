package finding

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/valyala/fastjson"

	"github.com/contraband-dev/contraband/internal/redact"
)

// value is a piece of JSON of any kind; every accessor answers a zero value
// where the piece is of another kind. It lives as long as its parser is not
// used again, so the accessors copy what they answer.
type value struct{ v *fastjson.Value }

var parsers fastjson.ParserPool

// measure counts, in one quick pass, the values in JSON and how deep they nest.
// What is not JSON measures as something: the parser says so afterwards.
func measure(data []byte) (values, depth int) {
	level := 0
	for i := 0; i < len(data); i++ {
		switch data[i] {
		case '"':
			i = endOfString(data, i)
		case '{', '[':
			values++
			level++
			depth = max(depth, level)
		case '}', ']':
			level--
		case ',', ':':
			values++
		}
	}
	return values + 1, depth
}

// endOfString is where the string ends that starts at data[start].
func endOfString(data []byte, start int) int {
	for i := start + 1; i < len(data); i++ {
		quote := bytes.IndexByte(data[i:], '"')
		if quote < 0 {
			return len(data)
		}
		i += quote
		slashes := 0
		for data[i-1-slashes] == '\\' {
			slashes++
		}
		if slashes%2 == 0 {
			return i
		}
	}
	return len(data)
}

func parse(p *fastjson.Parser, data []byte) (value, error) {
	values, depth := measure(data)
	switch {
	case values > maxValues:
		return value{}, fmt.Errorf("%w: some %d values, at most %d are taken", ErrMalformed, values, maxValues)
	case depth > maxDepth:
		return value{}, fmt.Errorf("%w: nested %d deep, at most %d is taken", ErrMalformed, depth, maxDepth)
	}
	if fastjson.ValidateBytes(data) == nil { // Parse alone lets control characters and odd numbers pass
		if v, err := p.ParseBytes(data); err == nil {
			return value{v}, nil
		}
	}
	var syntax *json.SyntaxError
	if err := json.Unmarshal(data, new(any)); errors.As(err, &syntax) && syntax.Offset < int64(len(data)) {
		return value{}, fmt.Errorf("%w: not JSON, at byte %d", ErrMalformed, syntax.Offset)
	}
	return value{}, fmt.Errorf("%w: the JSON is cut short", ErrMalformed)
}

// present says whether there is anything here but null.
func (v value) present() bool { return v.v != nil && v.v.Type() != fastjson.TypeNull }

func (v value) is(t fastjson.Type) bool { return v.v != nil && v.v.Type() == t }

func (v value) isList() bool { return v.is(fastjson.TypeArray) }

// get is a member of an object, under its camelCase or its snake_case name; an
// array of {key, value} pairs counts as an object.
func (v value) get(name string) value {
	if found := v.member(name); found.v != nil {
		return found
	}
	if camel(name) {
		return v.member(snakes(name))
	}
	return value{}
}

// camel says whether a name has a snake_case form of its own; "Pod_Name" and
// other keys of source properties have one spelling.
func camel(name string) bool {
	return name[0] >= 'a' && strings.ContainsAny(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
}

func (v value) member(name string) value {
	switch {
	case v.is(fastjson.TypeObject):
		return value{v.v.GetObject().Get(name)}
	case v.isList():
		for _, e := range v.v.GetArray() {
			key := e.Get("key")
			if key == nil || key.Type() != fastjson.TypeString {
				return value{} // a list of something else
			}
			if string(key.GetStringBytes()) == name {
				return value{e.Get("value")}
			}
		}
	}
	return value{}
}

// snakes remembers the snake_case of the names that are asked for: a few dozen.
func snakes(name string) string {
	if s, ok := snakeNames.Load(name); ok {
		return s.(string)
	}
	s := snake(name)
	snakeNames.Store(name, s)
	return s
}

var snakeNames sync.Map

func snake(camel string) string {
	var b strings.Builder
	for _, r := range camel {
		if r >= 'A' && r <= 'Z' {
			b.WriteByte('_')
			r += 'a' - 'A'
		}
		b.WriteRune(r)
	}
	return b.String()
}

// named is a member of an object with its name.
type named struct {
	name string
	value
}

// members are those of an object or of an array of {key, value} pairs, by name.
func (v value) members() []named {
	var out []named
	switch {
	case v.is(fastjson.TypeObject):
		v.v.GetObject().Visit(func(key []byte, e *fastjson.Value) {
			out = append(out, named{clean(key), value{e}})
		})
	case v.isList():
		for _, e := range v.list() {
			if key := e.get("key"); key.is(fastjson.TypeString) {
				out = append(out, named{key.str(), e.get("value")})
			}
		}
	}
	slices.SortStableFunc(out, func(a, b named) int { return strings.Compare(a.name, b.name) })
	return out
}

func (v value) list() []value {
	if !v.isList() {
		return nil
	}
	l := v.v.GetArray()
	out := make([]value, 0, len(l))
	for _, e := range l {
		out = append(out, value{e})
	}
	return out
}

func (v value) index(i int) value {
	if l := v.v.GetArray(); i < len(l) {
		return value{l[i]}
	}
	return value{}
}

func (v value) str() string {
	switch {
	case v.is(fastjson.TypeString):
		return clean(v.v.GetStringBytes())
	case v.is(fastjson.TypeNumber): // int64 values come as strings; what comes as a number is small
		return strconv.FormatFloat(v.v.GetFloat64(), 'f', -1, 64)
	}
	return ""
}

// clean is a copy of s, bounded, without what is not UTF-8.
func clean(s []byte) string {
	return strings.ToValidUTF8(string(s[:min(len(s), maxString)]), "\uFFFD")
}

func (v value) strings() []string {
	var out []string
	for _, e := range v.list() {
		if len(out) == maxArgs {
			break
		}
		out = append(out, e.str())
	}
	return out
}

// integer takes 53, 53.0 and "53".
func (v value) integer() int64 {
	s := v.str()
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return n
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsNaN(f) || math.Abs(f) > 1<<53 {
		return 0
	}
	return int64(f)
}

func (v value) boolean() bool { return v.is(fastjson.TypeTrue) || v.str() == "true" }

// time takes RFC 3339 and {seconds, nanos}; what no calendar holds is no time.
func (v value) time() time.Time {
	var t time.Time
	if v.is(fastjson.TypeObject) || v.isList() {
		if sec := v.get("seconds").integer(); sec != 0 {
			t = time.Unix(sec, v.get("nanos").integer()).UTC()
		}
	} else if parsed, err := time.Parse(time.RFC3339Nano, v.str()); err == nil {
		t = parsed.UTC()
	}
	if t.Year() < 1 || t.Year() > 9999 {
		return time.Time{}
	}
	return t
}

// labels takes {"k": "v"} and [{"name": "k", "value": "v"}].
func (v value) labels() map[string]string {
	out := map[string]string{}
	put := func(k, val string) {
		if k != "" && len(out) < maxLabels {
			out[k] = redact.Value(k, val)
		}
	}
	if v.isList() {
		for _, e := range v.list() {
			put(or(e.get("name").str(), e.get("key").str()), e.get("value").str())
		}
	} else {
		for _, e := range v.members() {
			put(e.name, e.str())
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

// linkedHash looks for a VirusTotal link in any string below, and answers its hash.
func (v value) linkedHash(depth int) string {
	if depth < 0 {
		return ""
	}
	switch {
	case v.is(fastjson.TypeString):
		return hashInLink(v.str())
	case v.isList():
		for _, e := range v.list()[:min(len(v.v.GetArray()), maxArgs)] {
			if h := e.linkedHash(depth - 1); h != "" {
				return h
			}
		}
	default:
		for _, e := range v.members() {
			if h := e.linkedHash(depth - 1); h != "" {
				return h
			}
		}
	}
	return ""
}

// hashInLink is the SHA-256 in the path of a link to VirusTotal, if s is one.
func hashInLink(s string) string {
	_, path, found := strings.Cut(s, "virustotal.com/")
	if !found {
		return ""
	}
	path, _, _ = strings.Cut(path, " ")
	for _, segment := range strings.FieldsFunc(path, func(r rune) bool { return strings.ContainsRune("/?#&=", r) }) {
		if sum := strings.ToLower(segment); isSHA256(sum) {
			return sum
		}
	}
	return ""
}
