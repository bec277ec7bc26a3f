package functions_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"cloud.google.com/go/pubsub/v2/pstest"
	cloudevents "github.com/cloudevents/sdk-go/v2"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/contraband-dev/contraband/functions/advance"
	"github.com/contraband-dev/contraband/functions/contain"
	"github.com/contraband-dev/contraband/functions/interact"
	"github.com/contraband-dev/contraband/functions/raise"
	respondfunc "github.com/contraband-dev/contraband/functions/respond"
	"github.com/contraband-dev/contraband/functions/sweep"
	"github.com/contraband-dev/contraband/internal/deadletter"
	fakescc "github.com/contraband-dev/contraband/internal/fake/scc"
	fakeslack "github.com/contraband-dev/contraband/internal/fake/slack"
	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/internal/funcserver"
	"github.com/contraband-dev/contraband/internal/funcserver/casefunc"
	"github.com/contraband-dev/contraband/internal/respond"
	"github.com/contraband-dev/contraband/internal/sensorapi"
)

const (
	source = "organizations/1/sources/1/locations/global"
	topic  = "projects/p/topics/detections-prod"
)

// pipeline is the functions of one deployment.
type pipeline struct{ *respondfunc.Suite }

const signingSecret = "the app's secret"

func (p *pipeline) Raise(ctx context.Context, e cloudevents.Event) error {
	return p.Findings.Raise(ctx, e)
}

func (p *pipeline) Advance(w http.ResponseWriter, r *http.Request) {
	advance.Function{Suite: p.Suite}.Advance(w, r)
}

func (p *pipeline) Sweep(w http.ResponseWriter, r *http.Request) {
	sweep.Function{Base: p.Base}.Sweep(w, r)
}

func (p *pipeline) Interact(w http.ResponseWriter, r *http.Request) {
	interact.On(p.Base, signingSecret).Interact(w, r)
}

// start opens the functions on a Pub/Sub server of their own.
func start(t *testing.T, scc *fakescc.Server) (*pipeline, *pstest.Server, map[string][]respond.Result) {
	t.Helper()
	srv := pstest.NewServer()
	plain := option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials()))
	options := []option.ClientOption{option.WithEndpoint(srv.Addr), option.WithoutAuthentication(), plain}
	client, err := pubsub.NewClient(t.Context(), "p", options...)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"findings", "dead-letters"} {
		if _, err := client.TopicAdminClient.CreateTopic(t.Context(), &pubsubpb.Topic{Name: "projects/p/topics/" + name}); err != nil {
			t.Fatal(err)
		}
	}
	cfg := respondfunc.Config{SlackToken: "x", SlackChannel: fakeslack.Channel, Cases: casefunc.Config{Store: "mem://"},
		Raise: raise.Config{Project: "p", FindingsTopic: "findings", DeadLetterTopic: "dead-letters", Clusters: map[string]string{topic: "shop/europe-west1/prod"}}}
	outcomes := map[string][]respond.Result{}
	parts := respondfunc.Parts{Cases: casefunc.Parts{HTTP: http.DefaultClient}, Raise: raise.Parts{PubSub: options}, SlackAPI: startSlack(t), Observe: func(id string, o []respond.Result) { outcomes[id] = o }}
	if scc != nil {
		cfg.Raise.SCCSource = source
		parts.Raise.SCC = []option.ClientOption{option.WithEndpoint(scc.Addr), option.WithoutAuthentication(), plain}
	}
	s, err := respondfunc.New(t.Context(), cfg, parts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(s.Close(), client.Close(), srv.Close()); err != nil {
			t.Error(err)
		}
	})
	return &pipeline{s}, srv, outcomes
}

