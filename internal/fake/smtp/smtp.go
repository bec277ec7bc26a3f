// Package smtp is an in-process mail server: it speaks SMTP, requires authentication,
// knows its mailboxes, and fails on demand. Nothing deployed imports it.
package smtp

import (
	"errors"
	"io"
	"net"
	"slices"
	"sync"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// Mail is what was delivered.
type Mail struct {
	From string
	To   []string
	Data string
}

// Server is the mail server.
type Server struct {
	// Username and Password that clients must give. Required.
	Username, Password string
	// Mailboxes that exist. Required.
	Mailboxes []string
	// Fault is called when a mail was sent; an *smtp.SMTPError is the answer. nil: never.
	Fault func() *smtp.SMTPError

	mu    sync.Mutex
	mails []Mail
	smtp  *smtp.Server
}

// Start serves on a port of the loopback interface and returns its address.
func (s *Server) Start() (host string, port int, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", 0, err
	}
	s.smtp = smtp.NewServer(s)
	s.smtp.Domain, s.smtp.AllowInsecureAuth, s.smtp.MaxMessageBytes = "mail.example", true, 1<<20
	go func() { _ = s.smtp.Serve(l) }()
	addr, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return "", 0, errors.New("not a TCP address")
	}
	return addr.IP.String(), addr.Port, nil
}

// Close ends the server.
func (s *Server) Close() error { return s.smtp.Close() }

// Mails returns what was delivered, oldest first.
func (s *Server) Mails() []Mail {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.mails)
}

// NewSession begins a connection.
func (s *Server) NewSession(*smtp.Conn) (smtp.Session, error) { return &session{server: s}, nil }

type session struct {
	server *Server
	known  bool
	mail   Mail
}

func (s *session) AuthMechanisms() []string { return []string{sasl.Plain} }

func (s *session) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, username, password string) error {
		if username != s.server.Username || password != s.server.Password {
			return smtp.ErrAuthFailed
		}
		s.known = true
		return nil
	}), nil
}

func (s *session) Mail(from string, _ *smtp.MailOptions) error {
	if !s.known {
		return smtp.ErrAuthRequired
	}
	s.mail = Mail{From: from}
	return nil
}

func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	if !slices.Contains(s.server.Mailboxes, to) {
		return &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "no such mailbox"}
	}
	s.mail.To = append(s.mail.To, to)
	return nil
}

func (s *session) Data(r io.Reader) error {
	if s.server.Fault != nil {
		if fault := s.server.Fault(); fault != nil {
			return fault
		}
	}
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	s.mail.Data = string(data)
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	s.server.mails = append(s.server.mails, s.mail)
	return nil
}

func (s *session) Reset() { s.mail = Mail{} }

func (s *session) Logout() error { return nil }
