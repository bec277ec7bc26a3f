// Package functions owns the entry points that functions-framework-go serves,
// their configuration and their wiring. It holds no logic: what a function does
// is in the room that it calls.
//
//	Raise     Pub/Sub detections -> SCC finding, and the same finding on the findings topic
//	Respond   Pub/Sub findings   -> a case, as far as it goes now
//	Advance   HTTP {case}        -> every step that the case is due
//	Contain   HTTP {case, event} -> what that recorded claim allows
//	Casebook  HTTP               -> the pages that people read
//	Sweep     HTTP               -> cases whose time has come
package functions

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"cloud.google.com/go/pubsub/v2"
	executions "cloud.google.com/go/workflows/executions/apiv1"
	"github.com/google/uuid"
	"github.com/slack-go/slack"
	"google.golang.org/api/idtoken"
	"google.golang.org/api/option"

	"github.com/contraband-dev/contraband/internal/casebook"
	"github.com/contraband-dev/contraband/internal/casefile"
	"github.com/contraband-dev/contraband/internal/cluster"
	"github.com/contraband-dev/contraband/internal/contain"
	"github.com/contraband-dev/contraband/internal/docket"
	"github.com/contraband-dev/contraband/internal/enrich"
	"github.com/contraband-dev/contraband/internal/escalate"
	"github.com/contraband-dev/contraband/internal/node"
	"github.com/contraband-dev/contraband/internal/page"
	"github.com/contraband-dev/contraband/internal/policy"
	"github.com/contraband-dev/contraband/internal/respond"
	"github.com/contraband-dev/contraband/internal/retry"
	"github.com/contraband-dev/contraband/internal/verdict"
)

// Parts replace what only Google's cloud has, on one machine and in tests.
// The zero value is the cloud.
type Parts struct {
	PubSub, SCC []option.ClientOption
	Executions  []option.ClientOption // of Cloud Workflows
	Callbacks   *http.Client          // calls callbacks; nil: with an access token
	// Reads reaches clusters with Respond's rights, Acts with Contain's.
	Reads, Acts cluster.Finder
	SlackAPI    string       // ends in /api/
	IAP         *http.Client // fetches the keys of Identity-Aware Proxy; nil: the default one
	HTTP        *http.Client // calls the other functions; nil: with an identity token
	Orders      contain.Orders
	Upload      func(ctx context.Context, key string, max int64) (*node.Upload, error)
	Store       casefile.Store // nil: opened from Config.Store
	Incarnation string         // part of the holder's name
	Alive       func(holder string) bool
	Observe     func(messageID string, outcomes []respond.Outcome) // told what became of a notification
}

// Suite is the functions of one deployment.
type Suite struct {
	cfg       Config
	parts     Parts
	log       *casefile.Log
	pubsub    *pubsub.Client
	findings  *pubsub.Publisher
	dead      *pubsub.Publisher
	scc       *escalate.SCC // nil without a source
	responder *respond.Responder
	container *contain.Container
	casebook  http.Handler

	executionsMu sync.Mutex
	executions   *executions.Client // once a workflow was started
}

