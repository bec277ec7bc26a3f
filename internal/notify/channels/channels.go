// Package channels opens the channels that a deployment has configured. The document
// that configures them holds secrets: it comes from a secret, never from a file in a
// repository.
package channels

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"go.yaml.in/yaml/v3"

	"github.com/contraband-dev/contraband/internal/notify"
	"github.com/contraband-dev/contraband/internal/notify/email"
	"github.com/contraband-dev/contraband/internal/notify/googlechat"
	"github.com/contraband-dev/contraband/internal/notify/pagerduty"
	"github.com/contraband-dev/contraband/internal/notify/slack"
	"github.com/contraband-dev/contraband/internal/notify/webhook"
)

// Config is the document, in YAML or JSON. Unknown keys are errors.
type Config struct {
	// PagerDuty has the Events API v2 routing key of each service, by a name you choose.
	PagerDuty map[string]string `yaml:"pagerduty"`
	// Chat has the incoming webhook of each Google Chat space, by a name you choose.
	Chat map[string]string `yaml:"chat"`
	// Webhook has receivers of signed JSON, by a name you choose.
	Webhook map[string]Webhook `yaml:"webhook"`
	// SMTP is smtp://USER:PASSWORD@HOST:PORT?from=ADDRESS. Empty: no e-mail.
	SMTP string `yaml:"smtp"`
	// Security is the channel that gets what no route matches, as kind:name.
	// Empty: the Slack channel of SLACK_CHANNEL.
	Security string `yaml:"security"`
	// Fallback are tried in order when the other channels fail, as kind:name.
	Fallback []string `yaml:"fallback"`
	// PagerDutyEndpoint replaces PagerDuty's address, for its EU region or a test.
	PagerDutyEndpoint string `yaml:"pagerduty_endpoint"`
}

// Webhook is a receiver of signed JSON.
type Webhook struct {
	URL    string `yaml:"url"`    // required
	Secret string `yaml:"secret"` // required: signs the requests
}

// Parse reads the document; empty is the zero Config. Its errors hold no secret.
func Parse(doc string) (Config, error) {
	var c Config
	if strings.TrimSpace(doc) == "" {
		return c, nil
	}
	d := yaml.NewDecoder(bytes.NewReader([]byte(doc)))
	d.KnownFields(true)
	if err := d.Decode(&c); err != nil && !errors.Is(err, io.EOF) {
		return c, errors.New("the notification channels are not a valid document: see docs/notify.md for its keys")
	}
	return c, c.validate()
}

func (c Config) validate() error {
	var errs []error
	for name, key := range c.PagerDuty {
		if key == "" {
			errs = append(errs, fmt.Errorf("pagerduty %q has no routing key", name))
		}
	}
	for name, address := range c.Chat {
		if notify.SafeURL(address) == "" {
			errs = append(errs, fmt.Errorf("chat %q is not an http address", name))
		}
	}
	for name, w := range c.Webhook {
		if notify.SafeURL(w.URL) == "" || w.Secret == "" {
			errs = append(errs, fmt.Errorf("webhook %q needs url and secret", name))
		}
	}
	if c.SMTP != "" {
		if _, err := email.Parse(c.SMTP); err != nil {
			errs = append(errs, err)
		}
	}
	for _, t := range append([]string{c.Security}, c.Fallback...) {
		if t == "" {
			continue
		}
		if _, err := ParseTarget(t); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

var kinds = map[notify.Kind]bool{notify.Slack: true, notify.PagerDuty: true, notify.GoogleChat: true, notify.Webhook: true, notify.Email: true}

// ParseTarget reads kind:name.
func ParseTarget(s string) (notify.Target, error) {
	kind, name, ok := strings.Cut(s, ":")
	if !ok || name == "" || !kinds[notify.Kind(kind)] {
		return notify.Target{}, fmt.Errorf("channel %q must be slack:NAME, pagerduty:NAME, chat:NAME, webhook:NAME or email:ADDRESS", s)
	}
	return notify.Target{Kind: notify.Kind(kind), Name: name}, nil
}

// Registry opens channels, each once.
type Registry struct {
	// Slack is nil where no token is configured.
	Slack *slack.Workspace
	// Config has all other channels.
	Config Config

	mu   sync.Mutex
	open map[string]notify.Channel
}

// Open returns the channel of a target.
func (r *Registry) Open(t notify.Target) (notify.Channel, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if ch := r.open[t.String()]; ch != nil {
		return ch, nil
	}
	ch, err := r.make(t)
	if err != nil {
		return nil, err
	}
	if r.open == nil {
		r.open = map[string]notify.Channel{}
	}
	r.open[t.String()] = ch
	return ch, nil
}

func (r *Registry) make(t notify.Target) (notify.Channel, error) {
	missing := fmt.Errorf("channel %q is not configured", t)
	switch t.Kind {
	case notify.Slack:
		if r.Slack != nil {
			return r.Slack.Channel(t.Name), nil
		}
	case notify.PagerDuty:
		if key, ok := r.Config.PagerDuty[t.Name]; ok {
			return pagerduty.New(t.Name, key, r.Config.PagerDutyEndpoint), nil
		}
	case notify.GoogleChat:
		if address, ok := r.Config.Chat[t.Name]; ok {
			return googlechat.New(t.Name, address), nil
		}
	case notify.Webhook:
		if w, ok := r.Config.Webhook[t.Name]; ok {
			return webhook.New(t.Name, w.URL, w.Secret), nil
		}
	case notify.Email:
		if r.Config.SMTP != "" {
			server, err := email.Parse(r.Config.SMTP)
			if err != nil {
				return nil, err
			}
			return server.Mailbox(t.Name), nil
		}
	}
	return nil, missing
}

// SecurityAndFallback returns the security channel and the fallbacks. slackChannel is
// the security channel where the document names none.
func (c Config) SecurityAndFallback(slackChannel string) (security notify.Target, fallback []notify.Target, err error) {
	security = notify.Target{Kind: notify.Slack, Name: slackChannel}
	if c.Security != "" {
		if security, err = ParseTarget(c.Security); err != nil {
			return security, nil, err
		}
	}
	security.Why = "the security channel"
	for _, s := range c.Fallback {
		t, err := ParseTarget(s)
		if err != nil {
			return security, nil, err
		}
		fallback = append(fallback, t)
	}
	return security, fallback, nil
}
