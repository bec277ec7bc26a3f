package channels_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-smtp"

	"github.com/contraband-dev/contraband/internal/cases/casetext"
	fakechat "github.com/contraband-dev/contraband/internal/fake/googlechat"
	fakepagerduty "github.com/contraband-dev/contraband/internal/fake/pagerduty"
	fakesmtp "github.com/contraband-dev/contraband/internal/fake/smtp"
	fakewebhook "github.com/contraband-dev/contraband/internal/fake/webhook"
	"github.com/contraband-dev/contraband/internal/notify"
	"github.com/contraband-dev/contraband/internal/notify/channels"
	"github.com/contraband-dev/contraband/internal/retry"
	"github.com/contraband-dev/contraband/internal/testenv/samplecases"
)

const secret = "s3cr3t-value"

// servers are all systems but Slack, in this process.
type servers struct {
	pagerduty fakepagerduty.Server
	chat      fakechat.Server
	webhook   fakewebhook.Server
	smtp      fakesmtp.Server
	registry  *channels.Registry
}

func start(t *testing.T) *servers {
	t.Helper()
	s := &servers{
		pagerduty: fakepagerduty.Server{Keys: []string{secret}}, chat: fakechat.Server{Token: secret}, webhook: fakewebhook.Server{Secret: secret},
		smtp: fakesmtp.Server{Username: "contraband", Password: secret, Mailboxes: []string{"ann@example.com"}},
	}
	pd, chat, hook := httptest.NewServer(s.pagerduty.Handler()), httptest.NewServer(s.chat.Handler()), httptest.NewServer(s.webhook.Handler())
	t.Cleanup(pd.Close)
	t.Cleanup(chat.Close)
	t.Cleanup(hook.Close)
	host, port, err := s.smtp.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.smtp.Close() })
	cfg, err := channels.Parse(fmt.Sprintf(`
pagerduty: {payments: %[1]q, wrong: "another-key"}
pagerduty_endpoint: %[2]q
chat: {security: %[3]q, revoked: %[4]q}
webhook: {siem: {url: %[5]q, secret: %[1]q}, wrong: {url: %[5]q, secret: other}}
smtp: "smtp://contraband:%[1]s@%[6]s:%[7]d?from=contraband@example.com&plaintext=true"
`, secret, pd.URL, chat.URL+s.chat.Path(), chat.URL+"/v1/spaces/S1/messages?key=k&token=revoked-token", hook.URL+"/in", host, port))
	if err != nil {
		t.Fatal(err)
	}
	s.registry = &channels.Registry{Config: cfg}
	return s
}

func (s *servers) open(t *testing.T, target string) notify.Channel {
	t.Helper()
	parsed, err := channels.ParseTarget(target)
	if err != nil {
		t.Fatal(err)
	}
	ch, err := s.registry.Open(parsed)
	if err != nil {
		t.Fatal(err)
	}
	return ch
}

func sample(name string) notify.Message {
	for _, s := range samplecases.States() {
		if s.Name == name {
			return casetext.Message(s.Case, func(id string) string { return "https://casebook.example/cases/" + id })
		}
	}
	panic("no sample " + name)
}

// count returns how many messages a target's system has taken.
func (s *servers) count(target string) int {
	switch {
	case strings.HasPrefix(target, "pagerduty"):
		n := 0
		for _, a := range s.pagerduty.Alerts() {
			n += a.Triggers
		}
		return n
	case strings.HasPrefix(target, "chat"):
		return len(s.chat.Messages())
	case strings.HasPrefix(target, "webhook"):
		return len(s.webhook.Events())
	}
	return len(s.smtp.Mails())
}

var targets = []string{"pagerduty:payments", "chat:security", "webhook:siem", "email:ann@example.com"}

