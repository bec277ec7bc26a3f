package slack

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/slack-go/slack"

	"github.com/contraband-dev/contraband/internal/blobstore"
	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/cases/casetext"
	fakeslack "github.com/contraband-dev/contraband/internal/fake/slack"
	"github.com/contraband-dev/contraband/internal/notify"
	"github.com/contraband-dev/contraband/internal/retry"
	"github.com/contraband-dev/contraband/internal/testenv/samplecases"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func start(t *testing.T) (*Workspace, *fakeslack.Server) {
	t.Helper()
	srv, err := fakeslack.OpenTemporary(filepath.Join(t.TempDir(), "slack.db"))
	if err != nil {
		t.Fatal(err)
	}
	srv.Token = "xoxb-test"
	web := httptest.NewServer(srv.Handler())
	t.Cleanup(func() {
		web.Close()
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
	})
	return &Workspace{API: slack.New("xoxb-test", slack.OptionAPIURL(web.URL+"/api/")), Buttons: true}, srv
}

func message(c cases.Case) notify.Message {
	return casetext.Message(c, func(id string) string { return "http://casebook.example/cases/" + id })
}

func sample(name string) cases.Case {
	i := slices.IndexFunc(samplecases.States(), func(s samplecases.State) bool { return s.Name == name })
	return samplecases.States()[i].Case
}

func messages(t *testing.T, srv *fakeslack.Server) []fakeslack.Message {
	t.Helper()
	all, err := srv.Messages()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// The fake server enforces Slack's limits on each of them.
func TestBlocksOfEachStateAreGolden(t *testing.T) {
	for _, state := range samplecases.States() {
		t.Run(state.Name, func(t *testing.T) {
			w, srv := start(t)
			ch, m := w.Channel(fakeslack.Channel), message(state.Case)
			ref, err := ch.Post(t.Context(), m, false)
			if err != nil {
				t.Fatal(err)
			}
			for _, u := range m.Updates {
				if err := ch.Thread(t.Context(), ref, m, u); err != nil {
					t.Errorf("thread line %q: %v", u.Key, err)
				}
			}
			thread, err := srv.Thread(ref.ID)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, filepath.Join("testdata", state.Name+".json"), messages(t, srv)[0], thread)
			for _, a := range casetext.Actions(state.Case) {
				if !strings.Contains(string(messages(t, srv)[0].Blocks), `"action_id":"`+a.ID+`"`) {
					t.Errorf("action %q is not offered", a.ID)
				}
			}
		})
	}
}

