package respond

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/expected"
	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/internal/retry"
)

// effect takes a step and records its outcome.
type effect func(ctx context.Context, w *run, c cases.Case, s step) error

// final returns err when what failed is to be tried again, and nil with the text to
// record when it never can be done.
func final(err error) (text string, again error) {
	if err == nil {
		return "", nil
	}
	if retry.IsRefused(err) {
		return err.Error(), nil
	}
	return "", err
}

// finalSCC is final for a write to Security Command Center. One that fails because of a
// configuration holds nothing up: its failure is recorded, and it has pauses of its own.
func finalSCC(err error) (text string, again error) {
	if retry.IsMisconfigured(err) {
		return err.Error(), nil
	}
	return final(err)
}

func (w *run) record(ctx context.Context, kind string, body any) error {
	_, err := w.log.Append(ctx, kind, body)
	return err
}

func escalate(ctx context.Context, w *run, c cases.Case, _ step) error {
	if w.SCC == nil {
		return w.record(ctx, cases.KindEscalated, cases.Escalated{Error: "no SCC source is configured: the escalation lives in the case and on the page"})
	}
	name, err := w.SCC.Escalate(ctx, c, c.Opened)
	text, again := finalSCC(err)
	if again != nil {
		return again
	}
	b := cases.Escalated{Finding: name, Error: text}
	if retry.IsMisconfigured(err) {
		tried := cases.Retry{}
		if c.Escalated != nil {
			tried = c.Escalated.Retry
		}
		if b.Retry, err = w.retryLater(ctx, c, tried, "escalate"); err != nil {
			return err
		}
	}
	return w.record(ctx, cases.KindEscalated, b)
}

// retryLater returns when a write is tried again that failed because of a configuration, and
// has the case looked at then.
func (w *run) retryLater(ctx context.Context, c cases.Case, tried cases.Retry, what string) (cases.Retry, error) {
	next := tried.Next(w.Now(), c.Opened)
	slog.ErrorContext(ctx, "Security Command Center refuses a write: a role, a source or a setting has to be mended", "case", c.ID, "write", what, "tries", next.Tries, "again", next.RetryAt)
	if next.RetryAt.IsZero() {
		return next, nil
	}
	return next, w.Log.WakeAt(ctx, c.ID, next.RetryAt.Add(time.Second))
}

// recheckVerdicts asks the indicator sources again about programs that they did not know.
// A worse verdict decides anew.
func recheckVerdicts(ctx context.Context, w *run, c cases.Case, _ step) error {
	asked := recheckTargets(c)
	found := make([]cases.Verdict, len(asked))
	var wg sync.WaitGroup
	for i, p := range asked {
		wg.Go(func() { found[i] = w.Verdicts.Finding(ctx, w.withProgram(c, p)) })
	}
	wg.Wait()
	b := cases.Rechecked{Verdict: found[0]}
	for i, v := range found {
		if v.Level.WorseThan(b.Level) {
			b.Verdict = v
		}
		b.Failed = b.Failed || v.Why != ""
		asked[i].Verdict = v
	}
	b.Programs = asked
	if b.Level.WorseThan(c.Decided.Verdict.Level) {
		worst := slices.IndexFunc(found, func(v cases.Verdict) bool { return v == b.Verdict })
		f := w.withProgram(c, asked[worst])
		d := cases.Decided{Key: c.Decided.Key, Slot: c.Decided.Slot, Finding: f, Facts: c.Decided.Facts, Verdict: b.Verdict,
			Decision: w.Policy.Decide(f, b.Verdict), Received: w.received, Recheck: true}
		return w.record(ctx, cases.KindDecided, d)
	}
	at := w.Now()
	if err := w.wakeForRecheck(ctx, c, at, b.Failed); err != nil {
		return err
	}
	_, err := w.log.AppendAt(ctx, at, cases.KindRechecked, b)
	return err
}

// maxRechecks bounds the programs that are looked up again at once.
const maxRechecks = 20

// recheckTargets returns the programs that no source knows; that of the decision first.
func recheckTargets(c cases.Case) []cases.Program {
	out := []cases.Program{cases.ProgramOf(c.Decided.Finding, c.Decided.Verdict)}
	for _, p := range c.Programs {
		unknown := p.Verdict.Level == cases.Unknown || p.Verdict.Level == cases.NotLookedUp
		if unknown && p.SHA256 != "" && p.Key() != out[0].Key() && len(out) < maxRechecks {
			out = append(out, p)
		}
	}
	return out
}