// A mail server cannot recognise a repetition; mail programs do, by the Message-ID.
func TestPostWhoseAnswerWasLostArrivesOnce(t *testing.T) {
	for _, target := range targets[:3] {
		t.Run(target, func(t *testing.T) {
			s := start(t)
			lost := true
			fault := func(applied bool) int {
				if applied && lost {
					lost = false
					return 503
				}
				return 0
			}
			s.pagerduty.Fault, s.chat.Fault, s.webhook.Fault = fault, fault, fault
			ch, m := s.open(t, target), sample("paged")
			if _, err := ch.Post(t.Context(), m, false); err == nil || retry.ClassOf(err) != retry.Transient {
				t.Fatalf("the lost answer: %v, want a transient error", err)
			}
			if _, err := ch.Post(t.Context(), m, true); err != nil || s.count(target) != 1 {
				t.Errorf("%d messages, %v; want 1", s.count(target), err)
			}
		})
	}
}

func TestRateLimitIsWaitedOut(t *testing.T) {
	for _, target := range targets[1:3] {
		t.Run(target, func(t *testing.T) {
			s := start(t)
			limited := 0
			fault := func(applied bool) int {
				if !applied && limited < 1 {
					limited++
					return 429
				}
				return 0
			}
			s.chat.Fault, s.webhook.Fault = fault, fault
			if _, err := s.open(t, target).Post(t.Context(), sample("paged"), false); err != nil || s.count(target) != 1 {
				t.Errorf("%d messages, %v", s.count(target), err)
			}
		})
	}
}

func TestRateLimitBeyondTheDeadlineIsTransient(t *testing.T) {
	for _, target := range targets[:3] {
		s := start(t)
		limit := func(bool) int { return 429 }
		s.pagerduty.Fault, s.chat.Fault, s.webhook.Fault = limit, limit, limit
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		if _, err := s.open(t, target).Post(ctx, sample("paged"), false); err == nil || retry.ClassOf(err) != retry.Transient {
			t.Errorf("%s: %v, want transient", target, err)
		}
		cancel()
	}
}

func TestWrongCredentialsAreMisconfiguredAndNotShown(t *testing.T) {
	s := start(t)
	s.smtp.Password = "changed"
	for target, class := range map[string]retry.Class{
		"pagerduty:wrong": retry.RefusedClass, // PagerDuty returns 400 for a wrong key as for a wrong event
		"chat:revoked":    retry.MisconfiguredClass, "webhook:wrong": retry.MisconfiguredClass, "email:ann@example.com": retry.MisconfiguredClass,
	} {
		_, err := s.open(t, target).Post(t.Context(), sample("paged"), false)
		if err == nil || retry.ClassOf(err) != class {
			t.Errorf("%s: class %s, want %s (%v)", target, retry.ClassOf(err), class, err)
			continue
		}
		for _, leaked := range []string{secret, "revoked-token", "another-key"} {
			if strings.Contains(err.Error(), leaked) {
				t.Errorf("%s: the error shows a secret: %v", target, err)
			}
		}
	}
}

func TestUnknownMailboxIsMisconfiguredAndTemporaryRefusalTransient(t *testing.T) {
	s := start(t)
	if _, err := s.open(t, "email:gone@example.com").Post(t.Context(), sample("paged"), false); retry.ClassOf(err) != retry.MisconfiguredClass {
		t.Errorf("an unknown mailbox: %v", err)
	}
	s.smtp.Fault = func() *smtp.SMTPError { return &smtp.SMTPError{Code: 451, Message: "try later"} }
	if _, err := s.open(t, "email:ann@example.com").Post(t.Context(), sample("paged"), false); err == nil || retry.ClassOf(err) != retry.Transient {
		t.Errorf("451: %v, want transient", err)
	}
}

