// Package safetext makes attacker-controlled text fit for people to read: nothing in it is
// interpreted, reordered or hidden. Escaping for HTML or a shell comes on top of it.
package safetext

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Escape returns s with every character that is invisible, controls a terminal or reorders
// text replaced by a Go escape such as \u202e or \n. Bytes that are not UTF-8 become \xNN.
func Escape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case r == '\\' && looksEscaped(s[i:]):
			b.WriteString(`\\`)
		case visible(r):
			b.WriteRune(r)
		default:
			b.WriteString(escaped(r))
		}
		i += size
	}
	return b.String()
}

// visible reports whether a character is shown as itself. The space is the only blank.
func visible(r rune) bool {
	switch {
	case r == ' ':
		return true
	case r == '\u034f', r == '\u115f', r == '\u1160', r == '\u3164', r == '\uffa0', r == '\u2800': // blank letters
		return false
	}
	return unicode.IsPrint(r) && !unicode.Is(unicode.Variation_Selector, r)
}

func escaped(r rune) string {
	switch r {
	case '\n':
		return `\n`
	case '\r':
		return `\r`
	case '\t':
		return `\t`
	}
	if r < 0x80 {
		return fmt.Sprintf(`\x%02x`, r)
	}
	if r > 0xffff {
		return fmt.Sprintf(`\U%08x`, r)
	}
	return fmt.Sprintf(`\u%04x`, r)
}

// looksEscaped reports whether text could be taken for an escape that Escape wrote.
func looksEscaped(s string) bool {
	return len(s) > 1 && strings.ContainsRune(`nrtxuU\`, rune(s[1]))
}

// Middle returns s cut in the middle to at most width characters: the end of a path or a name
// says as much as its beginning.
func Middle(s string, width int) string {
	n := utf8.RuneCountInString(s)
	if n <= width || width < 3 {
		return s
	}
	runes := []rune(s)
	head := (width - 1) / 2
	tail := width - 1 - head
	return string(runes[:head]) + "…" + string(runes[n-tail:])
}
