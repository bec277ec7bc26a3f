package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/cases/caselog"
	"github.com/contraband-dev/contraband/internal/cases/casetext"
	"github.com/contraband-dev/contraband/internal/enrich"
	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/internal/incidents"
	"github.com/contraband-dev/contraband/internal/notify"
	"github.com/contraband-dev/contraband/internal/notify/email"
	"github.com/contraband-dev/contraband/internal/notify/googlechat"
	"github.com/contraband-dev/contraband/internal/notify/pager"
	"github.com/contraband-dev/contraband/internal/notify/pagerduty"
	"github.com/contraband-dev/contraband/internal/notify/preview"
	"github.com/contraband-dev/contraband/internal/notify/slack"
	"github.com/contraband-dev/contraband/internal/notify/webhook"
	"github.com/contraband-dev/contraband/internal/owner"
	"github.com/contraband-dev/contraband/internal/policy"
	"github.com/contraband-dev/contraband/internal/verdict"
)

func pageCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "page", Short: "Show what people are notified of"}
	cmd.AddCommand(previewCommand())
	return cmd
}

// previewOptions are the flags of page preview.
type previewOptions struct {
	channel, policy, casebook, html string
}

func previewCommand() *cobra.Command {
	var o previewOptions
	cmd := &cobra.Command{
		Use:   "preview CASE|FILE",
		Short: "Show who would be notified, why, and of what",
		Long: `Prints which channels would be notified about a case, which route or source
names each, and the message. CASE is a case of the running "contraband up", or
of the casebook that --casebook names; FILE is a recorded finding, which is
decided by --policy and looked up nowhere. Nothing is sent.`,
		Example: `  contraband page preview 0123456789abcdef
  contraband page preview --policy policy.yaml --channel slack finding.json
  contraband page preview --html page.html finding.json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			rules, err := policy.Load(o.policy)
			if err != nil {
				return err
			}
			c, err := caseToPreview(cmd.Context(), args[0], rules, o.casebook)
			if err != nil {
				return err
			}
			return previewCase(cmd.OutOrStdout(), c, rules, o)
		},
	}
	cmd.Flags().StringVar(&o.channel, "channel", "", "print what this `kind` of channel is sent: slack, chat, email, pagerduty or webhook")
	cmd.Flags().StringVar(&o.policy, "policy", "", "policy `file` with the routes (default: the built-in policy)")
	cmd.Flags().StringVar(&o.casebook, "casebook", "", casebookFlag)
	cmd.Flags().StringVar(&o.html, "html", "", "write what Slack would show to this `file`")
	return cmd
}

// caseToPreview reads a finding from a file if there is one of that name, else a case.
func caseToPreview(ctx context.Context, arg string, rules *policy.Policy, casebook string) (cases.Case, error) {
	body, err := os.ReadFile(arg)
	if err == nil {
		return caseOfFinding(ctx, body, rules)
	}
	if !errors.Is(err, os.ErrNotExist) {
		return cases.Case{}, err
	}
	client, err := casebookOf(casebook)
	if err != nil {
		return cases.Case{}, err
	}
	v, err := client.Case(ctx, arg)
	if err != nil {
		return cases.Case{}, fmt.Errorf("%q is neither a file nor a case: %w", arg, err)
	}
	var log struct {
		Events []caselog.Event `json:"events"`
	}
	if err := json.Unmarshal(v.Raw, &log); err != nil {
		return cases.Case{}, fmt.Errorf("decode case %q: %w", arg, err)
	}
	return cases.Fold(v.Case.ID, log.Events)
}

// caseOfFinding returns the case that a finding would open.
func caseOfFinding(ctx context.Context, body []byte, rules *policy.Policy) (cases.Case, error) {
	found, err := finding.Decode(body)
	if err != nil {
		return cases.Case{}, err
	}
	if len(found) == 0 {
		return cases.Case{}, errors.New("the file has no finding")
	}
	f := found[0]
	f.ReportedBy = finding.Sources{}.ReporterOf(f)
	if f.Kind() == finding.Other {
		return cases.Case{}, fmt.Errorf("category %q is not about what runs in a container: it opens no case and notifies nobody", f.Category)
	}
	v := verdict.Lookup{Sources: []verdict.Source{verdict.BuiltIn()}}.Finding(ctx, f)
	owners := owner.Finder{Sources: []owner.Source{owner.Labels{}, owner.FromFinding{}}}
	decided, err := json.Marshal(cases.Decided{Key: f.Key(), Finding: f, Verdict: v, Decision: rules.Decide(f, v), Received: time.Now().UTC(),
		Facts: enrich.Enricher{Owners: owners.Owners}.Facts(ctx, f)})
	if err != nil {
		return cases.Case{}, err
	}
	return cases.Fold(f.CaseKey(), []caselog.Event{{Kind: cases.KindDecided, At: time.Now().UTC(), Body: decided}})
}

func previewCase(out io.Writer, c cases.Case, rules *policy.Policy, o previewOptions) error {
	m := casetext.IncidentMessage(incidents.Of(c), func(id string) string { return "https://casebook.example/cases/" + id })
	if o.html != "" {
		return writePreview(o.html, m)
	}
	if o.channel != "" {
		return previewChannel(out, m, notify.Kind(o.channel))
	}
	if !c.Decided.Decision.Includes(cases.Page) {
		fmt.Fprintf(out, "rule %q pages nobody\n\n", oneLine(c.Decided.Decision.Rule))
	}
	if err := explainDigest(out, rules, c.Decided.Finding, c.Decided.Verdict); err != nil {
		return err
	}
	p := &pager.Pager{Security: notify.Target{Kind: notify.Slack, Name: "the security channel", Why: "no route matches"}, Owner: owner.Of,
		Routes: func(c cases.Case) []notify.Target { return rules.Targets(c.Decided.Finding, c.Decided.Verdict) }}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "CHANNEL\tMENTION\tWHY")
	for _, d := range p.Planned(incidents.Of(c)) {
		fmt.Fprintf(w, "%s\t%s\t%s\n", oneLine(d.Target), oneLine(d.Mention), oneLine(d.Why))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "\n%s%s", m.Text(), m.DetailText())
	return err
}

func previewChannel(out io.Writer, m notify.Message, kind notify.Kind) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	switch kind {
	case notify.Slack:
		return e.Encode(map[string]any{"blocks": slack.Blocks(m, "", true)})
	case notify.GoogleChat:
		return e.Encode(googlechat.Render(m))
	case notify.PagerDuty:
		return e.Encode(pagerduty.Payload(m))
	case notify.Webhook:
		return e.Encode(webhook.Event{Version: 1, Event: "opened", Message: m})
	case notify.Email:
		_, err := fmt.Fprintf(out, "Subject: %s\n\n%s", email.Subject(m), email.Text(m))
		return err
	}
	return fmt.Errorf("unknown channel %q: there are slack, chat, email, pagerduty and webhook", kind)
}

func writePreview(file string, m notify.Message) error {
	blocks, err := json.Marshal(slack.Blocks(m, "", true))
	if err != nil {
		return err
	}
	details, err := json.Marshal(slack.Details(m))
	if err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	err = preview.Write(f, "Preview of a page", []preview.Shown{{Title: "in the channel", Blocks: blocks}, {Title: "in its thread", Blocks: details, Thread: true}})
	return errors.Join(err, f.Close())
}