// startSlack returns the address of a Slack server's API.
func startSlack(t *testing.T) string {
	t.Helper()
	s, err := fakeslack.Open(filepath.Join(t.TempDir(), "slack.db"))
	if err != nil {
		t.Fatal(err)
	}
	s.Token = "x"
	web := httptest.NewServer(s.Handler())
	t.Cleanup(func() {
		web.Close()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return web.URL + "/api/"
}

func event(t *testing.T, from string, data []byte) cloudevents.Event {
	t.Helper()
	e := cloudevents.NewEvent()
	e.SetID("7")
	e.SetType("google.cloud.pubsub.topic.v1.messagePublished")
	e.SetSource("//pubsub.googleapis.com/" + from)
	if err := e.SetData("application/json", map[string]any{"message": map[string]any{"data": data, "messageId": "7"}}); err != nil {
		t.Fatal(err)
	}
	return e
}

func detection(t *testing.T) []byte {
	t.Helper()
	body, err := json.Marshal(sensorapi.Detection{Time: time.Now(), Route: sensorapi.Added, Node: "n1", Process: sensorapi.Process{Path: "/tmp/100% sure"},
		File: sensorapi.File{SHA256: strings.Repeat("a", 64), Size: 1}, Container: sensorapi.Container{ID: "c1"}})
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func startSCC(t *testing.T, fault func(string, bool) error) *fakescc.Server {
	t.Helper()
	s, err := fakescc.Start(fakescc.Config{File: filepath.Join(t.TempDir(), "scc.db"), Source: source, ProjectNumber: "1", Fault: fault,
		Notify: func(context.Context, []byte) error { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// published are the findings on the findings topic.
func published(t *testing.T, srv *pstest.Server) []finding.Finding {
	t.Helper()
	var out []finding.Finding
	for _, m := range srv.Messages() {
		if !strings.HasSuffix(m.Topic, "/findings") {
			continue
		}
		all, err := finding.Decode(m.Data)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, all...)
	}
	return out
}

func TestRaise(t *testing.T) {
	for name, c := range map[string]struct {
		scc   func(t *testing.T) *fakescc.Server
		inSCC int
		fails bool
	}{
		"written and handed on":                               {func(t *testing.T) *fakescc.Server { return startSCC(t, nil) }, 1, false},
		"no source: handed on":                                {func(t *testing.T) *fakescc.Server { return nil }, 0, false},
		"SCC refuses the content: handed on":                  {func(t *testing.T) *fakescc.Server { return startSCC(t, refusing(codes.InvalidArgument)) }, 0, false},
		"a role is missing: handed on, and it comes again":    {func(t *testing.T) *fakescc.Server { return startSCC(t, refusing(codes.PermissionDenied)) }, 0, true},
		"SCC is away: handed on, and it comes again":          {func(t *testing.T) *fakescc.Server { return startSCC(t, refusing(codes.Aborted)) }, 0, true},
		"SCC's answer is lost: handed on, and it comes again": {func(t *testing.T) *fakescc.Server { return startSCC(t, losing) }, 1, true},
	} {
		t.Run(name, func(t *testing.T) {
			scc := c.scc(t)
			s, srv, _ := start(t, scc)
			err := s.Raise(t.Context(), event(t, topic, detection(t)))
			if c.fails != (err != nil) {
				t.Fatalf("error %v", err)
			}
			if scc != nil {
				if all, err := scc.Findings(); err != nil || len(all) != c.inSCC {
					t.Errorf("%d findings in SCC, want %d (%v)", len(all), c.inSCC, err)
				}
			}
			got := published(t, srv)
			if len(got) != 1 || got[0].Project != "shop" || got[0].Cluster != "prod" || got[0].CanonicalName == "" || got[0].Category != finding.AddedBinary {
				t.Errorf("handed on: %+v", got)
			}
		})
	}
}

func TestRaisePassesThePriorityOn(t *testing.T) {
	for _, given := range []string{"first", "later", "", "urgent"} {
		s, srv, _ := start(t, nil)
		e := event(t, topic, nil)
		message := map[string]any{"data": detection(t), "messageId": "7", "attributes": map[string]string{"priority": given}}
		if err := e.SetData("application/json", map[string]any{"message": message}); err != nil {
			t.Fatal(err)
		}
		if err := s.Raise(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		want := "later"
		if given == "first" {
			want = "first"
		}
		for _, m := range srv.Messages() {
			if got := m.Attributes["priority"]; got != want {
				t.Errorf("priority %q of a detection became %q, want %q", given, got, want)
			}
		}
	}
}

func refusing(code codes.Code) func(string, bool) error {
	return func(_ string, applied bool) error {
		if applied {
			return nil
		}
		return status.Error(code, "no")
	}
}

func losing(_ string, applied bool) error {
	if applied {
		return status.Error(codes.Aborted, "connection lost")
	}
	return nil
}

func TestWhatCanNeverBeReadIsParked(t *testing.T) {
	s, srv, outcomes := start(t, nil)
	for name, call := range map[string]func() error{
		"a detection": func() error { return s.Raise(t.Context(), event(t, topic, []byte(`{"route": "x"}`))) },
		"a finding":   func() error { return s.Respond(t.Context(), event(t, "projects/p/topics/findings", []byte(`{`))) },
	} {
		before := len(srv.Messages())
		if err := call(); err != nil {
			t.Errorf("%s: %v, want it acknowledged", name, err)
		}
		all := srv.Messages()
		if len(all) != before+1 || !strings.HasSuffix(all[before].Topic, "/dead-letters") {
			t.Fatalf("%s: not parked", name)
		}
		m := all[before]
		l := deadletter.Decode(m.ID, m.Data, m.Attributes, m.PublishTime)
		if l.Reason == "" || !strings.HasPrefix(l.Topic, "projects/p/topics/") || time.Since(l.At) > time.Minute || name == "a detection" && l.Cluster == "" {
			t.Errorf("%s: parked as %+v", name, l)
		}
	}
	if o := outcomes["7"]; len(o) != 1 || o[0].DeadLettered == "" {
		t.Errorf("outcome %+v", o)
	}
}

// TestErrorsAreNoFormats: the framework prints an error's text as a format.
func TestErrorsAreNoFormats(t *testing.T) {
	s, _, _ := start(t, nil)
	err := s.Raise(t.Context(), event(t, "projects/p/topics/another", detection(t)))
	if err == nil || !strings.Contains(err.Error(), "CONTRABAND_CLUSTERS") {
		t.Errorf("a topic that is not configured: %v", err)
	}
	if got := funcserver.Safe(errors.New("100% sure")).Error(); got != "100%% sure" {
		t.Errorf("safe: %q", got)
	}
}

func TestRequestsAreHeldToTheirForm(t *testing.T) {
	s, _, _ := start(t, nil)
	a, err := contain.New(t.Context(), contain.Config{Cases: casefunc.Config{Store: "mem://"}}, contain.Parts{})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	for _, c := range []struct {
		name, method, body string
		f                  http.HandlerFunc
		want               int
	}{
		{"GET", http.MethodGet, `{}`, s.Advance, http.StatusMethodNotAllowed},
		{"a decision in the request", http.MethodPost, `{"case": "c", "action": "freeze"}`, s.Advance, http.StatusBadRequest},
		{"no JSON", http.MethodPost, `x`, a.Contain, http.StatusBadRequest},
		{"nothing to contain with", http.MethodPost, `{"case": "c", "event": 0}`, a.Contain, http.StatusUnprocessableEntity},
		{"a case that is not", http.MethodPost, `{"case": "c"}`, s.Advance, http.StatusOK},
	} {
		w := httptest.NewRecorder()
		c.f(w, httptest.NewRequest(c.method, "/", strings.NewReader(c.body)))
		if w.Code != c.want {
			t.Errorf("%s: %d %s, want %d", c.name, w.Code, w.Body, c.want)
		}
	}
}

func TestConfiguration(t *testing.T) {
	if _, err := respondfunc.New(t.Context(), respondfunc.Config{Cases: casefunc.Config{Store: "mem://"}, Raise: raise.Config{Project: "p"}}, respondfunc.Parts{Raise: raise.Parts{PubSub: []option.ClientOption{option.WithoutAuthentication()}}}); err == nil || !strings.Contains(err.Error(), "SLACK_TOKEN") {
		t.Errorf("without Slack: %v", err)
	}
	t.Setenv("CONTRABAND_STORE", "gs://b")
	t.Setenv("GOOGLE_CLOUD_PROJECT", "p")
	t.Setenv("CONTRABAND_CLUSTERS", "projects/p/topics/a=p/l/one,projects/p/topics/b=p/l/two")
	c, err := funcserver.FromEnvironment[respondfunc.Config](t.Context())
	if err != nil || c.Raise.FindingsTopic != "findings" || c.Cases.Store != "gs://b" || c.Raise.Clusters["projects/p/topics/b"] != "p/l/two" {
		t.Fatalf("%+v, %v", c, err)
	}
}

// TestNotificationsAreKeptOnlyIfAsked: as they came, once each.
func TestNotificationsAreKeptOnlyIfAsked(t *testing.T) {
	s, _, _ := start(t, nil)
	raw := []byte(`{"asset": {"secret": "hunter2"}}`)
	kept := func() []string {
		t.Helper()
		if err := s.Respond(t.Context(), event(t, "projects/p/topics/findings", raw)); err != nil {
			t.Fatal(err)
		}
		keys, err := s.Base.Parts.Store.List(t.Context(), "notifications/")
		if err != nil {
			t.Fatal(err)
		}
		return keys
	}
	if keys := kept(); len(keys) != 0 {
		t.Errorf("kept without being asked: %q", keys)
	}
	s.Config.KeepNotifications = true
	kept()
	keys := kept()
	if len(keys) != 1 {
		t.Fatalf("kept %q, want one", keys)
	}
	if body, err := s.Base.Parts.Store.Read(t.Context(), keys[0]); err != nil || string(body) != string(raw) {
		t.Errorf("%q, %v", body, err)
	}
}

// TestRespondTakesEveryRecordedShape: whatever people have at hand, a pulled array, an
// envelope, log entries, is taken as the findings that are in it.
func TestRespondTakesEveryRecordedShape(t *testing.T) {
	inputs, err := filepath.Glob("../internal/finding/testdata/*.json")
	if err != nil || len(inputs) < 20 {
		t.Fatalf("%d inputs, %v", len(inputs), err)
	}
	s, srv, outcomes := start(t, nil)
	for _, input := range inputs {
		body, err := os.ReadFile(input)
		if err != nil {
			t.Fatal(err)
		}
		found, err := finding.Decode(body)
		if err != nil {
			t.Fatal(err)
		}
		delete(outcomes, "7")
		if err := s.Respond(t.Context(), event(t, "projects/p/topics/findings", body)); err != nil {
			t.Errorf("%s: %v", input, err)
		}
		results := outcomes["7"]
		if len(results) != len(found) || len(found) == 0 {
			t.Errorf("%s: %d results of %d findings", input, len(results), len(found))
		}
		for i, r := range results {
			if closed := found[i].Closed() || found[i].Muted(); r.Case == "" && !closed || r.DeadLettered != "" {
				t.Errorf("%s: %+v", input, r)
			}
		}
	}
	if parked := len(srv.Messages()); parked != 0 {
		t.Errorf("%d messages were parked", parked)
	}
}
