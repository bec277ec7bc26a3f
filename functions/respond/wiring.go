// Package respond owns the function that opens cases, and the wiring of the playbook that
// it shares with Advance:
//
//	Respond  Pub/Sub findings -> opens a case and takes the steps that are due
package respond

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

	"github.com/contraband-dev/contraband/functions/raise"
	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/contain/cluster"
	"github.com/contraband-dev/contraband/internal/enrich"
	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/internal/funcserver"
	"github.com/contraband-dev/contraband/internal/funcserver/casefunc"
	"github.com/contraband-dev/contraband/internal/notify"
	"github.com/contraband-dev/contraband/internal/notify/channels"
	"github.com/contraband-dev/contraband/internal/notify/pager"
	slacknotify "github.com/contraband-dev/contraband/internal/notify/slack"
	"github.com/contraband-dev/contraband/internal/owner"
	"github.com/contraband-dev/contraband/internal/policy"
	"github.com/contraband-dev/contraband/internal/respond"
	"github.com/contraband-dev/contraband/internal/verdict"
)

// Parts replaces services of Google Cloud on one machine and in tests. The zero value
// uses Google Cloud.
type Parts struct {
	Cases       casefunc.Parts
	Raise       raise.Parts
	Executions  []option.ClientOption                             // of Cloud Workflows' executions API
	Google      []option.ClientOption                             // of Essential Contacts and Resource Manager
	Reads       cluster.Finder                                    // reaches clusters, with read access
	SlackAPI    string                                            // ends in /api/
	Incarnation string                                            // first part of the lease owner's name
	Observe     func(messageID string, outcomes []respond.Result) // called with the results of a notification
}

// Suite is the playbook with everything that its steps call. Respond and Advance are
// both built on it.
type Suite struct {
	*casefunc.Base

	Findings  *raise.Raiser // the dead-letter topic, and SCC
	Config    Config
	Parts     Parts
	Responder *respond.Responder

	owners  owner.Finder
	closers []io.Closer // of the owners' sources

	executionsMu sync.Mutex
	executions   *executions.Client // once a workflow was started
}

