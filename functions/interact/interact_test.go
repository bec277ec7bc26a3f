package interact

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/contraband-dev/contraband/internal/cases"
	fakeslack "github.com/contraband-dev/contraband/internal/fake/slack"
	"github.com/contraband-dev/contraband/internal/funcserver/casefunc"
)

const caseID = "0123456789abcdef"

// desk is Interact, a case to press about, and Slack.
type desk struct {
	*Function
	t        *testing.T
	slack    *fakeslack.Server
	advanced atomic.Int64
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	s, err := New(t.Context(), Config{Cases: casefunc.Config{Store: "mem://"}, SlackSigningSecret: "the app's secret"}, casefunc.Parts{HTTP: http.DefaultClient})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	d := &desk{Function: s, t: t}
	advance := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { d.advanced.Add(1) }))
	t.Cleanup(advance.Close)
	s.Config.AdvanceURL = advance.URL
	f, err := s.Log.Read(t.Context(), caseID, "test")
	if err == nil {
		_, err = f.Append(t.Context(), cases.KindDecided, cases.Decided{Key: "k"})
	}
	if err == nil {
		err = f.Release(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	if d.slack, err = fakeslack.Open(filepath.Join(t.TempDir(), "slack.db")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.slack.Close() })
	web := httptest.NewServer(http.HandlerFunc(s.Interact))
	t.Cleanup(web.Close)
	d.slack.Interact = fakeslack.Interactivity{URL: web.URL, SigningSecret: s.signingSecret}
	return d
}

func (d *desk) clicks() []cases.Click {
	d.t.Helper()
	entries, err := d.Log.Clicks(d.t.Context(), caseID, nil)
	if err != nil {
		d.t.Fatal(err)
	}
	var out []cases.Click
	for _, e := range entries {
		var k cases.Click
		if err := json.Unmarshal(e.Body, &k); err != nil {
			d.t.Fatal(err)
		}
		out = append(out, k)
	}
	return out
}

func body(payload string) []byte {
	return []byte(url.Values{"payload": {payload}}.Encode())
}

func pressOf(action, id string) string {
	return `{"type":"block_actions","user":{"id":"U1","name":"ann"},"trigger_id":"t","actions":[{"type":"button","block_id":"buttons","action_id":"` + action + `","value":"` + id + `","action_ts":"1.2"}]}`
}

// TestInteract: what is signed and in time is put on record, once; what is not, is not.
func TestInteract(t *testing.T) {
	d := newDesk(t)
	good := body(pressOf(cases.ActionRelease, caseID))
	send := func(b []byte, at time.Time) int {
		t.Helper()
		status, err := d.slack.Send(t.Context(), b, at)
		if err != nil {
			t.Fatal(err)
		}
		return status
	}
	for name, c := range map[string]struct {
		body   []byte
		at     time.Time
		secret string
		want   int
	}{
		"another secret":          {good, time.Now(), "guessed", http.StatusUnauthorized},
		"too old":                 {good, time.Now().Add(-6 * time.Minute), "", http.StatusUnauthorized},
		"from the future":         {good, time.Now().Add(6 * time.Minute), "", http.StatusUnauthorized},
		"too large":               {bytes.Repeat([]byte("x"), maxInteraction+1), time.Now(), "", http.StatusRequestEntityTooLarge},
		"no form":                 {[]byte("payload=%zz"), time.Now(), "", http.StatusBadRequest},
		"no payload":              {[]byte("x=y"), time.Now(), "", http.StatusBadRequest},
		"no JSON":                 {body("<"), time.Now(), "", http.StatusBadRequest},
		"another kind":            {body(`{"type":"view_submission","user":{"id":"U1"}}`), time.Now(), "", http.StatusBadRequest},
		"nobody":                  {body(strings.Replace(pressOf("release", caseID), "U1", "", 1)), time.Now(), "", http.StatusBadRequest},
		"no such button":          {body(pressOf("explode", caseID)), time.Now(), "", http.StatusBadRequest},
		"a case that is a path":   {body(pressOf("release", "../../findings/x")), time.Now(), "", http.StatusBadRequest},
		"a decision that is none": {body(pressOf("approve", caseID+"/x")), time.Now(), "", http.StatusBadRequest},
		"a case that is not one":  {body(pressOf("release", "ffffffffffffffff")), time.Now(), "", http.StatusOK},
	} {
		secret := d.slack.Interact.SigningSecret
		if c.secret != "" {
			d.slack.Interact.SigningSecret = c.secret
		}
		if got := send(c.body, c.at); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
		d.slack.Interact.SigningSecret = secret
	}
	if got := d.clicks(); len(got) != 0 || d.advanced.Load() != 0 {
		t.Fatalf("clicks %+v, %d advances, want none", got, d.advanced.Load())
	}
	for range 3 { // a replay, within the five minutes
		if got := send(good, time.Now()); got != http.StatusOK {
			t.Errorf("a press: %d", got)
		}
	}
	got := d.clicks()
	if len(got) != 1 || got[0].What != cases.ActionRelease || got[0].By != "ann (U1 in Slack)" || got[0].Refused != "" {
		t.Errorf("clicks %+v, want one", got)
	}
	if d.advanced.Load() == 0 {
		t.Error("the case was not brought on")
	}
	due, ahead, err := d.Log.Due(t.Context())
	if all := slices.Concat(due, ahead); err != nil || len(all) == 0 || all[0].Case != caseID || time.Until(all[0].At) > time.Second {
		t.Errorf("no wake stands by: %v, %v", all, err)
	}
}