func golden(t *testing.T, file string, parent fakeslack.Message, thread []fakeslack.Message) {
	t.Helper()
	type shown struct {
		Text   string          `json:"text"`
		Blocks json.RawMessage `json:"blocks"`
	}
	all := []shown{{parent.Text, parent.Blocks}}
	for _, m := range thread {
		all = append(all, shown{m.Text, m.Blocks})
	}
	var got bytes.Buffer
	e := json.NewEncoder(&got)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(all); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(file, got.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got.String() != string(want) {
		t.Errorf("message differs from %s (go test -update rewrites it):\n%s", file, got.String())
	}
}

func TestPostWhoseAnswerWasLostIsFoundAgain(t *testing.T) {
	w, srv := start(t)
	ch, m := w.Channel(fakeslack.Channel), message(sample("paged"))
	lost := true
	srv.Fault = func(method string, applied bool) int {
		if method == "chat.postMessage" && applied && lost {
			lost = false
			return 500
		}
		return 0
	}
	if _, err := ch.Post(t.Context(), m, false); err == nil || retry.ClassOf(err) != retry.Transient {
		t.Fatalf("the lost answer: %v, want a transient error", err)
	}
	other := m
	other.Key = "fedcba9876543210"
	if _, err := ch.Post(t.Context(), other, true); err != nil {
		t.Fatal(err)
	}
	ref, err := ch.Post(t.Context(), m, true)
	if all := messages(t, srv); err != nil || len(all) != 2 || ref.ID != all[0].Timestamp || !ref.Found {
		t.Errorf("%d messages, reference %+v, %v; want the first of two", len(all), ref, err)
	}
}

func TestSearchFollowsCursors(t *testing.T) {
	w, srv := start(t)
	ch, first := w.Channel(fakeslack.Channel), message(sample("paged"))
	ref, err := ch.Post(t.Context(), first, false)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 1005 {
		if _, _, err := w.API.PostMessage(fakeslack.Channel, slack.MsgOptionText(fmt.Sprint("chatter ", i), false)); err != nil {
			t.Fatal(err)
		}
	}
	again, err := ch.Post(t.Context(), first, true)
	if err != nil || again.ID != ref.ID || srv.Calls("conversations.history") != 2 {
		t.Errorf("found %+v after %d pages, want %s after 2 (%v)", again, srv.Calls("conversations.history"), ref.ID, err)
	}
}

func TestManySearchesShareOneReading(t *testing.T) {
	w, srv := start(t)
	ch := w.Channel(fakeslack.Channel)
	var wg sync.WaitGroup
	for i := range 150 {
		wg.Go(func() {
			m := message(sample("paged"))
			m.Key = fmt.Sprintf("case-%d", i)
			if _, err := ch.Post(t.Context(), m, true); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := srv.Calls("conversations.history"); n > 5 || len(messages(t, srv)) != 150 {
		t.Errorf("%d readings of the history for 150 posts and %d messages, want at most 5", n, len(messages(t, srv)))
	}
}

func TestRateLimitIsWaitedOutWithoutSearching(t *testing.T) {
	for _, hidden := range []bool{false, true} {
		w, srv := start(t)
		srv.PostInterval, srv.HideRetryAfter = time.Second, hidden
		ch := w.Channel(fakeslack.Channel)
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				m := message(sample("paged"))
				m.Key = fmt.Sprintf("case-%d", i)
				if _, err := ch.Post(t.Context(), m, false); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if all := messages(t, srv); len(all) != 4 || srv.Calls("conversations.history") != 0 {
			t.Errorf("Retry-After hidden %v: %d messages, %d searches", hidden, len(all), srv.Calls("conversations.history"))
		}
	}
}

func TestRateLimitBeyondTheDeadlineIsTransient(t *testing.T) {
	w, srv := start(t)
	srv.Fault = func(string, bool) int { return 429 }
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err := w.Channel(fakeslack.Channel).Post(ctx, message(sample("paged")), false)
	if err == nil || retry.ClassOf(err) != retry.Transient || time.Since(began) > time.Second {
		t.Errorf("after %s: %v, want a transient error at once", time.Since(began), err)
	}
}

func TestEachDocumentedErrorHasItsClass(t *testing.T) {
	w, srv := start(t)
	ch, m := w.Channel(fakeslack.Channel), message(sample("paged"))
	words := map[string]retry.Class{"a_word_of_next_year": retry.MisconfiguredClass}
	for word, class := range errorClass {
		if class == retry.RefusedClass {
			class = retry.MisconfiguredClass // also refused in the smallest form: the cause is not the content
		}
		words[word] = class
	}
	for word, class := range words {
		srv.Answer = func(method string, _ url.Values) string {
			if method == "chat.postMessage" {
				return word
			}
			return ""
		}
		if _, err := ch.Post(t.Context(), m, false); err == nil || retry.ClassOf(err) != class {
			t.Errorf("%s: class %s, want %s (%v)", word, retry.ClassOf(err), class, err)
		}
	}
	if len(errorClass) < 34 {
		t.Errorf("the table has %d errors", len(errorClass))
	}
}

func TestRefusedContentIsSentInTheSmallestForm(t *testing.T) {
	w, srv := start(t)
	srv.Answer = func(method string, form url.Values) string {
		if method == "chat.postMessage" && form.Get("blocks") != "" && form.Get("blocks") != "[]" {
			return "invalid_blocks"
		}
		return ""
	}
	if _, err := w.Channel(fakeslack.Channel).Post(t.Context(), message(sample("frozen")), false); err != nil {
		t.Fatal(err)
	}
	text := messages(t, srv)[0].Text
	if !strings.Contains(text, "[critical] Malicious program ran in payments/web") || !strings.Contains(text, "http://casebook.example/cases/") {
		t.Errorf("the smallest form is %q", text)
	}
}

func TestMessageThatCannotBeEditedIsPostedAnew(t *testing.T) {
	for word := range gone {
		w, srv := start(t)
		ch, m := w.Channel(fakeslack.Channel), message(sample("paged"))
		ref, err := ch.Post(t.Context(), m, false)
		if err != nil {
			t.Fatal(err)
		}
		srv.Answer = func(method string, _ url.Values) string {
			if method == "chat.update" {
				return word
			}
			return ""
		}
		anew, err := ch.Update(t.Context(), ref, m)
		if err != nil || anew.ID == ref.ID || len(messages(t, srv)) != 2 {
			t.Errorf("%s: %+v, %d messages, %v", word, anew, len(messages(t, srv)), err)
		}
	}
}

func TestDeletedMessageIsPostedAnew(t *testing.T) {
	w, srv := start(t)
	ch, m := w.Channel(fakeslack.Channel), message(sample("paged"))
	ref, err := ch.Post(t.Context(), m, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := srv.Delete(ref.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := ch.Update(t.Context(), ref, m); err != nil || len(messages(t, srv)) != 1 {
		t.Errorf("%d messages, %v", len(messages(t, srv)), err)
	}
}

func TestEditsOfOneMessageKeepTheirDistance(t *testing.T) {
	w, _ := start(t)
	w.EditInterval = 200 * time.Millisecond
	ch, m := w.Channel(fakeslack.Channel), message(sample("paged"))
	ref, err := ch.Post(t.Context(), m, false)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for range 3 {
		if _, err := ch.Update(t.Context(), ref, m); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(began); took < 400*time.Millisecond {
		t.Errorf("three edits took %s, want at least two intervals", took)
	}
}

func TestPersonIsFoundByEmailOnceAndNotified(t *testing.T) {
	w, srv := start(t)
	srv.AddPerson("U0ANN", "ann@example.com")
	for range 2 {
		m := message(sample("paged"))
		m.Mention = "ann@example.com"
		if _, err := w.Channel("ann@example.com").Post(t.Context(), m, false); err != nil {
			t.Fatal(err)
		}
	}
	all, err := srv.MessagesIn("D0ANN")
	if err != nil || len(all) != 2 || !strings.Contains(string(all[0].Blocks), `\u003c@U0ANN\u003e`) && !strings.Contains(string(all[0].Blocks), "<@U0ANN>") {
		t.Errorf("%d direct messages: %v", len(all), err)
	}
	if n := srv.Calls("users.lookupByEmail"); n != 1 {
		t.Errorf("%d look-ups, want 1", n)
	}
	if _, err := w.Channel("gone@example.com").Post(t.Context(), message(sample("paged")), false); retry.ClassOf(err) != retry.MisconfiguredClass {
		t.Errorf("a deleted user: %v, want misconfigured", err)
	}
}

// TestPeopleAreSharedBetweenInstances: what one has looked up no other asks Slack about;
// an ID that is none, and a store that fails, are as if nothing was stored.
func TestPeopleAreSharedBetweenInstances(t *testing.T) {
	w, srv := start(t)
	srv.AddPerson("U0ANN", "ann@example.com")
	store, err := blobstore.Open(t.Context(), "mem://")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	find := func(in blobstore.Store, email string, calls int) {
		t.Helper()
		instance := &Workspace{API: w.API, Store: in}
		if got := instance.mention(t.Context(), email); got != "<@U0ANN>" {
			t.Errorf("%s is %q", email, got)
		}
		if n := srv.Calls("users.lookupByEmail"); n != calls {
			t.Errorf("%d look-ups, want %d", n, calls)
		}
	}
	find(store, "ann@example.com", 1)
	find(store, "Ann@example.com", 1)
	find(refusing{store}, "ann@example.com", 2)
	forged, err := blobstore.Open(t.Context(), "mem://")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { forged.Close() })
	if err := forged.Create(t.Context(), personKey("ann@example.com", time.Now()), []byte("!channel")); err != nil {
		t.Fatal(err)
	}
	find(forged, "ann@example.com", 3)
}

// refusing is a store that may not be read or written.
type refusing struct{ blobstore.Store }

func (refusing) Read(context.Context, string) ([]byte, error) { return nil, errors.New("403") }
func (refusing) Create(context.Context, string, []byte) error { return errors.New("403") }

func TestUserGroupIsMentioned(t *testing.T) {
	w, srv := start(t)
	srv.AddGroup("S0ONCALL", "payments-oncall")
	m := message(sample("paged"))
	m.Mention = "@payments-oncall"
	if _, err := w.Channel(fakeslack.Channel).Post(t.Context(), m, false); err != nil {
		t.Fatal(err)
	}
	if text := messages(t, srv)[0].Text; !strings.Contains(text, "<!subteam^S0ONCALL>") {
		t.Errorf("the text is %q", text)
	}
}

func TestMissingScopeForAMentionDoesNotHoldUpThePage(t *testing.T) {
	w, srv := start(t)
	srv.Scopes = []string{"chat:write"}
	m := message(sample("paged"))
	m.Mention = "@payments-oncall"
	if _, err := w.Channel(fakeslack.Channel).Post(t.Context(), m, true); err != nil { // nor does one for the history
		t.Fatal(err)
	}
	if text := messages(t, srv)[0].Text; !strings.Contains(text, "@payments-oncall") {
		t.Errorf("the text is %q", text)
	}
}

func TestBroadcastUpdateIsSentOnce(t *testing.T) {
	w, srv := start(t)
	ch, m := w.Channel(fakeslack.Channel), message(sample("waiting"))
	ref, err := ch.Post(t.Context(), m, false)
	if err != nil {
		t.Fatal(err)
	}
	u := casetext.Reminder(sample("waiting"), samplecases.At.Add(time.Hour))
	for range 2 {
		if err := ch.Thread(t.Context(), ref, m, u); err != nil {
			t.Fatal(err)
		}
	}
	all := messages(t, srv)
	if len(all) != 2 || !strings.Contains(all[1].Text, "<!channel> Approval pending for 1h0m0s") || all[1].Thread != ref.ID {
		t.Errorf("%d messages: %+v", len(all), all)
	}
}

var codeSpan = regexp.MustCompile("`[^`\n]*`")

func TestHostileTextIsInert(t *testing.T) {
	evil := "<!channel> <https://evil.example|click> @here *bold* `code` _it_ ~no~ :skull: #general \u202egnp.exe\x00\x1b[31m &amp; " + strings.Repeat("x", 5000)
	w, srv := start(t)
	c := sample("frozen")
	c.Decided.Finding.Process.Path, c.Decided.Finding.Container.Name, c.Decided.Finding.Container.Image = evil, evil, evil
	c.Decided.Finding.Cluster, c.Decided.Finding.Category, c.Decided.Finding.Node = evil, evil, evil
	c.Decided.Finding.Process.Args, c.Decided.Finding.Sensor.Ancestors = []string{evil, evil}, []string{evil}
	c.Decided.Finding.ExternalURI = "javascript:alert(1)"
	c.Decided.Verdict.Label, c.Decided.Decision.Rule, c.Decided.Facts.Contacts = evil, evil, []string{evil}
	c.Decided.Facts.Commands = []cases.Fact{{Title: evil, Text: evil, Link: "https://evil.example/|x>"}}
	c.Decided.Facts.Missing = []string{evil}
	c.Clicks = []cases.Click{{ID: "x", By: evil, What: evil}}
	ch, m := w.Channel(fakeslack.Channel), message(c)
	ref, err := ch.Post(t.Context(), m, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range m.Updates {
		if err := ch.Thread(t.Context(), ref, m, u); err != nil {
			t.Fatal(err)
		}
	}
	thread, err := srv.Thread(ref.ID)
	if err != nil {
		t.Fatal(err)
	}
	for _, sent := range append(thread, messages(t, srv)...) {
		checkInert(t, sent)
	}
}

// checkInert checks what was sent as Slack reads it: markup outside code spans, and
// everywhere the characters that mention, link or reverse.
func checkInert(t *testing.T, m fakeslack.Message) {
	t.Helper()
	var texts []string
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if v["type"] == "mrkdwn" && v["verbatim"] != true {
				t.Errorf("a markdown object is not verbatim: %v", v)
			}
			if s, ok := v["text"].(string); ok && v["type"] == "mrkdwn" {
				texts = append(texts, s)
			}
			for _, child := range v {
				walk(child)
			}
		case []any:
			for _, child := range v {
				walk(child)
			}
		}
	}
	var blocks any
	if err := json.Unmarshal(m.Blocks, &blocks); err != nil {
		t.Fatal(err)
	}
	walk(blocks)
	for _, text := range append(texts, m.Text) {
		for _, bad := range []string{"<!channel>", "<https://evil.example|click>", "@here", "\u202e", "\x1b", "\x00"} {
			if strings.Contains(text, bad) {
				t.Errorf("sent %q in %.200q", bad, text)
			}
		}
		outside := codeSpan.ReplaceAllString(text, "")
		for _, bad := range []string{"*bold*", "`", "_it_", "~no~", ":skull:"} {
			if strings.Contains(outside, bad) {
				t.Errorf("sent %q outside code in %.200q", bad, outside)
			}
		}
		if !utf8.ValidString(text) {
			t.Errorf("not valid UTF-8: %.100q", text)
		}
	}
}

func FuzzEscapeIsInert(f *testing.F) {
	f.Add("<!channel> *b* :x: &lt;")
	f.Fuzz(func(t *testing.T, s string) {
		for _, out := range []string{escape(s), code(s)} {
			if strings.ContainsAny(strings.Trim(out, "`"), "<>`\n\x00\u202e") {
				t.Errorf("%q becomes %q", s, out)
			}
		}
	})
}

func TestCanceledContextEndsAWait(t *testing.T) {
	w, srv := start(t)
	srv.PostInterval = time.Minute
	ch := w.Channel(fakeslack.Channel)
	if _, err := ch.Post(t.Context(), message(sample("paged")), false); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	m := message(sample("paged"))
	m.Key = "another"
	if _, err := ch.Post(ctx, m, false); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want the cancellation", err)
	}
}

func TestCriticalPageGoesBeforeOthersUnderTheRateLimit(t *testing.T) {
	w, srv := start(t)
	srv.PostInterval = time.Second
	ch := w.Channel(fakeslack.Channel)
	post := func(m notify.Message) {
		if _, err := ch.Post(t.Context(), m, false); err != nil {
			t.Error(err)
		}
	}
	lesser, critical := message(sample("paged")), message(sample("planned"))
	if lesser.Severity >= critical.Severity {
		t.Fatal("the samples do not differ in severity")
	}
	var wg sync.WaitGroup
	for n := range 8 {
		m := lesser
		m.Key = fmt.Sprint("lesser-", n)
		wg.Go(func() { post(m) })
	}
	time.Sleep(1500 * time.Millisecond) // the channel's rate is limited by then
	began := time.Now()
	critical.Key = "critical"
	post(critical)
	if took := time.Since(began); took > 2100*time.Millisecond {
		t.Errorf("the critical page waited for %s behind lesser ones", took)
	}
	wg.Wait()
}

// TestWaitingPagesLeaveInTheOrderOfSeverity has pages of random severities wait for a
// channel whose rate is limited: each that leaves is the most severe of those that wait.
func TestWaitingPagesLeaveInTheOrderOfSeverity(t *testing.T) {
	for seed := range uint64(2) {
		w, srv := start(t)
		ch := w.Channel(fakeslack.Channel)
		srv.PostInterval = time.Second
		rnd := rand.New(rand.NewPCG(seed, 7))
		var wg sync.WaitGroup
		for n := range 7 {
			m := message(sample("paged"))
			m.Key, m.Severity = fmt.Sprint(n), notify.Severity(rnd.IntN(4))
			m.Summary = fmt.Sprintf("severity %d", m.Severity)
			wg.Go(func() {
				if _, err := ch.Post(t.Context(), m, false); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		all, err := srv.Messages()
		if err != nil || len(all) != 7 {
			t.Fatalf("%d messages, want 7: %v", len(all), err)
		}
		var order []int
		for _, m := range all[1:] { // the first left before any waited
			_, word, _ := strings.Cut(m.Text, "severity ")
			n, err := strconv.Atoi(word[:1])
			if err != nil {
				t.Fatalf("%q: %v", m.Text, err)
			}
			order = append(order, n)
		}
		if !slices.IsSortedFunc(order, func(a, b int) int { return b - a }) {
			t.Errorf("seed %d: they left in the order %v, want the most severe first", seed, order)
		}
	}
}
