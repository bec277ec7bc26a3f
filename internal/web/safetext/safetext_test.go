package safetext

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestEscapeShowsWhatIsHidden(t *testing.T) {
	for in, want := range map[string]string{
		"/tmp/x":                  "/tmp/x",
		"/tmp/ü 日本":               "/tmp/ü 日本",
		"a\u202egpj.exe":          `a\u202egpj.exe`,
		"a\u200bb\ufeffc\u2060d":  `a\u200bb\ufeffc\u2060d`,
		"\x1b[2Jx":                `\x1b[2Jx`,
		"a\nb\r\tc\x00":           `a\nb\r\tc\x00`,
		"\xff\xfe":                `\xff\xfe`,
		"no\u00a0break":           `no\u00a0break`,
		`already \u202e`:          `already \\u202e`,
		`C:\dir`:                  `C:\dir`,
		"tag\U000e0041":           `tag\U000e0041`,
		"\u3164blank\u2800letter": `\u3164blank\u2800letter`,
	} {
		if got := Escape(in); got != want {
			t.Errorf("Escape(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzEscape(f *testing.F) {
	f.Add("a\u202eb\x1b[0m\xff")
	f.Fuzz(func(t *testing.T, s string) {
		for _, r := range Escape(s) {
			if r != ' ' && (unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == utf8.RuneError && !strings.ContainsRune(s, r)) {
				t.Fatalf("Escape(%q) contains %U", s, r)
			}
		}
	})
}

func TestMiddleKeepsBothEnds(t *testing.T) {
	if got := Middle("/very/long/path/to/program", 11); got != "/very…ogram" {
		t.Errorf("got %q", got)
	}
	if got := Middle("short", 11); got != "short" {
		t.Errorf("got %q", got)
	}
	if got := utf8.RuneCountInString(Middle(strings.Repeat("ü", 4096), 40)); got != 40 {
		t.Errorf("%d characters, want 40", got)
	}
}
