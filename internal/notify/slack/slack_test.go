package slack

import (
	"bytes"
	"encoding/json"
	"flag"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/slack-go/slack"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/cases/casetext"
	fakeslack "github.com/contraband-dev/contraband/internal/fake/slack"
	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/internal/retry"
	"github.com/contraband-dev/contraband/internal/testenv/samplecases"
)

var update = flag.Bool("update", false, "rewrite the golden files")

func start(t *testing.T) (*Channel, *fakeslack.Server) {
	t.Helper()
	srv, err := fakeslack.Open(filepath.Join(t.TempDir(), "slack.db"))
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
	return &Channel{API: slack.New("xoxb-test", slack.OptionAPIURL(web.URL+"/api/")), Channel: fakeslack.Channel,
		Link: func(id string) string { return "http://casebook/cases/" + id }}, srv
}

func aCase() cases.Case {
	return cases.Case{ID: "0123456789abcdef", Opened: time.Now(), Decided: cases.Decided{
		Finding: finding.Finding{Category: finding.AddedBinary, Project: "shop", Node: "n1", EventTime: time.Now(),
			Process: finding.Process{Path: "/tmp/x", SHA256: strings.Repeat("a", 64)}, Container: finding.Container{ID: "c1", Name: "web", Image: "img"}},
		Verdict:  cases.Verdict{Level: cases.Malicious, Label: "41/71 engines, miner.xmrig", Source: "VirusTotal"},
		Decision: cases.Decision{Rule: "known malware", Do: []string{cases.Escalate, cases.Page, cases.Freeze}},
		Facts:    cases.Facts{Contacts: []string{"owner@example.com"}},
	}}
}

func TestPostThenFindThenEdit(t *testing.T) {
	s, srv := start(t)
	c := aCase()
	p, err := s.Post(t.Context(), c, false)
	if err != nil || p.Timestamp == "" || p.Digest != s.Digest(c) {
		t.Fatalf("%+v, %v", p, err)
	}
	other := aCase()
	other.ID = "fedcba9876543210"
	if _, err := s.Post(t.Context(), other, true); err != nil {
		t.Fatal(err)
	}
	again, err := s.Post(t.Context(), c, true) // the answer to the first was lost
	if err != nil || again.Timestamp != p.Timestamp {
		t.Errorf("posted again: %+v, want the one at %s (%v)", again, p.Timestamp, err)
	}
	c.Paged = &p
	c.Escalated = &cases.Escalated{Finding: "f"}
	if s.Digest(c) == p.Digest {
		t.Error("a change does not show in the digest: the page would not be edited")
	}
	if _, err := s.Edit(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	messages, err := srv.Messages()
	if err != nil || len(messages) != 2 || messages[0].Edits != 1 || !strings.Contains(string(messages[0].Blocks), "escalated in Security Command Center") {
		t.Errorf("messages %+v (%v)", messages, err)
	}
	for _, want := range []string{"malicious: 41/71 engines, miner.xmrig (VirusTotal)", "freeze is planned", "/tmp/x", "http://casebook/cases/0123456789abcdef", "n1"} {
		if !strings.Contains(string(messages[0].Blocks), want) {
			t.Errorf("the page does not show %q: %s", want, messages[0].Blocks)
		}
	}
}

// TestBlocksOfEachStateAreGolden also holds them to Slack's limits, which the fake
// server enforces, and compares the buttons with the actions that every rendering has.
func TestBlocksOfEachStateAreGolden(t *testing.T) {
	s, srv := start(t)
	s.Buttons = true
	for _, state := range samplecases.States() {
		t.Run(state.Name, func(t *testing.T) {
			if _, err := s.Post(t.Context(), state.Case, false); err != nil {
				t.Fatal(err)
			}
			messages, err := srv.Messages()
			if err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			if err := json.Indent(&got, messages[len(messages)-1].Blocks, "", "  "); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("testdata", state.Name+".json")
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
				t.Errorf("blocks differ from %s (go test -update rewrites it):\n%s", file, got.String())
			}
			for _, a := range casetext.Actions(state.Case) {
				if !strings.Contains(got.String(), `"action_id": "`+a.ID+`"`) {
					t.Errorf("action %q is not offered", a.ID)
				}
			}
		})
	}
}

// TestHostileText: nothing from a finding can mention, link, or overflow.
func TestHostileText(t *testing.T) {
	s, srv := start(t)
	c := aCase()
	evil := "<!channel> <https://evil.example|click> @here *bold* `code` \u202egnp.exe\x00\x1b[31m &amp; " + strings.Repeat("x", 5000)
	c.Decided.Finding.Process.Path = evil
	c.Decided.Finding.Container.Name = evil
	c.Decided.Finding.Container.Image = evil
	c.Decided.Verdict.Label = evil
	c.Decided.Facts.Contacts = []string{evil}
	if _, err := s.Post(t.Context(), c, false); err != nil { // the stand-in enforces Slack's limits
		t.Fatal(err)
	}
	messages, err := srv.Messages()
	if err != nil || len(messages) != 1 {
		t.Fatalf("%d messages, %v", len(messages), err)
	}
	var blocks any
	if err := json.Unmarshal(messages[0].Blocks, &blocks); err != nil {
		t.Fatal(err)
	}
	text, _ := json.Marshal(blocks)
	all := messages[0].Text + string(text)
	for _, bad := range []string{"<!channel>", "<https://evil", "\u003c!channel", "@here", "\u202e", "\x1b", "*bold*", "`code`"} {
		if strings.Contains(all, bad) {
			t.Errorf("the page holds %q", bad)
		}
	}
	if !utf8.ValidString(all) {
		t.Error("the page is not valid UTF-8")
	}
}

func TestSlackErrorsArePermanentOrNot(t *testing.T) {
	s, srv := start(t)
	s.Channel = "C0ELSEWHERE"
	if _, err := s.Post(t.Context(), aCase(), false); !retry.IsRefused(err) {
		t.Errorf("a channel that does not exist: %v, want permanent", err)
	}
	s.Channel = fakeslack.Channel
	srv.Fault = func(string, bool) int { return 429 }
	if _, err := s.Post(t.Context(), aCase(), false); err == nil || retry.IsRefused(err) {
		t.Errorf("rate limited: %v, want transient", err)
	}
	srv.Fault = func(string, bool) int { return 500 }
	if _, err := s.Post(t.Context(), aCase(), false); err == nil || retry.IsRefused(err) {
		t.Errorf("HTTP 500: %v, want transient", err)
	}
}
