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
	return &Function{base, signingSecret}
}

// Register registers the function with the framework.
func Register() {
	p := funcserver.NewProgram(func(ctx context.Context, c Config) (*Function, error) {
		return New(ctx, c, casefunc.Parts{})
	})
	p.Web("Interact", (*Function).Interact)
}

// Bounds of Interact. Slack gives three seconds, and does not come again.
const (
	maxInteraction = 256 << 10 // bytes of a body
	interactTime   = 2500 * time.Millisecond
	forwardTime    = 1500 * time.Millisecond // for waking the case, within it
)

// Interact takes what people press in Slack: it verifies the signature over the
// body, puts the click on record, has the case go on, and answers. Nothing runs
// after the answer: a function has no processor then. Slack cannot present an
// identity token, so the endpoint is public and the signature is all there is.
func (f *Function) Interact(w http.ResponseWriter, r *http.Request) {
	if f.signingSecret == "" {
		http.Error(w, "SLACK_SIGNING_SECRET is not configured: nothing can be verified", http.StatusServiceUnavailable)
		return
	}
	if r.Method != http.MethodPost {
		http.Error(w, "POST only", http.StatusMethodNotAllowed)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxInteraction))
	if err != nil {
		http.Error(w, "the body is too large or was cut short", http.StatusRequestEntityTooLarge)
		return
	}
	if err := verified(r.Header, body, f.signingSecret); err != nil {
		slog.Warn("an interaction was refused", "reason", err.Error())
		http.Error(w, "the signature does not fit", http.StatusUnauthorized)
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
		if err := f.take(ctx, p); err != nil {
			slog.Error("a click could not be put on record", "case", p.caseID, "error", err.Error())
			http.Error(w, "it could not be put on record: press again", http.StatusServiceUnavailable)
			return
		}
	}
	w.WriteHeader(http.StatusOK)
}

// verified checks Slack's signature, whose time may be five minutes off.
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

// press is one button that somebody pressed.
type press struct {
	caseID, what, by, userID string
	decision                 *int   // that was shown with the button; nil: it did not say
	id                       string // the same for the same click, however often it comes
	at                       time.Time
}

// interaction reads the signed body; the query string is not signed, and not read.
func interaction(body []byte) ([]press, error) {
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, errors.New("the body is no form")
	}
	var in slack.InteractionCallback
	if err := json.NewDecoder(bytes.NewReader([]byte(form.Get("payload")))).Decode(&in); err != nil {
		return nil, errors.New("the payload cannot be read")
	}
	if in.Type != slack.InteractionTypeBlockActions {
		return nil, fmt.Errorf("an interaction of type %q is none of ours", in.Type)
	}
	if in.User.ID == "" {
		return nil, errors.New("the payload does not say who pressed")
	}
	var out []press
	for _, a := range in.ActionCallback.BlockActions {
		if strings.HasPrefix(a.ActionID, notify.LinkActionPrefix) {
			return nil, nil // Slack also reports clicks on buttons that only open a page
		}
		id, decision, err := readValue(a.Value)
		if err != nil || !cases.IsClickAction(a.ActionID) {
			return nil, fmt.Errorf("there is no button %q with the value %q", a.ActionID, a.Value)
		}
		name := in.User.Name
		if name == "" {
			name = in.User.Username
		}
		sum := sha256.Sum256([]byte(a.ActionTs + "\x00" + in.User.ID + "\x00" + a.ActionID + "\x00" + a.Value + "\x00" + in.TriggerID))
		out = append(out, press{caseID: id, decision: decision, what: a.ActionID, userID: in.User.ID, by: fmt.Sprintf("%s (%s in Slack)", name, in.User.ID),
			id: "slack-" + hex.EncodeToString(sum[:16]), at: time.Now().UTC()})
	}
	if len(out) == 0 {
		return nil, errors.New("the payload names no action")
	}
	return out, nil
}

// readValue reads a button's value: the case, and the decision that was shown with it.
func readValue(value string) (caseID string, decision *int, err error) {
	caseID, n, said := strings.Cut(value, "/")
	if !caseForm(caseID) {
		return "", nil, errors.New("no case")
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

// caseForm bounds what becomes part of a key.
func caseForm(id string) bool {
	return len(id) >= 8 && len(id) <= 40 && !bytes.ContainsFunc([]byte(id), func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'a' || r > 'z') && r != '-'
	})
}

// take puts a click on record and has the case go on. The record is also what
// makes a replay harmless: the same click has the same key. Where the case cannot
// be reached in time its wake brings it on.
func (f *Function) take(ctx context.Context, p press) error {
	if !f.IsApprover(p.userID) { // logged, not stored: it is cheap for whoever clicks
		slog.Warn("click refused: not an approver (CONTRABAND_APPROVERS)", "case", p.caseID, "what", p.what, "by", p.by)
		return nil
	}
	k := cases.Click{ID: p.id, What: p.what, By: p.by, At: p.at, Decision: p.decision}
	body, err := json.Marshal(k)
	if err != nil {
		return err
	}
	known, err := f.Log.Exists(ctx, p.caseID) // and no more: a case can be long, and three seconds are not
	if err != nil {
		return err
	}
	if !known {
		slog.Warn("a button of no case was pressed", "case", p.caseID)
		return nil
	}
	if err := f.Log.Click(ctx, p.caseID, p.id, body); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, forwardTime)
	defer cancel()
	f.AfterClick(ctx, p.caseID)
	return nil
}
