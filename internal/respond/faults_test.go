package respond_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"text/tabwriter"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/contraband-dev/contraband/internal/blobstore"
	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/cases/caselog"
	fakeslack "github.com/contraband-dev/contraband/internal/fake/slack"
	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/internal/respond"
)

// A write to the outside that can fail, and how.
type (
	// when is a moment of a call: before it takes effect, or after.
	when int
	// fault makes one write of a world fail for as long as active reports true.
	fault struct {
		write, class string
		postsAnew    bool // people get a second message
		inject       func(w *world, r *respond.Responder, active func() bool)
	}
)

const (
	before when = iota
	after
)

// slackWord has Slack answer a method with an error word.
func slackWord(method, word string) fault {
	return fault{"Slack " + method, word, method == "chat.update" && (word == "message_not_found" || word == "msg_too_long"), func(w *world, _ *respond.Responder, active func() bool) {
		w.slack.Answer = func(m string, _ url.Values) string {
			if m == method && active() {
				return word
			}
			return ""
		}
	}}
}

// slackCode has Slack answer a method with an HTTP status, before or after it takes effect.
func slackCode(method string, code int, at when) fault {
	class := fmt.Sprint("HTTP ", code)
	if at == after {
		class = "applied, answer lost"
	}
	return fault{"Slack " + method, class, false, func(w *world, _ *respond.Responder, active func() bool) {
		inner := w.slack.Fault
		w.slack.Fault = func(m string, applied bool) int {
			if m == method && applied == (at == after) && active() {
				return code
			}
			return inner(m, applied)
		}
	}}
}

// sccCode has a method of SCC's fail.
func sccCode(method string, code codes.Code, at when) fault {
	class := code.String()
	if at == after {
		class = "applied, answer lost"
	}
	return fault{"SCC " + method, class, false, func(w *world, _ *respond.Responder, active func() bool) {
		w.sccFault = func(m string, applied bool) error {
			if strings.HasPrefix(m, method) && applied == (at == after) && active() {
				return status.Error(code, "a fault of the test")
			}
			return nil
		}
	}}
}

// containFault has a call of Contain fail.
func containFault(at when) fault {
	class := map[when]string{before: "HTTP 503", after: "applied, answer lost"}[at]
	return fault{"Contain", class, false, func(_ *world, r *respond.Responder, active func() bool) {
		inner := r.Contain
		r.Contain = func(ctx context.Context, id string, n int) (cases.Outcome, error) {
			if !active() {
				return inner(ctx, id, n)
			}
			if at == after {
				if _, err := inner(ctx, id, n); err != nil {
					return cases.Outcome{}, err
				}
			}
			return cases.Outcome{}, errors.New("a fault of the test")
		}
	}}
}

// storeFault has the creation of keys with a prefix fail.
func storeFault(prefix string, at when) fault {
	class := map[when]string{before: "403", after: "applied, answer lost"}[at]
	return fault{"store " + prefix, class, false, func(_ *world, r *respond.Responder, active func() bool) {
		r.Log.Objects = &failingStore{r.Log.Objects, prefix, at, active}
	}}
}

// sourcesFault has every indicator source fail: a finding is paged at once, and what its rule
// asks for is done when one answers.
func sourcesFault() fault {
	return fault{"indicator sources", "no answer", true, func(_ *world, r *respond.Responder, active func() bool) {
		r.Verdicts = failingSources{r.Verdicts, active}
	}}
}

type failingSources struct {
	respond.Verdicts
	active func() bool
}

func (s failingSources) Finding(ctx context.Context, f finding.Finding) cases.Verdict {
	if s.active() {
		return cases.Verdict{Level: cases.NotLookedUp, Why: "VirusTotal: 503", At: time.Now()}
	}
	return s.Verdicts.Finding(ctx, f)
}

// workflowFault has no workflow start.
func workflowFault() fault {
	return fault{"Workflows, start", "HTTP 503", false, func(_ *world, r *respond.Responder, active func() bool) {
		r.StartWorkflow = func(context.Context, string) (string, error) {
			if active() {
				return "", errors.New("a fault of the test")
			}
			return "execution", nil
		}
	}}
}

