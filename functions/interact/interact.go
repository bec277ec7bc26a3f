// Package interact owns the function that Slack calls when a button is clicked:
//
//	Interact  HTTP, signed by Slack -> records the click and advances the case
package interact

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/slack-go/slack"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/cases/caselog"
	"github.com/contraband-dev/contraband/internal/funcserver"
	"github.com/contraband-dev/contraband/internal/funcserver/casefunc"
	"github.com/contraband-dev/contraband/internal/notify"
)

// Config is read from the environment.
type Config struct {
	Cases casefunc.Config
	// SlackSigningSecret verifies that a request comes from Slack. Without it every
	// request is refused.
	SlackSigningSecret string `env:"SLACK_SIGNING_SECRET"`
}

// Function is the deployed function.
type Function struct {
	*casefunc.Base

	signingSecret string
	replyBase     string // begins addresses that replies may be sent to, beside Slack's own
}

// New opens the case store.
func New(ctx context.Context, cfg Config, parts casefunc.Parts) (*Function, error) {
	base, err := casefunc.New(ctx, cfg.Cases, parts)
	if err != nil {
		return nil, err
	}
	return On(base, cfg.SlackSigningSecret), nil
}

// On returns the function for an open case store.
func On(base *casefunc.Base, signingSecret string) *Function {
	return &Function{Base: base, signingSecret: signingSecret}
}

// RepliesTo also sends replies to addresses that begin with base: those of a Slack that is
// not Slack's own.
func (f *Function) RepliesTo(base string) *Function {
	f.replyBase = base
	return f
}

// Register registers the function with the framework.
func Register() {
	p := funcserver.NewProgram(func(ctx context.Context, c Config) (*Function, error) {
		return New(ctx, c, casefunc.Parts{})
	})
	p.Web("Interact", (*Function).Interact)
}

// Bounds of Interact. Slack waits three seconds for the reply and does not retry.
const (
	maxInteraction = 256 << 10 // bytes of a body
	interactTime   = 2500 * time.Millisecond
	forwardTime    = 1500 * time.Millisecond // for waking the case, within it
)

// Interact handles a click in Slack: it verifies the signature over the body, records the
// click, advances the case and replies. Nothing runs after the reply, when a function has no
// CPU. Slack cannot send an identity token, so the endpoint is public and the signature is
// the only authentication.
func (f *Function) Interact(w http.ResponseWriter, r *http.Request) {
	if f.signingSecret == "" {
		http.Error(w, "SLACK_SIGNING_SECRET is not configured", http.StatusServiceUnavailable)
		return
	}
	if r.Method != http.MethodPost {
		http.Error(w, "POST only", http.StatusMethodNotAllowed)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxInteraction))
	if err != nil {
		http.Error(w, "request body is too large or incomplete", http.StatusRequestEntityTooLarge)
		return
	}
	if err := verified(r.Header, body, f.signingSecret); err != nil {
		slog.Warn("interaction refused", "reason", err.Error())
		http.Error(w, "invalid Slack signature", http.StatusUnauthorized)
		return
	}
	pressed, err := interaction(body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), interactTime)
	defer cancel()
	for _, p := range pressed {
		if err := f.handle(ctx, p); err != nil {
			slog.Error("failed to handle a click", "case", p.caseID, "error", err.Error())
			http.Error(w, "could not record your click; try again", http.StatusServiceUnavailable)
			return
		}
	}
	w.WriteHeader(http.StatusOK)
}

// verified checks Slack's signature, whose timestamp may be off by five minutes.
func verified(h http.Header, body []byte, secret string) error {
	v, err := slack.NewSecretsVerifier(h, secret)
	if err != nil {
		return err
	}
	if _, err := v.Write(body); err != nil {
		return err
	}
	return v.Ensure()
}

// press is a click on one button.
type press struct {
	caseID, what, by, userID string
	decision                 *int   // that the button was shown with; nil: unknown
	id                       string // the same for each delivery of one click
	at                       time.Time
	value                    string // of the button
	responseURL              string // where the person who clicked can be replied to; "": nowhere
	// form: the button is that of the form that asks what is expected.
	form                 bool
	scope, until, reason string
}

