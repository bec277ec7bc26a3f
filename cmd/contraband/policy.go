package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/internal/policy"
	"github.com/contraband-dev/contraband/sensor/allowlist"
)

func policyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy [FILE]",
		Short: "Check a policy file and print what it does",
		Long: `Reads a policy file as the functions do and reports every mistake with its
place. Then it prints the rules in their order, of which the first that matches
decides, the exceptions and the guards. Without a file it prints the built-in
policy, to begin one of your own with.

What a policy would do about a finding: contraband replay --policy FILE FINDING.
Exit status 1 when the file has a mistake.`,
		Example: `  contraband policy > policy.yaml
  contraband policy policy.yaml
  contraband policy explain --policy policy.yaml finding.json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				_, err := fmt.Fprint(cmd.OutOrStdout(), policy.Default)
				return err
			}
			p, err := policy.Load(args[0])
			if err != nil {
				return err
			}
			return printPolicy(cmd.OutOrStdout(), p)
		},
	}
	cmd.AddCommand(explainCommand())
	return cmd
}

func printPolicy(out io.Writer, p *policy.Policy) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for i, r := range p.Rules {
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\n", i+1, oneLine(r.Name), strings.Join(r.Do, ", "), oneLine(r.When))
	}
	for i, e := range p.Exceptions {
		fmt.Fprintf(w, "exception %d\t%s\t%s until %s\t%s\n", i+1, oneLine(conditions(e)), oneLine(e.Owner), e.Until, expiredNote(e))
	}
	g := p.Guards
	fmt.Fprintf(w, "\tprotected namespaces\t%s\t\n\tan hour\tat most %d containments, %d of one workload\t\n\thealthy replicas\t%s\t\n",
		oneLine(strings.Join(g.Namespaces, ", ")), g.MaxContainmentsPerHour, g.MaxPerWorkloadPerHour, g.MinHealthyReplicas)
	if d := p.Digest; d.Every > 0 {
		fmt.Fprintf(w, "\tdigest\tevery %s\t%s\n", d.Every, oneLine(d.When))
	}
	if e := p.EscalateAfter; e.Unanswered > 0 {
		fmt.Fprintf(w, "\tunanswered for %s\t%s\t%s\n", e.Unanswered, oneLine(e.To), oneLine(e.When))
	}
	if g.DryRun {
		fmt.Fprint(w, "\tdry run\tnothing is contained\t\n")
	}
	return w.Flush()
}

func expiredNote(e allowlist.Exception) string {
	if len(allowlist.List{e}.Expired(time.Now())) > 0 {
		return "EXPIRED"
	}
	return ""
}

// conditions returns what an exception matches, in words.
func conditions(e allowlist.Exception) string {
	var parts []string
	for _, c := range []struct{ name, value string }{{"sha256", e.SHA256}, {"path", e.Path}, {"image", e.Image},
		{"namespace", e.Namespace}, {"workload", e.Workload}, {"parent", e.Parent}} {
		if c.value != "" {
			parts = append(parts, c.name+" "+c.value)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(e.Labels)) {
		parts = append(parts, "label "+key+"="+e.Labels[key])
	}
	return strings.Join(parts, ", ")
}

func explainCommand() *cobra.Command {
	var file, exceptions, casebook string
	var variables bool
	cmd := &cobra.Command{
		Use:   "explain CASE|FILE",
		Short: "Print which exception matches a finding, and why the others do not",
		Long: `Compares a finding with each exception of the policy file and of the file of
exceptions. FILE is a recorded finding, which is looked up nowhere; CASE is a
case of the running "contraband up", or of the casebook that --casebook names.
Then it prints what the policy does about the finding, and with --variables what
rules see of it.`,
		Example: `  contraband policy explain --policy policy.yaml finding.json
  contraband policy explain --exceptions exceptions.yaml 0123456789abcdef`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := policy.Load(file)
			if err != nil {
				return err
			}
			if err := p.AddExceptions(exceptions); err != nil {
				return err
			}
			c, err := caseToPreview(cmd.Context(), args[0], p, casebook)
			if err != nil {
				return err
			}
			if err := explain(cmd.OutOrStdout(), p, c.Decided.Finding, c.Decided.Verdict); err != nil || !variables {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), "\nvariables:")
			return printVariables(cmd.OutOrStdout(), c.Decided.Finding, c.Decided.Verdict)
		},
	}
	cmd.Flags().StringVar(&file, "policy", "", "policy file; default: the built-in policy")
	cmd.Flags().StringVar(&exceptions, "exceptions", "", "file of further exceptions, as the sensor reads it")
	cmd.Flags().StringVar(&casebook, "casebook", "", casebookFlag)
	cmd.Flags().BoolVar(&variables, "variables", false, "print what rules see of the finding")
	return cmd
}

// printVariables prints what rules see of a finding. JSON escapes what is not printable.
func printVariables(out io.Writer, f finding.Finding, v cases.Verdict) error {
	all := policy.Variables(f, v)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		var value strings.Builder
		e := json.NewEncoder(&value)
		e.SetEscapeHTML(false)
		if err := e.Encode(all[name]); err != nil {
			return fmt.Errorf("variable %q: %w", name, err)
		}
		fmt.Fprintf(out, "%s = %s\n", name, oneLine(strings.TrimSpace(value.String())))
	}
	return nil
}

// explain prints which exception matches a finding, why the others do not, and the decision.
func explain(out io.Writer, p *policy.Policy, f finding.Finding, v cases.Verdict) error {
	now := time.Now()
	matched := false
	for i, e := range p.Explain(f, v, now) {
		result := "does not match: " + e.Mismatch
		switch {
		case e.Mismatch == "" && matched:
			result = "would match too"
		case e.Mismatch == "":
			result, matched = "MATCHES: counted, and nobody is paged", true
		}
		fmt.Fprintf(out, "exception %d (%s; %s): %s\n", i+1, oneLine(conditions(e.Exception)), oneLine(e.Exception.Owner), oneLine(result))
	}
	if len(p.Exceptions) == 0 {
		fmt.Fprintln(out, "there are no exceptions")
	}
	if matched {
		return nil
	}
	d := p.Decide(f, v)
	if _, err := fmt.Fprintf(out, "no exception matches; rule %q: %s\n", oneLine(d.Rule), strings.Join(d.Do, ", ")); err != nil {
		return err
	}
	return explainDigest(out, p, f, v)
}

// explainDigest says that a finding waits for the digest, if it does.
func explainDigest(out io.Writer, p *policy.Policy, f finding.Finding, v cases.Verdict) error {
	every := p.DigestEvery(f, v)
	if every == 0 {
		return nil
	}
	_, err := fmt.Fprintf(out, "not paged: a line of the digest that is sent every %s (unless it is contained or waits for an approval)\n", every)
	return err
}
