// Package email notifies people by e-mail through an SMTP server: one mail a case, later
// changes as replies to it.
package email

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/textproto"
	"net/url"
	"strconv"

	"github.com/wneessen/go-mail"

	"github.com/contraband-dev/contraband/internal/notify"
	"github.com/contraband-dev/contraband/internal/retry"
)

// Server is an SMTP server and who writes.
type Server struct {
	Host     string
	Port     int
	Username string // empty: no authentication
	Password string
	From     string // required
	// Plaintext allows a connection without TLS, for a relay on the same machine.
	Plaintext bool
}

// Parse reads smtp://USER:PASSWORD@HOST:PORT?from=ADDRESS. TLS is required, unless
// plaintext=true is given.
func Parse(address string) (Server, error) {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "smtp" || u.Hostname() == "" { // the error would have the password
		return Server{}, errors.New("the SMTP address must be smtp://USER:PASSWORD@HOST:PORT?from=ADDRESS")
	}
	s := Server{Host: u.Hostname(), Port: 587, Username: u.User.Username(), From: u.Query().Get("from"), Plaintext: u.Query().Get("plaintext") == "true"}
	s.Password, _ = u.User.Password()
	if p := u.Port(); p != "" {
		if s.Port, err = strconv.Atoi(p); err != nil {
			return Server{}, fmt.Errorf("SMTP port %q is not a number", p)
		}
	}
	if s.From == "" {
		return Server{}, errors.New("the SMTP address has no ?from=ADDRESS")
	}
	return s, nil
}

// Mailbox is one recipient. It implements notify.Channel.
type Mailbox struct {
	server Server
	to     string
}

// Mailbox returns the channel to a recipient.
func (s Server) Mailbox(to string) *Mailbox { return &Mailbox{s, to} }

// Post sends the mail. Its Message-ID is the case's, by which mail programs recognise a
// repetition.
func (b *Mailbox) Post(ctx context.Context, m notify.Message, _ bool) (notify.Ref, error) {
	id := messageID(m.Key, b.to, "")
	return notify.Ref{Room: b.to, ID: id}, b.send(ctx, id, "", Subject(m), Text(m))
}

// Update does nothing: a mail cannot be edited, and Thread sends each change.
func (b *Mailbox) Update(_ context.Context, ref notify.Ref, _ notify.Message) (notify.Ref, error) {
	return ref, nil
}

// Resolve does nothing: the last update shows the end.
func (b *Mailbox) Resolve(context.Context, notify.Ref, notify.Message) error { return nil }

// Thread sends a change as a reply; the details were in the first mail.
func (b *Mailbox) Thread(ctx context.Context, ref notify.Ref, m notify.Message, u notify.Update) error {
	if u.Key == notify.DetailsKey {
		return nil
	}
	text := notify.Limit(notify.Plain(notify.Line{Text: u.Text, At: u.At}.String()), 1000)
	return b.send(ctx, messageID(m.Key, b.to, u.Key), ref.ID, "Re: "+Subject(m), text+"\n\n"+m.Text())
}

// Subject returns the subject of the mail about a message.
func Subject(m notify.Message) string {
	return notify.Limit(notify.Plain("["+m.Severity.String()+"] "+m.Summary), 200)
}

// Text returns the body of the first mail.
func Text(m notify.Message) string { return m.Text() + m.DetailText() }

func messageID(key, to, part string) string {
	sum := sha256.Sum256([]byte(key + "\x00" + to + "\x00" + part))
	return hex.EncodeToString(sum[:16]) + "@contraband.invalid"
}

func (b *Mailbox) send(ctx context.Context, id, inReplyTo, subject, text string) error {
	m := mail.NewMsg()
	if err := m.From(b.server.From); err != nil {
		return retry.Misconfigured(fmt.Errorf("e-mail sender %q: %w", b.server.From, err))
	}
	if err := m.To(b.to); err != nil {
		return retry.Misconfigured(fmt.Errorf("e-mail recipient %q: %w", b.to, err))
	}
	m.Subject(subject)
	m.SetDate()
	m.SetMessageIDWithValue(id)
	if inReplyTo != "" {
		m.SetGenHeader(mail.HeaderInReplyTo, "<"+inReplyTo+">")
		m.SetGenHeader(mail.HeaderReferences, "<"+inReplyTo+">")
	}
	m.SetBodyString(mail.TypeTextPlain, text)
	client, err := b.client()
	if err != nil {
		return retry.Misconfigured(fmt.Errorf("SMTP server %q: %w", b.server.Host, err))
	}
	if err := client.DialAndSendWithContext(ctx, m); err != nil {
		return fmt.Errorf("send e-mail to %q: %w", b.to, classify(err))
	}
	return nil
}

func (b *Mailbox) client() (*mail.Client, error) {
	policy := mail.TLSMandatory
	if b.server.Plaintext {
		policy = mail.NoTLS
	}
	options := []mail.Option{mail.WithPort(b.server.Port), mail.WithTLSPolicy(policy)}
	if b.server.Username != "" {
		auth := mail.SMTPAuthPlain
		if b.server.Plaintext {
			auth = mail.SMTPAuthPlainNoEnc
		}
		options = append(options, mail.WithSMTPAuth(auth), mail.WithUsername(b.server.Username), mail.WithPassword(b.server.Password))
	}
	return mail.NewClient(b.server.Host, options...)
}

// classify marks an error: no connection and 4xx replies are transient, all else has to
// be mended by a person.
func classify(err error) error {
	var send *mail.SendError
	if errors.As(err, &send) && send.IsTemp() {
		return err
	}
	if _, ok := errors.AsType[net.Error](err); ok || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return err
	}
	if code := replyCode(err); code >= 400 && code < 500 {
		return err
	}
	return retry.Misconfigured(err)
}

// replyCode returns the SMTP reply code of an error, or 0.
func replyCode(err error) int {
	var reply *textproto.Error
	if errors.As(err, &reply) {
		return reply.Code
	}
	return 0
}