// interaction decodes the signed body. The query string is not signed, and not read.
func interaction(body []byte) ([]press, error) {
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, errors.New("request body is not a form")
	}
	var in slack.InteractionCallback
	if err := json.NewDecoder(bytes.NewReader([]byte(form.Get("payload")))).Decode(&in); err != nil {
		return nil, errors.New("invalid payload")
	}
	if in.Type != slack.InteractionTypeBlockActions {
		return nil, fmt.Errorf("unknown interaction type %q", in.Type)
	}
	if in.User.ID == "" {
		return nil, errors.New("payload has no user")
	}
	var out []press
	for _, a := range in.ActionCallback.BlockActions {
		if strings.HasPrefix(a.ActionID, notify.LinkActionPrefix) {
			return nil, nil // Slack also reports clicks on buttons that only open a page
		}
		id, decision, err := readValue(a.Value)
		if err != nil || !cases.IsClickAction(a.ActionID) && a.ActionID != actionCancel {
			return nil, fmt.Errorf("unknown button %q with value %q", a.ActionID, a.Value)
		}
		name := in.User.Name
		if name == "" {
			name = in.User.Username
		}
		sum := sha256.Sum256([]byte(a.ActionTs + "\x00" + in.User.ID + "\x00" + a.ActionID + "\x00" + a.Value + "\x00" + in.TriggerID))
		p := press{caseID: id, decision: decision, what: a.ActionID, userID: in.User.ID, by: fmt.Sprintf("%s (%s in Slack)", name, in.User.ID),
			id: "slack-" + hex.EncodeToString(sum[:16]), at: time.Now().UTC(), value: a.Value, responseURL: in.ResponseURL}
		p.scope, p.until, p.reason, p.form = formOf(in.BlockActionState)
		out = append(out, p)
	}
	if len(out) == 0 {
		return nil, errors.New("payload has no action")
	}
	return out, nil
}

// readValue decodes a button's value: the case, and the decision that it was shown with.
func readValue(value string) (caseID string, decision *int, err error) {
	caseID, n, said := strings.Cut(value, "/")
	if !caselog.IsID(caseID) {
		return "", nil, errors.New("invalid case ID")
	}
	if said {
		i, err := strconv.ParseUint(n, 10, 31)
		if err != nil {
			return "", nil, err
		}
		shown := int(i)
		decision = &shown
	}
	return caseID, decision, nil
}

// handle records a click, or asks what is expected before it records that.
func (f *Function) handle(ctx context.Context, p press) error {
	if !f.IsApprover(p.userID) { // logged, not stored: clicks are cheap to make
		slog.Warn("click refused: not an approver (CONTRABAND_APPROVERS)", "case", p.caseID, "what", p.what, "by", p.by)
		f.inform(ctx, p, "Nothing was done: you are not among those who may decide about containment (CONTRABAND_APPROVERS).")
		return nil
	}
	k := cases.Click{ID: p.id, What: p.what, By: p.by, At: p.at, Decision: p.decision}
	switch {
	case p.what == actionCancel:
		return f.reply(ctx, p, &slack.WebhookMessage{DeleteOriginal: true})
	case p.what != cases.ActionExpected || p.responseURL == "":
		return f.take(ctx, p.caseID, k)
	case !p.form:
		return f.reply(ctx, p, expectedForm(p.value, "", false, p.at))
	}
	if err := k.Expect(p.scope, p.until, p.reason); err != nil {
		return f.reply(ctx, p, expectedForm(p.value, err.Error(), true, p.at))
	}
	if err := f.take(ctx, p.caseID, k); err != nil {
		return err
	}
	f.inform(ctx, p, "Recorded. The case closes as expected, unless something is still contained or the verdict has changed since: its message shows it.")
	return nil
}

// take records a click and advances the case. A replay is harmless because it has the key
// of the first delivery. If the case cannot be advanced in time, its wake does it.
func (f *Function) take(ctx context.Context, caseID string, k cases.Click) error {
	body, err := json.Marshal(k)
	if err != nil {
		return err
	}
	known, err := f.Log.Exists(ctx, caseID) // the case is not read: that could take longer than three seconds
	if err != nil {
		return err
	}
	if !known {
		slog.Warn("click on an unknown case", "case", caseID)
		return nil
	}
	if err := f.Log.Click(ctx, caseID, k.ID, body); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, forwardTime)
	defer cancel()
	f.AfterClick(ctx, caseID)
	return nil
}
