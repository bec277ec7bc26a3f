package interact

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/slack-go/slack"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/expected"
	"github.com/contraband-dev/contraband/internal/notify"
)

// Input blocks of the form that asks what is expected, and the ID of its button that
// records nothing.
const (
	blockScope   = "scope"
	blockUntil   = "until"
	blockReason  = "reason"
	actionCancel = "cancel"
)

// maxReasonTyped is how many characters of a reason Slack lets a person type.
const maxReasonTyped = 500

// hosts are where Slack takes replies to an interaction.
var hosts = []string{"https://hooks.slack.com/", "https://hooks.slack-gov.com/"}

// reply sends a message that only the person who clicked sees. The address comes in the
// signed body and needs no token, so this public endpoint holds none.
func (f *Function) reply(ctx context.Context, p press, message *slack.WebhookMessage) error {
	if !f.isSlack(p.responseURL) {
		return fmt.Errorf("reply to %q: not an address of Slack", p.responseURL)
	}
	ctx, cancel := context.WithTimeout(ctx, forwardTime)
	defer cancel()
	client := f.Parts.HTTP
	if client == nil {
		client = http.DefaultClient
	}
	if err := slack.PostWebhookCustomHTTPContext(ctx, p.responseURL, client, message); err != nil {
		return fmt.Errorf("reply to the click: %w", err)
	}
	return nil
}

// inform is reply for what a person may miss without harm.
func (f *Function) inform(ctx context.Context, p press, text string) {
	if p.responseURL == "" {
		return
	}
	if err := f.reply(ctx, p, &slack.WebhookMessage{ResponseType: slack.ResponseTypeEphemeral, ReplaceOriginal: p.form, Text: text}); err != nil {
		slog.Warn("no reply to a click", "case", p.caseID, "error", err.Error())
	}
}

func (f *Function) isSlack(address string) bool {
	if f.replyBase != "" && strings.HasPrefix(address, f.replyBase) {
		return true
	}
	u, err := url.Parse(address)
	if err != nil || u.User != nil {
		return false
	}
	for _, h := range hosts {
		if strings.HasPrefix(address, h) {
			return true
		}
	}
	return false
}

// expectedForm asks what is expected from now on: the narrowest scope and the usual last
// day are chosen. problem says what was wrong with an earlier reply; "": nothing.
func expectedForm(value, problem string, replace bool, now time.Time) *slack.WebhookMessage {
	text := func(s string) *slack.TextBlockObject {
		return slack.NewTextBlockObject(slack.PlainTextType, s, false, false)
	}
	bytes := slack.NewOptionBlockObject(cases.ScopeBytes, text("These bytes, in this workload"), text("The same file, whatever its path."))
	path := slack.NewOptionBlockObject(cases.ScopePath, text("This path, in images of this repository, in this workload"), text("Also when its bytes change, as long as nothing is known to be malicious."))
	scope := slack.NewRadioButtonsBlockElement(blockScope, bytes, path)
	scope.InitialOption = bytes
	until := slack.NewDatePickerBlockElement(blockUntil)
	until.InitialDate = now.Add(expected.DefaultFor).UTC().Format(time.DateOnly)
	reason := slack.NewPlainTextInputBlockElement(text("For example: the build installs it"), blockReason)
	reason.MaxLength = maxReasonTyped
	confirm := slack.NewButtonBlockElement(cases.ActionExpected, value, text("Close as expected"))
	confirm.Style = slack.StylePrimary
	intro := "Further runs are counted and page nobody, until the last day. It can be revoked in the casebook."
	if problem != "" {
		intro = "⚠️ " + notify.Limit(notify.Plain(problem), 300) + "\n" + intro
	}
	blocks := []slack.Block{
		slack.NewSectionBlock(text("What is expected?\n"+intro), nil, nil),
		slack.NewInputBlock(blockScope, text("Scope"), nil, scope),
		slack.NewInputBlock(blockUntil, text("Last day"), text("A year at most."), until),
		slack.NewInputBlock(blockReason, text("Reason"), nil, reason),
		slack.NewActionBlock("buttons", confirm, slack.NewButtonBlockElement(actionCancel, value, text("Cancel"))),
	}
	return &slack.WebhookMessage{ResponseType: slack.ResponseTypeEphemeral, ReplaceOriginal: replace,
		Text: "What is expected?", Blocks: &slack.Blocks{BlockSet: blocks}}
}

// formOf returns what was filled in; false for a button of a message without the form.
func formOf(state *slack.BlockActionStates) (scope, until, reason string, ok bool) {
	if state == nil || state.Values[blockScope] == nil {
		return "", "", "", false
	}
	return state.Values[blockScope][blockScope].SelectedOption.Value,
		state.Values[blockUntil][blockUntil].SelectedDate,
		state.Values[blockReason][blockReason].Value, true
}