func TestPagerDutyAlertFollowsTheCase(t *testing.T) {
	s := start(t)
	ch := s.open(t, "pagerduty:payments")
	ref, err := ch.Post(t.Context(), sample("waiting"), false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ch.Update(t.Context(), ref, sample("worse")); err != nil {
		t.Fatal(err)
	}
	if a := s.pagerduty.Alerts()[0]; a.Severity != "critical" || a.Triggers != 1 || a.Status != "triggered" {
		t.Errorf("after the update: %+v", a)
	}
	if err := ch.Resolve(t.Context(), ref, sample("closed")); err != nil {
		t.Fatal(err)
	}
	if a := s.pagerduty.Alerts()[0]; a.Status != "resolved" {
		t.Errorf("after the close: %+v", a)
	}
}

func TestChatAndMailTellChangesInTheThread(t *testing.T) {
	s := start(t)
	for _, target := range []string{"chat:security", "email:ann@example.com"} {
		ch, m := s.open(t, target), sample("released")
		ref, err := ch.Post(t.Context(), m, false)
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range m.Updates {
			if err := ch.Thread(t.Context(), ref, m, u); err != nil {
				t.Errorf("%s: %v", target, err)
			}
		}
	}
	for _, m := range s.chat.Messages() {
		if m.Thread != sample("released").Key {
			t.Errorf("a chat message is outside the thread: %+v", m)
		}
	}
	mails := s.smtp.Mails()
	if len(mails) < 2 || !strings.Contains(mails[1].Data, "In-Reply-To: <") {
		t.Errorf("%d mails; the second does not reply: %s", len(mails), mails[len(mails)-1].Data)
	}
}

func TestHostileTextIsInertInChatAndMail(t *testing.T) {
	s := start(t)
	evil := "<users/all> <https://evil.example|x> *b*\r\nBcc: eve@evil.example\r\n\r\n<b onclick=x> @all https://evil.example \u202e\x00"
	m := sample("frozen")
	m.Summary, m.Status, m.Verdict, m.Key = evil, evil, evil, "hostile"
	m.Fields = []notify.Field{{Name: evil, Value: evil}}
	m.Owners = []notify.Owner{{Name: evil}}
	m.Done, m.Next = []notify.Line{{Text: evil}}, []notify.Line{{Text: evil}}
	m.Links = []notify.Link{{Label: evil, URL: "javascript:alert(1)"}}
	for _, target := range targets {
		if _, err := s.open(t, target).Post(t.Context(), m, false); err != nil {
			t.Fatalf("%s: %v", target, err)
		}
	}
	chat := s.chat.Messages()[0].Body
	for _, bad := range []string{`<users/all>`, `\u003cusers/all\u003e`, `\u003cb onclick`, "javascript:"} {
		if strings.Contains(chat, bad) {
			t.Errorf("Google Chat was sent %q: %s", bad, chat)
		}
	}
	head, _, _ := strings.Cut(s.smtp.Mails()[0].Data, "\r\n\r\n")
	if strings.Contains(head, "\nBcc:") || len(s.smtp.Mails()[0].To) != 1 {
		t.Errorf("the mail has a forged header: %s", head)
	}
}

func TestDocumentMistakesAreAllReportedWithoutSecrets(t *testing.T) {
	_, err := channels.Parse(`
pagerduty: {payments: ""}
chat: {security: "javascript:s3cr3t-value"}
webhook: {siem: {url: "https://siem.example/in"}}
smtp: "smtp://u:s3cr3t-value@"
fallback: ["telegram:x"]
`)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{`pagerduty "payments"`, `chat "security"`, `webhook "siem"`, "SMTP", `"telegram:x"`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not name %s: %v", want, err)
		}
	}
	if strings.Contains(err.Error(), secret) {
		t.Errorf("the error shows a secret: %v", err)
	}
	if _, err := channels.Parse("pagerdutty: {a: s3cr3t-value}"); err == nil || strings.Contains(err.Error(), secret) {
		t.Errorf("an unknown key: %v", err)
	}
}

func TestUnconfiguredTargetIsAnError(t *testing.T) {
	for _, target := range []string{"slack:#x", "pagerduty:none", "chat:none", "webhook:none", "email:a@example.com"} {
		parsed, err := channels.ParseTarget(target)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := (&channels.Registry{}).Open(parsed); err == nil {
			t.Errorf("%s opened without a configuration", target)
		}
	}
}
