package interact

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/expected"
	fakeslack "github.com/contraband-dev/contraband/internal/fake/slack"
)

// withPage posts a message with a button for closing the case as expected, and lets Slack
// take replies to clicks. It returns the message's time stamp.
func withPage(t *testing.T, d *desk) string {
	t.Helper()
	d.slack.Token = "xoxb-test"
	api := httptest.NewServer(d.slack.Handler())
	t.Cleanup(api.Close)
	d.slack.Interact.Replies = api.URL
	d.RepliesTo(api.URL + "/")
	blocks := `[{"type":"actions","elements":[{"type":"button","action_id":"benign","value":"` + caseID + `/3","text":{"type":"plain_text","text":"Close as expected"}}]}]`
	resp, err := http.PostForm(api.URL+"/api/chat.postMessage", url.Values{"token": {"xoxb-test"}, "channel": {fakeslack.Channel}, "text": {"a page"}, "blocks": {blocks}})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var out struct {
		OK bool
		TS string
	}
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil || !out.OK {
		t.Fatalf("post: %v", err)
	}
	return out.TS
}

func (d *desk) press(ts, action, user string, filled map[string]string) int {
	d.t.Helper()
	status, err := d.slack.Submit(d.t.Context(), ts, action, caseID+"/3", user, filled)
	if err != nil {
		d.t.Fatal(err)
	}
	return status
}

// form returns the only message that a user alone sees.
func (d *desk) form(user string) fakeslack.Message {
	d.t.Helper()
	all, err := d.slack.Ephemeral(user)
	if err != nil || len(all) != 1 {
		d.t.Fatalf("%s sees %d messages of their own, want 1: %v", user, len(all), err)
	}
	return all[0]
}

func TestExpectedAsksForScopeDayAndReason(t *testing.T) {
	d := newDesk(t)
	page := withPage(t, d)
	if got := d.press(page, cases.ActionExpected, "U1", nil); got != http.StatusOK {
		t.Fatalf("status %d", got)
	}
	form := d.form("U1")
	if len(d.clicks()) != 0 {
		t.Fatal("the click is recorded before a scope was chosen")
	}
	usual := time.Now().Add(expected.DefaultFor).UTC().Format(time.DateOnly)
	if blocks := string(form.Blocks); !strings.Contains(blocks, `"initial_date":"`+usual+`"`) {
		t.Errorf("the form does not propose the usual last day %s: %s", usual, blocks)
	}
	for name, filled := range map[string]map[string]string{
		"no reason":    {},
		"only spaces":  {"reason": "   "},
		"a past day":   {"reason": "build", "until": "2020-01-01"},
		"no such date": {"reason": " ", "until": usual},
	} {
		if got := d.press(form.Timestamp, cases.ActionExpected, "U1", filled); got != http.StatusOK {
			t.Errorf("%s: status %d", name, got)
		}
		if again := d.form("U1"); !strings.Contains(string(again.Blocks), "⚠️") || len(d.clicks()) != 0 {
			t.Errorf("%s: recorded, or the form does not say what is wrong: %s", name, again.Blocks)
		}
	}
	day := time.Now().AddDate(0, 1, 0).UTC().Format(time.DateOnly)
	if got := d.press(form.Timestamp, cases.ActionExpected, "U1", map[string]string{"scope": cases.ScopePath, "until": day, "reason": "the build installs it"}); got != http.StatusOK {
		t.Fatalf("status %d", got)
	}
	got := d.clicks()
	if len(got) != 1 {
		t.Fatalf("clicks %+v, want one", got)
	}
	k := got[0]
	if k.Scope != cases.ScopePath || k.Reason != "the build installs it" || k.Until.AddDate(0, 0, -1).Format(time.DateOnly) != day || k.Decision == nil || *k.Decision != 3 {
		t.Errorf("click %+v", k)
	}
	if done := d.form("U1"); !strings.Contains(done.Text, "Recorded") || strings.Contains(string(done.Blocks), "input") {
		t.Errorf("the form stands: %q %s", done.Text, done.Blocks)
	}
}

func TestExpectedProposesTheNarrowestScope(t *testing.T) {
	d := newDesk(t)
	page := withPage(t, d)
	d.press(page, cases.ActionExpected, "U1", nil)
	d.press(d.form("U1").Timestamp, cases.ActionExpected, "U1", map[string]string{"reason": "build"})
	if got := d.clicks(); len(got) != 1 || got[0].Scope != cases.ScopeBytes {
		t.Errorf("clicks %+v, want one of the scope %q", got, cases.ScopeBytes)
	}
}

func TestExpectedCanBeCancelled(t *testing.T) {
	d := newDesk(t)
	page := withPage(t, d)
	d.press(page, cases.ActionExpected, "U1", nil)
	if got := d.press(d.form("U1").Timestamp, actionCancel, "U1", nil); got != http.StatusOK {
		t.Errorf("status %d", got)
	}
	if left, err := d.slack.Ephemeral("U1"); err != nil || len(left) != 0 || len(d.clicks()) != 0 {
		t.Errorf("%d messages and clicks %+v are left: %v", len(left), d.clicks(), err)
	}
}

// A form that cannot be shown must not be taken for a recorded click.
func TestExpectedWhenSlackTakesNoReply(t *testing.T) {
	d := newDesk(t)
	page := withPage(t, d)
	d.slack.Fault = func(method string, _ bool) int {
		if method == "response_url" {
			return http.StatusInternalServerError
		}
		return 0
	}
	if got := d.press(page, cases.ActionExpected, "U1", nil); got != http.StatusServiceUnavailable {
		t.Errorf("status %d, want 503: the person has to try again", got)
	}
	if len(d.clicks()) != 0 {
		t.Errorf("clicks %+v", d.clicks())
	}
}

func TestRefusedClickIsExplained(t *testing.T) {
	d := newDesk(t)
	d.Config.Approvers = []string{"U2"}
	page := withPage(t, d)
	if got := d.press(page, cases.ActionExpected, "U1", nil); got != http.StatusOK {
		t.Errorf("status %d", got)
	}
	if m := d.form("U1"); !strings.Contains(m.Text, "Nothing was done") {
		t.Errorf("the person reads %q", m.Text)
	}
}

// Replies go to Slack alone, whatever address a payload has.
func TestRepliesGoToSlackAlone(t *testing.T) {
	f := &Function{}
	for address, want := range map[string]bool{
		"https://hooks.slack.com/actions/T0/1/x":     true,
		"https://hooks.slack-gov.com/actions/T0/1/x": true,
		"https://hooks.slack.com.evil.example/x":     false,
		"https://hooks.slack.com@evil.example/x":     false,
		"http://hooks.slack.com/actions/x":           false,
		"http://169.254.169.254/computeMetadata":     false,
		"":                                           false,
	} {
		if got := f.isSlack(address); got != want {
			t.Errorf("isSlack(%q) = %v", address, got)
		}
	}
}