type failingStore struct {
	blobstore.Store
	prefix string
	at     when
	active func() bool
}

func (s *failingStore) Create(ctx context.Context, key string, body []byte) error {
	if !strings.HasPrefix(key, s.prefix) || !s.active() {
		return s.Store.Create(ctx, key, body)
	}
	if s.at == after {
		if err := s.Store.Create(ctx, key, body); err != nil {
			return err
		}
	}
	return errors.New("a fault of the test")
}

// everyFault returns each external write by each class of answer.
func everyFault() (out []fault) {
	for _, method := range []string{"chat.postMessage", "chat.update"} {
		out = append(out, slackCode(method, 500, before), slackCode(method, 500, after),
			slackWord(method, "internal_error"), slackWord(method, "invalid_auth"), slackWord(method, "channel_not_found"),
			slackWord(method, "a_word_that_nobody_knows"), slackWord(method, "msg_too_long"))
	}
	out = append(out, slackWord("chat.update", "message_not_found"))
	for _, method := range []string{"CreateFinding", "UpdateExternalSystem"} {
		out = append(out, sccCode(method, codes.Aborted, before), sccCode(method, codes.Aborted, after),
			sccCode(method, codes.PermissionDenied, before), sccCode(method, codes.FailedPrecondition, before))
	}
	out = append(out, containFault(before), containFault(after), sourcesFault(), workflowFault())
	for _, prefix := range []string{"events/", "findings/", "occurrences/", "wakes/", "evidence/"} {
		out = append(out, storeFault(prefix, before), storeFault(prefix, after))
	}
	return out
}

// lasting is for how long a fault lasts; 0: it is one call.
var lasting = []struct {
	name string
	time time.Duration
}{{"once", 0}, {"an hour", time.Hour}, {"a day", 24 * time.Hour}}

// TestFaults makes each external write fail in each way, once, for an hour and for a day of
// virtual time. When the cause is mended, everything that was due is done without a new
// finding: people are notified once, it is escalated once and contained once, the evidence
// is there, and nothing is on record as done that was not. The table goes to
// docs/performance.md (make test-faults).
func TestFaults(t *testing.T) {
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	if testing.Verbose() {
		fmt.Fprintln(table, "FAULT\tWRITE\tANSWER\tLASTS\tCALLS FAILED\tDELIVERIES\tREPLAYED\tAS IT SHOULD BE")
	}
	for _, f := range everyFault() {
		for _, l := range lasting {
			t.Run(fmt.Sprintf("%s %s %s", f.write, f.class, l.name), func(t *testing.T) {
				failed, deliveries, replayed := liveThrough(t, f, l.time)
				if testing.Verbose() {
					fmt.Fprintf(table, "FAULT\t%s\t%s\t%s\t%d\t%d\t%v\t%v\n", f.write, f.class, l.name, failed, deliveries, replayed, !t.Failed())
				}
			})
		}
	}
	if err := table.Flush(); err != nil {
		t.Error(err)
	}
}

// Pub/Sub's redelivery, as Terraform configures it.
const (
	maxDeliveries = 20
	firstBackoff  = 10 * time.Second
	longestOff    = 10 * time.Minute
)