// withProgram returns the case's finding as it would be about another of its programs.
// Who is trusted may have been configured since.
func (w *run) withProgram(c cases.Case, p cases.Program) finding.Finding {
	f := c.Decided.Finding
	f.ReportedBy = w.Sources.ReporterOf(f)
	if p.SHA256 != f.Process.SHA256 || p.Path != f.Process.Path {
		f.Process.SHA256, f.Process.Path, f.Process.Args, f.Process.PID = p.SHA256, p.Path, nil, 0
		if f.Type().Malicious { // the detector has recognised the case's program, not this one
			f.Category = finding.AddedBinary
		}
		if len(p.Findings) > 0 {
			f.CanonicalName = p.Findings[0]
		}
	}
	return f
}

// wakeForRecheck has the case looked at for the look-up after the one that was just made.
func (w *run) wakeForRecheck(ctx context.Context, c cases.Case, at time.Time, failed bool) error {
	after := c.WithRecheck(at, failed)
	times := after.RecheckTimes()
	if len(times) == 0 {
		return nil
	}
	return w.Log.WakeAt(ctx, c.ID, times[0].Add(time.Second))
}

func report(ctx context.Context, w *run, c cases.Case, _ step) error {
	body := cases.Reported{Status: c.Status()}
	err := w.SCC.Report(ctx, w.withPage(c), w.Link(c.ID))
	text, again := finalSCC(err)
	if again != nil {
		return again
	}
	body.Error = text
	if retry.IsMisconfigured(err) {
		if body.Retry, err = w.retryLater(ctx, c, c.ReportRetry, "report"); err != nil {
			return err
		}
	}
	return w.record(ctx, cases.KindReported, body)
}

// containStep records the claim, has it carried out, and records its outcome. A claim
// without an outcome is carried out again: under the same number it is the same order.
func containStep(ctx context.Context, w *run, c cases.Case, s step) error {
	n, claimedAt, err := w.claim(ctx, c, s)
	if err != nil {
		return err
	}
	outcome, err := w.Contain(ctx, c.ID, n)
	if err != nil {
		expired := !claimedAt.IsZero() && w.Now().Sub(claimedAt) > giveUpAfter
		if !retry.IsRefused(err) && !expired {
			return err
		}
		outcome = cases.Outcome{Claim: n, Action: s.action, Error: err.Error(), At: w.Now().UTC(), Unknown: !retry.IsRefused(err)}
	}
	for _, at := range w.wakesAfter(c, s, n, outcome) {
		if at.IsZero() {
			continue
		}
		if err := w.Log.WakeAt(ctx, c.ID, at.Add(time.Second)); err != nil { // and then it is due
			return err
		}
	}
	return w.record(ctx, cases.KindActed, outcome)
}

// claim returns the event that allows a containment: one without an outcome, or a new one.
// since is zero for a new one.
func (w *run) claim(ctx context.Context, c cases.Case, s step) (n int, since time.Time, err error) {
	claim := c.Claim(s.action)
	if s.action == cases.Evidence {
		claim = evidenceClaim(c, s.sha256)
	}
	if claim != nil && claim.Outcome == nil {
		return claim.N, claim.At, nil
	}
	e, err := w.log.Append(ctx, cases.KindClaimed, cases.Claimed{Action: s.action, ContainerID: c.ContainerID(),
		Node: c.Decided.Finding.Node, SHA256: s.sha256, PodUID: c.PodUID(), Click: s.click})
	return e.N, since, err
}

// wakesAfter returns when the case is to be looked at because of an outcome.
func (w *run) wakesAfter(c cases.Case, s step, n int, outcome cases.Outcome) []time.Time {
	out := []time.Time{outcome.Until, outcome.RetryAt}
	if !outcome.RestartsAt.IsZero() {
		out = append(out, outcome.RestartsAt.Add(restartSlack))
	}
	if w.CheckHolds == nil || !outcome.Done {
		return out
	}
	if s.action == cases.Freeze || s.action == cases.Isolate {
		out = append(out, w.Now().Add(holdCheck))
	}
	if cases.Destroys(s.action) {
		c.Claims = append(slices.Clone(c.Claims), cases.Claim{N: n, Claimed: cases.Claimed{Action: s.action}, Outcome: &outcome})
		out = append(out, c.RemovalDeadline())
	}
	return out
}

