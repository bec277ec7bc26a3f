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

// value is a piece of JSON of any kind; every accessor returns a zero value where the
// piece is of another kind. Accessors copy what they return.
type value struct{ v *fastjson.Value }

// measure counts, in one quick pass, the values in JSON and how deep they nest. It does
// not check that it is JSON: the parser does.
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

// endOfString returns the end of the string that starts at data[start].
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

// parsers are reused: a parser's memory is most of the cost of a small message.
var parsers fastjson.ParserPool

// parse returns the value of a JSON text, which is valid until the parser is used again.
// Its error wraps ErrMalformed.
func parse(p *fastjson.Parser, data []byte) (value, error) {
	values, depth := measure(data)
	switch {
	case values > maxValues:
		return value{}, fmt.Errorf("%w: about %d values, at most %d are read", ErrMalformed, values, maxValues)
	case depth > maxDepth:
		return value{}, fmt.Errorf("%w: nested %d levels deep, at most %d are read", ErrMalformed, depth, maxDepth)
	}
	if fastjson.ValidateBytes(data) == nil { // Parse alone accepts control characters and odd numbers
		if v, err := p.ParseBytes(data); err == nil {
			return value{v}, nil
		}
	}
	var syntax *json.SyntaxError
	if err := json.Unmarshal(data, new(any)); errors.As(err, &syntax) && syntax.Offset < int64(len(data)) {
		return value{}, fmt.Errorf("%w: not JSON, at byte %d", ErrMalformed, syntax.Offset)
	}
	return value{}, fmt.Errorf("%w: the JSON is incomplete", ErrMalformed)
}

// present reports whether there is anything but null.
func (v value) present() bool { return v.v != nil && v.v.Type() != fastjson.TypeNull }

func (v value) is(t fastjson.Type) bool { return v.v != nil && v.v.Type() == t }

func (v value) isList() bool { return v.is(fastjson.TypeArray) }

func (v value) isString() bool { return v.is(fastjson.TypeString) }

// kind returns what a value is, in words.
func (v value) kind() string {
	switch {
	case !v.present():
		return "null"
	case v.isList():
		return "a list"
	case v.is(fastjson.TypeObject):
		return "an empty object"
	case v.isString():
		return "a string"
	}
	return "a " + v.v.Type().String()
}

// raw returns the bytes of a string, unbounded.
func (v value) raw() []byte {
	if !v.isString() {
		return nil
	}
	return v.v.GetStringBytes()
}

// decoded returns the value of JSON that was kept as a string, as BigQuery keeps maps;
// any other value as it is.
func (v value) decoded() value {
	text := bytes.TrimSpace(v.raw())
	if len(text) == 0 || text[0] != '{' && text[0] != '[' {
		return v
	}
	inner, err := parse(new(fastjson.Parser), text)
	if err != nil {
		return v
	}
	return inner
}

// unquoted returns the string that s encodes as JSON, else s.
func unquoted(s string) string {
	var inner string
	if len(s) < 2 || s[0] != '"' || s[len(s)-1] != '"' || json.Unmarshal([]byte(s), &inner) != nil {
		return s
	}
	return inner
}

// get returns a member of an object, under its camelCase or its snake_case name; an array
// of {key, value} pairs counts as an object.
func (v value) get(name string) value {
	if found := v.member(name); found.v != nil {
		return found
	}
	if camel(name) {
		return v.member(snakes(name))
	}
	return value{}
}

// camel reports whether a name has a snake_case form of its own; "Pod_Name" and other keys
// of source properties have one spelling.
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

// snakes returns the snake_case of a name, from a cache: a few dozen are used.
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

// members returns those of an object or of an array of {key, value} pairs, by name.
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
	case v.is(fastjson.TypeNumber): // int64 values arrive as strings; numbers are small
		return strconv.FormatFloat(v.v.GetFloat64(), 'f', -1, 64)
	}
	return ""
}

// clean returns a copy of s, bounded, without what is not UTF-8.
func clean(s []byte) string {
	return strings.ToValidUTF8(string(s[:min(len(s), maxString)]), "\uFFFD")
}

// strings returns the elements of a list, bounded.
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

// integer returns the value of 53, 53.0 or "53"; 0 where it is not an integer.
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

// bigQueryTime is how BigQuery writes timestamps.
const bigQueryTime = "2006-01-02 15:04:05.999999999 UTC"

// time returns the time of RFC 3339, of BigQuery's text, of {seconds, nanos} or of a
// number of seconds; zero where it is not within the years 1 to 9999.
func (v value) time() time.Time {
	var t time.Time
	switch {
	case v.is(fastjson.TypeObject), v.isList():
		if sec := v.get("seconds").integer(); sec != 0 {
			t = time.Unix(sec, v.get("nanos").integer()).UTC()
		}
	default:
		t = parseTime(v.str())
	}
	if t.Year() < 1 || t.Year() > 9999 {
		return time.Time{}
	}
	return t
}

func parseTime(s string) time.Time {
	for _, layout := range []string{time.RFC3339Nano, bigQueryTime} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC()
		}
	}
	if sec, err := strconv.ParseFloat(s, 64); err == nil && sec > 0 && sec < 1e11 {
		whole, fraction := math.Modf(sec)
		return time.Unix(int64(whole), int64(fraction*1e9)).UTC().Truncate(time.Microsecond)
	}
	return time.Time{}
}

// labels returns {"k": "v"} or [{"name": "k", "value": "v"}].
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

// linkedHash returns the hash of the first link to VirusTotal in any string below.
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

// hashInLink returns the SHA-256 in the path of a link to VirusTotal; "" if s is not one.
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
