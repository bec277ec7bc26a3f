// Package functions owns the functions that a case goes through, their configuration and
// their wiring. It holds no logic: what a function does is in the room that it calls.
//
//	Respond   Pub/Sub findings   -> a case, as far as it goes now
//	Advance   HTTP {case}        -> every step that the case is due
//
// The other functions are those of the packages below it: raise has Raise, act has
// Contain, front has Interact and Sweep, book has the Casebook. Each is a program of its
// own, for what is not linked takes no memory. (html/template, which only the casebook
// has, keeps the linker from leaving out methods that nobody calls.)
package functions

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	executions "cloud.google.com/go/workflows/executions/apiv1"
	"github.com/google/uuid"
	"github.com/slack-go/slack"
	"google.golang.org/api/option"

	"github.com/contraband-dev/contraband/functions/front"
	"github.com/contraband-dev/contraband/functions/raise"
	"github.com/contraband-dev/contraband/functions/serve"
	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/contain/cluster"
	"github.com/contraband-dev/contraband/internal/enrich"
	"github.com/contraband-dev/contraband/internal/notify"
	"github.com/contraband-dev/contraband/internal/notify/channels"
	"github.com/contraband-dev/contraband/internal/notify/pager"
	slacknotify "github.com/contraband-dev/contraband/internal/notify/slack"
	"github.com/contraband-dev/contraband/internal/owner"
	"github.com/contraband-dev/contraband/internal/policy"
	"github.com/contraband-dev/contraband/internal/respond"
	"github.com/contraband-dev/contraband/internal/verdict"
)

// Parts replace what only Google's cloud has, on one machine and in tests.
// The zero value is the cloud.
type Parts struct {
	Front       front.Parts
	Raise       raise.Parts
	Executions  []option.ClientOption                             // of Cloud Workflows
	Google      []option.ClientOption                             // of Essential Contacts and Resource Manager
	Reads       cluster.Finder                                    // reaches clusters, with Respond's rights
	SlackAPI    string                                            // ends in /api/
	Incarnation string                                            // part of the holder's name
	Observe     func(messageID string, outcomes []respond.Result) // told what became of a notification
}

// Suite is the functions of one deployment.
type Suite struct {
	*front.Front
	*raise.Raiser

	cfg       Config
	parts     Parts
	responder *respond.Responder

	owners  owner.Finder
	closers []io.Closer // of the owners' sources

	executionsMu sync.Mutex
	executions   *executions.Client // once a workflow was started
}