// New wires what the function that is served needs, or all of them, and refuses what
// is missing.
func New(ctx context.Context, cfg Config, parts Parts) (s *Suite, err error) {
	if parts.Store == nil {
		if parts.Store, err = casefile.Open(ctx, cfg.Store); err != nil {
			return nil, err
		}
	}
	s = &Suite{cfg: cfg, parts: parts}
	s.log = &casefile.Log{Store: parts.Store, Lease: respond.Lease, Alive: parts.Alive}
	for _, open := range []struct {
		users []string
		part  func(context.Context) error
	}{
		{[]string{"Raise", "Respond"}, s.openPubSub},
		{[]string{"Raise", "Respond", "Advance"}, s.openSCC},
		{[]string{"Respond", "Advance"}, s.openResponder},
		{[]string{"Contain"}, s.openContainer},
		{[]string{"Casebook"}, s.openCasebook},
	} {
		if cfg.Target != "" && !slices.Contains(open.users, cfg.Target) {
			continue
		}
		if err := open.part(ctx); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *Suite) openPubSub(ctx context.Context) (err error) {
	if s.pubsub, err = pubsub.NewClient(ctx, s.cfg.Project, s.parts.PubSub...); err != nil {
		return fmt.Errorf("open Pub/Sub: %w", err)
	}
	s.findings, s.dead = s.pubsub.Publisher(s.cfg.FindingsTopic), s.pubsub.Publisher(s.cfg.DeadLetterTopic)
	for _, p := range []*pubsub.Publisher{s.findings, s.dead} {
		p.PublishSettings.DelayThreshold = time.Millisecond // an alert does not wait for company
	}
	return nil
}

func (s *Suite) openSCC(ctx context.Context) (err error) {
	if s.cfg.SCCSource == "" {
		return nil
	}
	if s.scc, err = escalate.Open(ctx, s.cfg.SCCSource, s.parts.SCC...); err == nil {
		s.scc.Scope = s.cfg.SCCScope
	}
	return err
}

func (s *Suite) openResponder(context.Context) error {
	rules, err := policy.Load(s.cfg.Policy)
	if err != nil {
		return err
	}
	s.responder, err = s.newResponder(rules)
	return err
}

func (s *Suite) openContainer(ctx context.Context) error {
	rules, err := policy.Load(s.cfg.Policy)
	if err != nil {
		return err
	}
	if s.parts.Upload == nil {
		if s.parts.Upload, err = casefile.Uploads(ctx, s.cfg.Store); err != nil {
			return err
		}
	}
	s.container = &contain.Container{Log: s.log, Guards: rules.Guards, Clusters: s.parts.Acts, Orders: s.parts.Orders, Upload: s.parts.Upload, Now: time.Now}
	return nil
}

func (s *Suite) openCasebook(ctx context.Context) error {
	visitors, err := s.visitors(ctx)
	if err != nil {
		return err
	}
	s.casebook = casebook.Handler(s.log, visitors, s.afterClick)
	return nil
}

// Close ends connections; what was published is on its way or was refused.
func (s *Suite) Close() error {
	var errs []error
	if s.pubsub != nil {
		s.findings.Stop()
		s.dead.Stop()
		errs = append(errs, s.pubsub.Close())
	}
	if s.scc != nil {
		errs = append(errs, s.scc.Close())
	}
	if s.executions != nil {
		errs = append(errs, s.executions.Close())
	}
	return errors.Join(append(errs, s.parts.Store.Close())...)
}

func (s *Suite) newResponder(rules *policy.Policy) (*respond.Responder, error) {
	if s.cfg.SlackToken == "" || s.cfg.SlackChannel == "" {
		return nil, errors.New("SLACK_TOKEN and SLACK_CHANNEL are required: without a page nobody is told")
	}
	list := verdict.BuiltIn()
	if s.cfg.Indicators != "" {
		var err error
		if list, err = verdict.ReadList(s.cfg.Indicators); err != nil {
			return nil, err
		}
	}
	sources := []verdict.Source{list}
	if s.cfg.VirusTotalKey != "" {
		vt, err := verdict.NewVirusTotal(s.cfg.VirusTotalKey, "")
		if err != nil {
			return nil, err
		}
		sources = append(sources, vt)
	}
	var options []slack.Option
	if s.parts.SlackAPI != "" {
		options = append(options, slack.OptionAPIURL(s.parts.SlackAPI))
	}
	link := func(caseID string) string { return strings.TrimSuffix(s.cfg.CasebookURL, "/") + "/cases/" + caseID }
	r := &respond.Responder{
		Log: s.log, Judge: verdict.Judge{Sources: sources}, Policy: rules, Act: s.callContain, Source: s.cfg.SCCSource,
		Holder: func() string { return s.parts.Incarnation + "/" + uuid.NewString() }, Link: link, Now: time.Now,
		Pager: &page.Slack{API: slack.New(s.cfg.SlackToken, options...), Channel: s.cfg.SlackChannel, Link: link, Buttons: s.cfg.Buttons || s.cfg.SlackSigningSecret != ""},
	}
	facts := enrich.Enricher{Fallback: "the security channel", Clusters: s.parts.Reads}
	if s.scc != nil { // a nil *SCC in an interface would not be nil
		r.SCC, facts.Nearby = s.scc, s.scc
	}
	r.Facts = facts
	if s.cfg.Workflow != "" {
		r.Drive = s.drive
	}
	if s.parts.Reads != nil {
		r.Lost = facts.Lost
	}
	return r, nil
}

// post calls another function and answers its reply.
func (s *Suite) post(ctx context.Context, name, url string, in, out any) error {
	if url == "" {
		return retry.Permanent(fmt.Errorf("the address of %s is not configured", name))
	}
	client := s.parts.HTTP
	if client == nil {
		var err error
		if client, err = idtoken.NewClient(ctx, url); err != nil {
			return fmt.Errorf("call %s: %w", name, err)
		}
	}
	body, err := json.Marshal(in)
	if err != nil {
		return retry.Permanent(err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return retry.Permanent(fmt.Errorf("call %s: %w", name, err))
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("call %s: %w", name, err)
	}
	defer resp.Body.Close()
	reply, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	switch {
	case err != nil:
		return fmt.Errorf("call %s: %w", name, err)
	case resp.StatusCode == http.StatusUnprocessableEntity: // looked at, and refused for good
		return retry.Permanent(fmt.Errorf("%s: %s", name, strings.TrimSpace(string(reply))))
	case resp.StatusCode/100 != 2:
		return fmt.Errorf("call %s: %s: %s", name, resp.Status, strings.TrimSpace(string(reply)))
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(reply, out)
}

type containRequest struct {
	Case  string `json:"case"`
	Event int    `json:"event"`
}

// advanceRequest names a case and, when a workflow drives it, where that can be
// resumed. No decision arrives in it.
type advanceRequest struct {
	Case      string `json:"case"`
	Execution string `json:"execution,omitempty"`
	Callback  string `json:"callback,omitempty"`
}

// advanceReply says whether there is anything left to wait for, and how long.
type advanceReply struct {
	Done        bool   `json:"done"`
	WaitSeconds int64  `json:"waitSeconds,omitempty"`
	Why         string `json:"why,omitempty"`
}

func (s *Suite) callContain(ctx context.Context, caseID string, n int) (docket.Acted, error) {
	var a docket.Acted
	err := s.post(ctx, "Contain", s.cfg.ContainURL, containRequest{caseID, n}, &a)
	return a, err
}

// afterClick has a case go on: by resuming the workflow that waits for it, else by
// calling Advance. Whatever fails, the click has a wake.
func (s *Suite) afterClick(ctx context.Context, caseID string) {
	err := s.resume(ctx, caseID)
	if err == nil {
		return
	}
	if !errors.Is(err, errNoCallback) {
		slog.Warn("the workflow could not be resumed", "case", caseID, "error", err.Error())
	}
	if err := s.post(ctx, "Advance", s.cfg.AdvanceURL, advanceRequest{Case: caseID}, nil); err != nil {
		slog.Warn("the click is on record; the case will go on with the next sweep", "case", caseID, "error", err.Error())
	}
}
