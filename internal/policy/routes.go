package policy

import (
	"regexp"

	"cel.dev/cel-go/cel"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/internal/notify"
)

// Route says who is notified of which findings, beside the security channel's part: all
// routes that match are; where none does the security channel is.
type Route struct {
	// When is a CEL expression like a rule's. Empty: always.
	When string `yaml:"when"`
	// Slack is a channel's ID or "#name", or the e-mail address of a person.
	Slack string `yaml:"slack"`
	// PagerDuty, Chat and Webhook name a service, a space, a receiver that the
	// deployment has configured.
	PagerDuty string `yaml:"pagerduty"`
	Chat      string `yaml:"chat"`
	Webhook   string `yaml:"webhook"`
	// Email is an address.
	Email string `yaml:"email"`
	// Mention is who is notified in Slack: "@group", an e-mail address, "@channel",
	// "@here", or "owner" for the owner of the workload.
	Mention string `yaml:"mention"`

	program cel.Program
}

var (
	slackName    = regexp.MustCompile(`^([CGD][A-Z0-9]{7,}|#[a-z0-9_-]{1,80}|[^@\s]+@[^@\s]+\.[^@\s]+)$`)
	emailAddress = regexp.MustCompile(`^[^@\s]+@[^@\s]+\.[^@\s]+$`)
	mentionName  = regexp.MustCompile(`^(owner|@[A-Za-z0-9._-]+|[^@\s]+@[^@\s]+\.[^@\s]+)$`)
	targetName   = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)
)

// targets returns the channels of a route.
func (r Route) targets() []notify.Target {
	var out []notify.Target
	for _, t := range []notify.Target{
		{Kind: notify.Slack, Name: r.Slack, Mention: r.Mention}, {Kind: notify.PagerDuty, Name: r.PagerDuty},
		{Kind: notify.GoogleChat, Name: r.Chat}, {Kind: notify.Webhook, Name: r.Webhook}, {Kind: notify.Email, Name: r.Email},
	} {
		if t.Name != "" {
			t.Why = "route: " + r.When
			out = append(out, t)
		}
	}
	return out
}

func (r *Route) compile(k *checker, at place) {
	for _, field := range []struct {
		name, value string
		allowed     *regexp.Regexp
	}{
		{"slack", r.Slack, slackName}, {"pagerduty", r.PagerDuty, targetName}, {"chat", r.Chat, targetName},
		{"webhook", r.Webhook, targetName}, {"email", r.Email, emailAddress}, {"mention", r.Mention, mentionName},
	} {
		if field.value != "" && !field.allowed.MatchString(field.value) {
			k.wrong(at.key(field.name), "%s: invalid value %q", field.name, field.value)
		}
	}
	if len(r.targets()) == 0 {
		k.wrong(at, "a route needs slack, pagerduty, chat, webhook or email")
	}
	if r.Mention != "" && r.Slack == "" {
		k.wrong(at.key("mention"), "mention: only a route with slack can mention people")
	}
	if r.When == "" {
		r.When = "true"
	}
	r.program = k.condition(r.When, at.key("when"))
}

// Targets returns the channels of all routes that match, each once. A route whose
// condition cannot be evaluated matches: notifying fails open.
func (p *Policy) Targets(f finding.Finding, v cases.Verdict) []notify.Target {
	vars := variables(f, v)
	var out []notify.Target
	seen := map[string]bool{}
	for _, r := range p.Routes {
		result, _, err := r.program.Eval(vars)
		if err == nil && result.Value() != true {
			continue
		}
		for _, t := range r.targets() {
			if err != nil {
				t.Why += " (could not be evaluated)"
			}
			if !seen[t.String()] {
				seen[t.String()] = true
				out = append(out, t)
			}
		}
	}
	return out
}