// New opens everything that the steps call, and returns an error for missing
// configuration. For Advance no topic is opened: it publishes nothing.
func New(ctx context.Context, cfg Config, parts Parts) (s *Suite, err error) {
	rules, err := policy.Load(cfg.Policy)
	if err != nil {
		return nil, err
	}
	if err := rules.AddExceptions(cfg.Exceptions); err != nil {
		return nil, err
	}
	s = &Suite{Config: cfg, Parts: parts}
	if s.Base, err = casefunc.New(ctx, cfg.Cases, parts.Cases); err != nil {
		return nil, err
	}
	open := raise.New
	if cfg.Target == "Advance" {
		open = raise.NewWriter
	}
	if s.Findings, err = open(ctx, cfg.Raise, parts.Raise); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if s.Responder, err = s.NewResponder(rules); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Close closes all connections, after pending messages were published.
func (s *Suite) Close() error {
	var errs []error
	if s.Findings != nil {
		errs = append(errs, s.Findings.Close())
	}
	if s.executions != nil {
		errs = append(errs, s.executions.Close())
	}
	for _, c := range s.closers {
		errs = append(errs, c.Close())
	}
	return errors.Join(append(errs, s.Base.Close())...)
}

// NewResponder returns the playbook for a policy.
func (s *Suite) NewResponder(rules *policy.Policy) (*respond.Responder, error) {
	pages, err := s.newPager(rules)
	if err != nil {
		return nil, err
	}
	list := verdict.BuiltIn()
	if s.Config.Indicators != "" {
		if list, err = verdict.ReadList(s.Config.Indicators); err != nil {
			return nil, err
		}
	}
	sources := []verdict.Source{list}
	if s.Config.VirusTotalKey != "" {
		vt, err := verdict.NewVirusTotal(s.Config.VirusTotalKey, "")
		if err != nil {
			return nil, err
		}
		sources = append(sources, vt)
	}
	r := &respond.Responder{
		Log: s.Log, Verdicts: verdict.Lookup{Sources: sources}, Policy: rules, Contain: s.callContain,
		Sources:    finding.Sources{Ours: s.Config.Raise.SCCSource, Detectors: s.Config.DetectorSources},
		LeaseOwner: func() string { return s.Parts.Incarnation + "/" + uuid.NewString() }, Link: s.casePage, Now: time.Now,
		Notifier: pages, PagesPerWindow: pagesPerWindow,
	}
	if err := s.findOwners(); err != nil {
		return nil, err
	}
	r.LateOwners = s.owners.LateOwners
	facts := enrich.Enricher{Owners: s.owners.Owners, Fallback: "the security channel", Clusters: s.Parts.Reads}
	if s.Findings.SCC != nil { // a nil *SCC in an interface would not be nil
		r.SCC, facts.Nearby = s.Findings.SCC, s.Findings.SCC
	}
	r.Facts = facts
	if s.Config.Workflow != "" {
		r.StartWorkflow = s.StartWorkflow
	}
	if s.Config.Target != "Advance" { // it has no topics: what Respond could not page is on record
		r.DeadLetter = s.Findings.Park
	}
	if s.Parts.Reads != nil {
		r.CheckHolds, r.HasContainer = facts.CheckHolds, facts.HasContainer
	}
	return r, nil
}

func (s *Suite) casePage(caseID string) string {
	return strings.TrimSuffix(s.Config.CasebookURL, "/") + "/cases/" + caseID
}

// newPager returns what notifies people, and refuses a configuration by which nobody
// would be notified.
func (s *Suite) newPager(rules *policy.Policy) (*pager.Pager, error) {
	cfg, err := channels.Parse(s.Config.Channels)
	if err != nil {
		return nil, fmt.Errorf("CONTRABAND_CHANNELS: %w", err)
	}
	if (s.Config.SlackToken == "" || s.Config.SlackChannel == "") && cfg.Security == "" {
		return nil, errors.New("SLACK_TOKEN and SLACK_CHANNEL are required, or a security channel in CONTRABAND_CHANNELS")
	}
	registry := &channels.Registry{Config: cfg}
	if s.Config.SlackToken != "" {
		var options []slack.Option
		if s.Parts.SlackAPI != "" {
			options = append(options, slack.OptionAPIURL(s.Parts.SlackAPI))
		}
		registry.Slack = &slacknotify.Workspace{API: slack.New(s.Config.SlackToken, options...),
			Buttons: s.Config.Buttons, EditInterval: editInterval, Store: s.Base.Log.Objects}
	}
	p := &pager.Pager{Open: registry.Open, Link: s.casePage, Owner: owner.Of,
		Routes: func(c cases.Case) []notify.Target { return rules.Targets(c.Decided.Finding, c.Decided.Verdict) }}
	p.Security, p.Fallback, err = cfg.SecurityAndFallback(s.Config.SlackChannel)
	return p, err
}

// findOwners sets up the sources of owners, the most trusted first.
func (s *Suite) findOwners() error {
	if s.Parts.Reads != nil {
		s.owners.Sources = append(s.owners.Sources, owner.Kubernetes{Clusters: s.Parts.Reads, Keys: s.Config.OwnerKeys})
	}
	s.owners.Sources = append(s.owners.Sources, owner.Labels{Clusters: s.Parts.Reads, Keys: s.Config.OwnerKeys}, owner.FromFinding{})
	ctx := context.Background()
	if s.Config.EssentialContacts {
		contacts, err := owner.NewEssentialContacts(ctx, s.Parts.Google...)
		if err != nil {
			return err
		}
		s.owners.Sources, s.closers = append(s.owners.Sources, contacts), append(s.closers, contacts)
	}
	if s.Config.ProjectOwners {
		members, err := owner.NewProjectOwners(ctx, s.Parts.Google...)
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

func (s *Suite) callContain(ctx context.Context, caseID string, n int) (cases.Outcome, error) {
	var a cases.Outcome
	err := funcserver.Call(ctx, s.Base.Parts.HTTP, "Contain", s.Config.ContainURL, funcserver.ContainRequest{Case: caseID, Event: n}, &a)
	return a, err
}
