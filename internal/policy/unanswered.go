package policy

import (
	"regexp"
	"strings"
	"time"

	"cel.dev/cel-go/cel"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/internal/notify"
)

// EscalateAfter says who is notified as well of a page that no person has answered.
type EscalateAfter struct {
	// Unanswered is how long after the page. Required where To is given.
	Unanswered time.Duration `yaml:"unanswered"`
	// To is "security", the security channel, or a channel as kind:name: "slack:#oncall",
	// "pagerduty:security", "chat:soc", "webhook:soar", "email:soc@example.com".
	To string `yaml:"to"`
	// When is a CEL expression like a rule's. Empty: always.
	When string `yaml:"when"`

	program cel.Program
	target  notify.Target // zero: the security channel
}

// Bounds of EscalateAfter.Unanswered.
const (
	minUnanswered = time.Minute
	maxUnanswered = 24 * time.Hour
)

// targetNames has the form of a channel's name by its kind.
var targetNames = map[notify.Kind]*regexp.Regexp{
	notify.Slack: slackName, notify.PagerDuty: targetName, notify.GoogleChat: targetName, notify.Webhook: targetName, notify.Email: emailAddress,
}

func (e *EscalateAfter) compile(k *checker, at place) {
	if *e == (EscalateAfter{}) {
		return
	}
	if e.Unanswered < minUnanswered || e.Unanswered > maxUnanswered {
		k.wrong(at.key("unanswered"), "unanswered: %s is not between %s and %s", e.Unanswered, minUnanswered, maxUnanswered)
	}
	kind, name, _ := strings.Cut(e.To, ":")
	form := targetNames[notify.Kind(kind)]
	switch {
	case e.To == "security":
	case form == nil || !form.MatchString(name):
		k.wrong(at.key("to"), "to: %q is neither security nor a channel such as slack:#oncall or pagerduty:NAME", e.To)
	default:
		e.target = notify.Target{Kind: notify.Kind(kind), Name: name}
	}
	if e.When == "" {
		e.When = "true"
	}
	e.program = k.condition(e.When, at.key("when"))
}

// Unanswered returns how long a page may be unanswered before another channel is notified,
// and which; a zero target is the security channel. 0: none is. A condition that cannot be
// evaluated holds: notifying fails open.
func (p *Policy) Unanswered(f finding.Finding, v cases.Verdict) (after time.Duration, to notify.Target) {
	e := p.EscalateAfter
	if e.program == nil {
		return 0, notify.Target{}
	}
	if result, _, err := e.program.Eval(variables(f, v)); err == nil && result.Value() != true {
		return 0, notify.Target{}
	}
	return e.Unanswered, e.target
}
