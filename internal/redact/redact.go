// Package redact owns what counts as a secret in text that comes from a
// container: values are replaced by name and by shape before anything is
// published, stored, shown or sent. It errs on the side of hiding.
package redact

import (
	"regexp"
	"strings"
)

// Hidden stands where a secret was.
const Hidden = "[redacted]"

var (
	secretName = regexp.MustCompile(`(?i)(passw|passphrase|\bpwd\b|secret|token|api[-_]?key|access[-_]?key|private[-_]?key|credential|\bauth\b|authorization|session|cookie|\bdsn\b|connection[-_]?string)`)
	assignment = regexp.MustCompile(`^(-{0,2}[A-Za-z0-9_.\-]+)([=:])(.+)$`)
	shapes     = []*regexp.Regexp{
		regexp.MustCompile(`-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*`),
		regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){0,2}`),                                                     // JWT, or what is left of one that was cut
		regexp.MustCompile(`\b(?:ghp|gho|ghu|ghs|ghr|github_pat|glpat|xox[abprs]|sk|rk|AKIA|ASIA|AIza|ya29\.)[-_A-Za-z0-9]{12,}`), // vendors' prefixes
		regexp.MustCompile(`(?i)\b(?:bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}`),
	}
	// Within a script: NAME=value, name: value, --name value.
	inline   = regexp.MustCompile(`(?i)([\w.-]*(?:passw|passphrase|secret|token|api[-_]?key|access[-_]?key|private[-_]?key|credential|authorization|cookie|connection[-_]?string)[\w.-]*["']?\s*[=:]\s*|--?[\w-]*(?:passw|passphrase|secret|token|api-?key|access-?key|private-?key|credential)[\w-]*\s+)("[^"]*"|'[^']*'|[^\s"';&|]+)`)
	userOf   = regexp.MustCompile(`((?:^|\s)(?:-u|--user)[\s=]+["']?[^\s:"']+:)[^\s"']+`) // curl -u user:password
	userInfo = regexp.MustCompile(`(://[^/\s:@]*:)[^/\s@]+@`)                             // scheme://user:password@host
)

// Text hides what looks like a secret anywhere in s.
func Text(s string) string {
	if !mayHide(s) {
		return s
	}
	for _, shape := range shapes {
		s = shape.ReplaceAllString(s, Hidden)
	}
	return userInfo.ReplaceAllString(s, "${1}"+Hidden+"@")
}

// mayHide is a cheap look for what any of the shapes needs.
func mayHide(s string) bool {
	if len(s) < 8 {
		return false
	}
	for _, need := range []string{"-----BEGIN", "eyJ", "gh", "glpat", "xox", "sk", "rk", "AKIA", "ASIA", "AIza", "ya29", "://"} {
		if strings.Contains(s, need) {
			return true
		}
	}
	i := strings.IndexAny(s, " \t\n")
	return i >= 5 // "bearer x", "basic x"
}

// Script hides what Text hides, and the values of what is named as a secret anywhere in a
// text of several words, as a shell's -c has.
func Script(s string) string {
	s = inline.ReplaceAllString(s, "${1}"+Hidden)
	return Text(userOf.ReplaceAllString(s, "${1}"+Hidden))
}

// user hides the password of user:password.
func user(s string) string {
	if name, _, found := strings.Cut(s, ":"); found {
		return name + ":" + Hidden
	}
	return Text(s)
}

// Args hides secrets in a command line: by the option's name ("--token x",
// "--token=x", "TOKEN=x", "-u user:x"), by shape, and within a script.
func Args(args []string) []string {
	out := make([]string, len(args))
	hideNext := false
	for i, a := range args {
		var m []string
		if strings.ContainsAny(a, "=:") {
			m = assignment.FindStringSubmatch(a)
		}
		switch {
		case hideNext && !strings.HasPrefix(a, "--"):
			out[i], hideNext = Hidden, false
			continue
		case i > 0 && (args[i-1] == "-u" || args[i-1] == "--user"):
			out[i] = user(a)
		case m != nil && secretName.MatchString(m[1]):
			out[i] = m[1] + m[2] + Hidden
		case strings.ContainsAny(a, " \t\n"):
			out[i] = Script(a)
		default:
			out[i] = Text(a)
		}
		hideNext = strings.HasPrefix(a, "-") && !strings.Contains(a, "=") && secretName.MatchString(a)
	}
	return out
}

// Value hides the value of a named setting when its name or its shape says so.
func Value(name, value string) string {
	if secretName.MatchString(name) {
		return Hidden
	}
	return Text(value)
}