// giveUpAfter is how long one claim is tried that fails for transient reasons: then it is
// recorded as failed, and what comes after it is done.
const giveUpAfter = 24 * time.Hour

// restartSlack is what a kubelet may take to report a restart.
const restartSlack = 3 * time.Second

// recordExpired records what the node has done by itself.
func recordExpired(ctx context.Context, w *run, _ cases.Case, _ step) error {
	return w.record(ctx, cases.KindExpired, nil)
}

func recordLost(ctx context.Context, w *run, _ cases.Case, s step) error {
	return w.record(ctx, cases.KindLost, s.lost)
}

// startWorkflow has a workflow wait for the case. Without one the sweep advances it, a
// little later: a failure to start it delays nothing.
func startWorkflow(ctx context.Context, w *run, c cases.Case, _ step) error {
	execution, err := w.StartWorkflow(ctx, c.ID)
	body := cases.WorkflowStarted{Execution: execution}
	if err != nil {
		body.Error = err.Error()
	}
	return w.record(ctx, cases.KindWorkflowStarted, body)
}

// closeCase shows the end everywhere first: a closed case accepts no more events.
func closeCase(ctx context.Context, w *run, c cases.Case, s step) error {
	for _, claim := range c.Claims { // a hold without an outcome was undone, or the case would not close
		if claim.Outcome != nil || cases.UndoOf(claim.Action) != "" || cases.UndoneBy(claim.Action) != "" {
			continue
		}
		unknown := cases.Outcome{Claim: claim.N, Action: claim.Action, At: w.Now().UTC(), Error: "the case was closed first: it may have taken effect or not"}
		if err := w.record(ctx, cases.KindActed, unknown); err != nil {
			return err
		}
	}
	if err := w.declareExpected(ctx, c, *s.end); err != nil {
		return err
	}
	ended := w.withPage(c)
	ended.Closed, ended.Updated = s.end, w.Now().UTC()
	if w.SCC != nil {
		if err := w.showEndInSCC(ctx, c, ended); err != nil {
			return err
		}
	}
	if err := w.showEnd(ctx, ended); err != nil {
		return err
	}
	_, err := w.log.Close(ctx, s.end)
	return err
}

// findLateOwners asks the sources of owners again that did not reply before the page: whom
// they name is added to the messages, once.
func findLateOwners(ctx context.Context, w *run, c cases.Case, _ step) error {
	return w.record(ctx, cases.KindOwners, w.LateOwners(ctx, c.Decided.Finding))
}

// showEndInSCC writes what the end of a case is in Security Command Center, for the last
// time: what a configuration keeps from being written now is logged, and not tried again.
func (w *run) showEndInSCC(ctx context.Context, c, ended cases.Case) error {
	if e := c.Escalated; e != nil && !e.RetryAt.IsZero() {
		name, err := w.SCC.Escalate(ctx, c, c.Opened)
		text, again := finalSCC(err)
		if again != nil {
			return again
		}
		ended.Escalated = &cases.Escalated{Finding: name, Error: text}
		if err := w.record(ctx, cases.KindEscalated, ended.Escalated); err != nil {
			return err
		}
	}
	var err error
	if ended.Closed.ClosesFinding() {
		err = w.SCC.Deactivate(ctx, ended)
	}
	if err == nil || retry.ClassOf(err) != retry.Transient { // the report says the same in other words
		err = errors.Join(err, w.SCC.Report(ctx, ended, w.Link(c.ID)))
	}
	text, again := finalSCC(err)
	if text != "" {
		slog.ErrorContext(ctx, "the end of a case is not in Security Command Center", "case", c.ID, "error", text)
	}
	return again
}

// declareExpected records that the programs of a case that is closed as expected are
// expected from now on.
func (w *run) declareExpected(ctx context.Context, c cases.Case, end cases.Closed) error {
	k := closingClick(c)
	if k == nil || k.What != cases.ActionExpected || end.Resolution != cases.Resolution(cases.ActionExpected) {
		return nil
	}
	return expected.Record(ctx, w.Log.Objects, k.ID, expected.Of(c, *k, w.Now()))
}