// TestInteractInTime: Slack waits for three seconds, and an answer that is late is
// a click lost to the person; so a case that cannot be reached keeps nobody waiting.
func TestInteractInTime(t *testing.T) {
	d := newDesk(t)
	d.Parts.HTTP = &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		<-r.Context().Done()
		return nil, r.Context().Err()
	})}
	status, err := d.slack.Send(t.Context(), body(pressOf(cases.ActionApprove, caseID)), time.Now()) // with Slack's own time-out
	if err != nil || status != http.StatusOK {
		t.Fatalf("%d, %v", status, err)
	}
	if len(d.clicks()) != 1 {
		t.Error("the click is lost")
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestInteractStoreFails: a click that cannot be put on record is not acknowledged.
func TestInteractStoreFails(t *testing.T) {
	d := newDesk(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := httptest.NewRequestWithContext(ctx, http.MethodPost, "/", nil)
	if err := d.take(r.Context(), caseID, cases.Click{What: cases.ActionDeny, ID: "x"}); err == nil {
		t.Error("no error from a store that fails")
	}
}

// A click costs nothing to make: one that is refused must not cost a write, a read and an
// event of the case.
func TestClickOfAPersonWhoIsNoApproverIsNotStored(t *testing.T) {
	d := newDesk(t)
	d.Config.Approvers = []string{"U2"}
	for _, user := range []string{"U1", "U2"} {
		if status, err := d.slack.Send(t.Context(), body(strings.Replace(pressOf("approve", caseID), "U1", user, 1)), time.Now()); err != nil || status != http.StatusOK {
			t.Fatalf("%d, %v", status, err)
		}
	}
	if got := d.clicks(); len(got) != 1 || !strings.Contains(got[0].By, "U2") || got[0].Refused != "" {
		t.Errorf("%+v, want that of the approver", got)
	}
}

// TestInteractKnowsWhatWasShown: an approval is of the decision that its button showed.
func TestInteractKnowsWhatWasShown(t *testing.T) {
	d := newDesk(t)
	if status, err := d.slack.Send(t.Context(), body(pressOf(cases.ActionApprove, caseID+"/7")), time.Now()); err != nil || status != http.StatusOK {
		t.Fatalf("%d, %v", status, err)
	}
	if got := d.clicks(); len(got) != 1 || got[0].Decision == nil || *got[0].Decision != 7 {
		t.Errorf("clicks %+v, want one of decision 7", got)
	}
}

func TestInteractNeedsASecret(t *testing.T) {
	d := newDesk(t)
	d.signingSecret = ""
	if status, err := d.slack.Send(t.Context(), body(pressOf("approve", caseID)), time.Now()); err != nil || status != http.StatusServiceUnavailable {
		t.Errorf("%d, %v", status, err)
	}
}

func TestClickOnALinkIsAcceptedAndIgnored(t *testing.T) {
	payload := `{"type":"block_actions","user":{"id":"U1"},"actions":[{"type":"button","action_id":"link-0","block_id":"buttons","action_ts":"1.2"}]}`
	pressed, err := interaction([]byte(url.Values{"payload": {payload}}.Encode()))
	if err != nil || len(pressed) != 0 {
		t.Errorf("%+v, %v; want neither a click nor an error", pressed, err)
	}
}