// New wires the functions, and refuses what is missing. Advance, served alone, publishes
// nothing.
func New(ctx context.Context, cfg Config, parts Parts) (s *Suite, err error) {
	rules, err := policy.Load(cfg.Policy)
	if err != nil {
		return nil, err
	}
	if err := rules.AddExceptions(cfg.Exceptions); err != nil {
		return nil, err
	}
	s = &Suite{cfg: cfg, parts: parts}
	if s.Front, err = front.New(ctx, cfg.Front, parts.Front); err != nil {
		return nil, err
	}
	open := raise.New
	if cfg.Target == "Advance" {
		open = raise.NewWriter
	}
	if s.Raiser, err = open(ctx, cfg.Raise, parts.Raise); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if s.responder, err = s.newResponder(rules); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Close ends connections; what was published is on its way or was refused.
func (s *Suite) Close() error {
	var errs []error
	if s.Raiser != nil {
		errs = append(errs, s.Raiser.Close())
	}
	if s.executions != nil {
		errs = append(errs, s.executions.Close())
	}
	for _, c := range s.closers {
		errs = append(errs, c.Close())
	}
	return errors.Join(append(errs, s.Front.Close())...)
}

func (s *Suite) newResponder(rules *policy.Policy) (*respond.Responder, error) {
	pages, err := s.newPager(rules)
	if err != nil {
		return nil, err
	}
	list := verdict.BuiltIn()
	if s.cfg.Indicators != "" {
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
	r := &respond.Responder{
		Log: s.Log, Verdicts: verdict.Lookup{Sources: sources}, Policy: rules, Contain: s.callContain, Source: s.cfg.Raise.SCCSource,
		LeaseOwner: func() string { return s.parts.Incarnation + "/" + uuid.NewString() }, Link: s.casePage, Now: time.Now,
		Notifier: pages, PagesPerWindow: pagesPerWindow,
	}
	if err := s.findOwners(); err != nil {
		return nil, err
	}
	facts := enrich.Enricher{Owners: s.owners.Owners, Fallback: "the security channel", Clusters: s.parts.Reads}
	if s.SCC != nil { // a nil *SCC in an interface would not be nil
		r.SCC, facts.Nearby = s.SCC, s.SCC
	}
	r.Facts = facts
	if s.cfg.Workflow != "" {
		r.StartWorkflow = s.drive
	}
	if s.parts.Reads != nil {
		r.CheckHolds, r.HasContainer = facts.CheckHolds, facts.HasContainer
	}
	return r, nil
}

func (s *Suite) casePage(caseID string) string {
	return strings.TrimSuffix(s.cfg.CasebookURL, "/") + "/cases/" + caseID
}

// newPager returns what notifies people, and refuses a configuration by which nobody
// would be notified.
func (s *Suite) newPager(rules *policy.Policy) (*pager.Pager, error) {
	cfg, err := channels.Parse(s.cfg.Channels)
	if err != nil {
		return nil, fmt.Errorf("CONTRABAND_CHANNELS: %w", err)
	}
	if (s.cfg.SlackToken == "" || s.cfg.SlackChannel == "") && cfg.Security == "" {
		return nil, errors.New("SLACK_TOKEN and SLACK_CHANNEL are required, or a security channel in CONTRABAND_CHANNELS")
	}
	registry := &channels.Registry{Config: cfg}
	if s.cfg.SlackToken != "" {
		var options []slack.Option
		if s.parts.SlackAPI != "" {
			options = append(options, slack.OptionAPIURL(s.parts.SlackAPI))
		}
		registry.Slack = &slacknotify.Workspace{API: slack.New(s.cfg.SlackToken, options...),
			Buttons: s.cfg.Buttons || s.cfg.Front.SlackSigningSecret != "", EditInterval: editInterval}
	}
	p := &pager.Pager{Open: registry.Open, Link: s.casePage, Owner: owner.Of,
		Routes: func(c cases.Case) []notify.Target { return rules.Targets(c.Decided.Finding, c.Decided.Verdict) }}
	p.Security, p.Fallback, err = cfg.SecurityAndFallback(s.cfg.SlackChannel)
	return p, err
}

// findOwners sets up the sources of owners, the most trusted first.
func (s *Suite) findOwners() error {
	if s.parts.Reads != nil {
		s.owners.Sources = append(s.owners.Sources, owner.Kubernetes{Clusters: s.parts.Reads})
	}
	s.owners.Sources = append(s.owners.Sources, owner.Labels{Clusters: s.parts.Reads}, owner.FromFinding{})
	ctx := context.Background()
	if s.cfg.EssentialContacts {
		contacts, err := owner.NewEssentialContacts(ctx, s.parts.Google...)
		if err != nil {
			return err
		}
		s.owners.Sources, s.closers = append(s.owners.Sources, contacts), append(s.closers, contacts)
	}
	if s.cfg.ProjectOwners {
		members, err := owner.NewProjectOwners(ctx, s.parts.Google...)
		if err != nil {
			return err
		}
		s.owners.Sources, s.closers = append(s.owners.Sources, members), append(s.closers, members)
	}
	return nil
}

// pagesPerWindow is how many incidents are paged one by one in ten minutes, beside those
// that are malicious or ask a person.
const pagesPerWindow = 30

// editInterval is the least time between two edits of one Slack message.
const editInterval = 2 * time.Second

// advanceReply says whether there is anything left to wait for, and how long.
type advanceReply struct {
	Done        bool   `json:"done"`
	WaitSeconds int64  `json:"waitSeconds,omitempty"`
	Why         string `json:"why,omitempty"`
}

func (s *Suite) callContain(ctx context.Context, caseID string, n int) (cases.Outcome, error) {
	var a cases.Outcome
	err := serve.Call(ctx, s.Front.Parts.HTTP, "Contain", s.cfg.ContainURL, serve.ContainRequest{Case: caseID, Event: n}, &a)
	return a, err
}