// liveThrough delivers one finding while a fault lasts, as Pub/Sub and the sweep do, until
// well after it is mended.
func liveThrough(t *testing.T, f fault, lasts time.Duration) (failed, deliveries int, replayed bool) {
	w := newWorld(t, memory(t))
	w.yaml = `rules:
  - {name: malware, when: verdict.level == "malicious", do: [escalate, page, freeze, evidence], hold_for: 720h}
  - {name: else, do: [page]}
`
	r := w.timed()
	start := time.Now().Add(-72 * time.Hour) // the servers' own clocks are the real one
	now := start
	r.Now = func() time.Time { return now }
	r.Log.Now = r.Now
	var calls atomic.Int64
	armed := false // not while the finding is raised
	f.inject(w, r, func() bool {
		if !armed {
			return false
		}
		if lasts > 0 && now.Sub(start) < lasts || lasts == 0 && calls.Load() == 0 {
			calls.Add(1)
			return true
		}
		return false
	})
	what := w.found("c1", start)
	w.raiseInSCC(what)
	armed = true

	next, pause, taken := start, firstBackoff, ""
	end := start.Add(lasts + 26*time.Hour) // the longest pause between two tries is a day
	for now = start; now.Before(end); now = now.Add(step(now.Sub(start))) {
		if taken == "" && deliveries < maxDeliveries && !now.Before(next) {
			deliveries++
			if o, err := r.Finding(t.Context(), what); err == nil {
				taken = o.Case
			}
			next, pause = now.Add(pause), min(2*pause, longestOff)
		}
		if deliveries == maxDeliveries && taken == "" && end.Sub(now) < time.Hour {
			// It is a dead letter by now, and the alert has been raised. Where the sweep alone has
			// not ended the case, somebody has to replay it.
			if taken = settledCase(t, w, r); taken == "" {
				replayed = true
				o, err := r.Finding(t.Context(), what)
				if err != nil {
					t.Errorf("after it was mended: %v", err)
				}
				taken = o.Case
			}
		}
		sweepOnce(t, r)
	}
	if taken == "" {
		t.Fatalf("it was never taken, after %d deliveries", deliveries)
	}
	if calls.Load() == 0 {
		t.Error("the fault was never met")
	}
	checkEnd(t, w, f, taken)
	return int(calls.Load()), deliveries, replayed
}

// settledCase returns the case that there is if everything due in it is done, or "".
func settledCase(t *testing.T, w *world, r *respond.Responder) string {
	t.Helper()
	ids, err := r.Log.Cases(t.Context())
	if err != nil || len(ids) > 1 {
		t.Fatalf("cases %v, %v", ids, err)
	}
	if len(ids) == 0 || w.read(ids[0]).Reported != "frozen" {
		return ""
	}
	return ids[0]
}

// checkEnd expects everything that was due to be done once.
func checkEnd(t *testing.T, w *world, f fault, caseID string) {
	t.Helper()
	messages, err := w.slack.Messages()
	if err != nil || len(messages) == 0 {
		t.Fatalf("nobody was notified: %v", err)
	}
	if !slices.ContainsFunc(messages, func(m fakeslack.Message) bool { return strings.Contains(string(m.Blocks)+m.Text, "frozen") }) {
		t.Error("no message shows the end")
	}
	if f.postsAnew { // what cannot be edited is posted anew, so that it does show the end
		w.countMessages = false
	}
	if c := w.check(caseID); c.Reported != "frozen" {
		t.Errorf("Security Command Center says %q", c.Reported)
	}
}

// step is how long nobody comes: the sweep runs every minute, and is thinned out where
// nothing but pauses of hours is left.
func step(age time.Duration) time.Duration {
	switch {
	case age < 2*time.Minute:
		return 5 * time.Second
	case age < time.Hour+30*time.Minute:
		return time.Minute
	}
	return 10 * time.Minute
}

// sweepOnce advances what is due, as functions/sweep does: each case once; the wakes of one
// that fails stay, unless it has a new one soon.
func sweepOnce(t *testing.T, r *respond.Responder) {
	t.Helper()
	due, before, err := r.Log.Due(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	wakes := map[string][]caselog.Wake{}
	for _, w := range due {
		wakes[w.Case] = append(wakes[w.Case], w)
	}
	for id, of := range wakes {
		if err := r.Advance(t.Context(), id); err != nil {
			_, ahead, err := r.Log.Due(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			soon := r.Now().Add(cases.LongestRetry + time.Minute)
			if !slices.ContainsFunc(ahead, func(w caselog.Wake) bool { return w.Case == id && !slices.Contains(before, w) && w.At.Before(soon) }) {
				continue
			}
		}
		for _, w := range of {
			if err := r.Log.DeleteWake(t.Context(), w); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestEscalationOfAnInstanceWhoseClockIsAhead: Security Command Center refuses what is ahead
// of its own clock, for good.
func TestEscalationOfAnInstanceWhoseClockIsAhead(t *testing.T) {
	w := newWorld(t, memory(t))
	r := w.timed()
	setClock(r, time.Now().Add(2*time.Hour))
	f := w.found("c1", time.Now().Add(-time.Second))
	w.raiseInSCC(f)
	w.check(take(t, r, f))
}
