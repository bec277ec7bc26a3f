package respond

import (
	"cmp"
	"slices"
	"time"

	"github.com/contraband-dev/contraband/internal/cases"
)

// track is a chain of steps that depend on each other. Tracks do not: each is taken
// while the others are, and a failure in one delays none of the others.
type track string

// Tracks of a case.
const (
	trackSCC     track = "scc"
	trackContain track = "contain"
	trackVerdict track = "verdict"
	trackNotify  track = "notify" // of a case of an earlier version, which has no incident
)

var tracks = []track{trackSCC, trackContain, trackVerdict, trackNotify}

// step is something that a case is due.
type step struct {
	track track
	name  string // for people; of a containment, the action
	do    effect

	action, click string // of a containment
	sha256        string // of the program whose evidence is due
	lost          cases.Lost
	end           *cases.Closed
}

// situation is what a plan depends on beside the case.
type situation struct {
	now      time.Time
	lost     cases.Lost // a hold that was just found to be no longer in effect
	scc      bool       // a source of our own is configured
	workflow bool       // a workflow can wait for the case
	owners   bool       // the sources of owners can be asked again
}

// plan returns the steps that a case is due now; of each track only the first is to be
// taken. Pure.
func plan(c cases.Case, s situation) (out []step) {
	if c.EscalationDue(s.now) {
		out = append(out, step{track: trackSCC, name: "escalate", do: escalate})
	}
	if times := c.RecheckTimes(); len(times) > 0 && s.now.After(times[0]) {
		out = append(out, step{track: trackVerdict, name: "look the programs up again", do: recheckVerdicts})
	}
	if until := freezeEnd(c); !until.IsZero() && s.now.After(until) {
		out = append(out, step{track: trackContain, name: "record that the freeze expired", do: recordExpired})
	}
	if holdLost(c, s.lost) {
		out = append(out, step{track: trackContain, name: "record that a hold is lost", do: recordLost, lost: s.lost})
	}
	if action, click, sum := nextContainment(c, s.now); action != "" {
		out = append(out, step{track: trackContain, name: action, do: containStep, action: action, click: click, sha256: sum})
	}
	return out
}

// atRest returns the steps of a case for which nothing else is due: only what has come to
// rest is reported, once, instead of after every event. Pure.
func atRest(c cases.Case, s situation) (out []step) {
	if end := closing(c); end != nil {
		return []step{{name: "close", do: closeCase, end: end}}
	}
	if s.owners && c.Decided.Facts.OwnersLate && c.LateOwners == nil {
		out = append(out, step{name: "look the owners up again", do: findLateOwners})
	}
	if s.workflow && c.WorkflowStarted == nil {
		out = append(out, step{name: "start the workflow", do: startWorkflow})
	}
	if s.scc && c.ReportDue(s.now) {
		out = append(out, step{name: "report", do: report})
	}
	return out
}

// holdLost reports whether what was just found lost is not on record yet.
func holdLost(c cases.Case, lost cases.Lost) bool {
	switch {
	case lost.Why == "":
		return false
	case cases.Destroys(lost.Action):
		return c.RemovalStuck == ""
	case lost.Action == cases.Isolate:
		return c.InForce(cases.Isolate) && c.IsolationBroken == ""
	}
	return c.Frozen()
}

// maxTries bounds how often a deferred action is tried, such as an eviction that a
// disruption budget does not allow yet.
const maxTries = 30

// containmentRule decides what is to be done next, or that later rules do not apply.
type containmentRule func(c cases.Case, now time.Time) (action, click string, final bool)

// containmentRules in order of precedence.
var containmentRules = []containmentRule{
	requestedRelease,
	undoBeforeClosing,
	endOfIsolation,
	requestedEviction, // also where the release has failed
	keepReleased,
	requestedExtension,
}

// nextContainment returns the containment that is due and the click that asks for it:
// the undoing that a person asked for or that has come by time; then what the policy
// asks for, in its order, each after the one before has ended. sum is the program whose
// evidence is due.
func nextContainment(c cases.Case, now time.Time) (action, click, sum string) {
	for _, rule := range containmentRules {
		if action, click, final := rule(c, now); action != "" || final {
			return action, click, c.Decided.Finding.Process.SHA256
		}
	}
	return wantedContainment(c, now)
}

func requestedRelease(c cases.Case, now time.Time) (action, click string, final bool) {
	release := accepted(c, cases.ActionRelease)
	if release == "" {
		return "", "", false
	}
	for _, held := range slices.Backward(cases.Table()) { // what was done last is undone first
		if held.Undo == "" {
			continue
		}
		if undo := dueUndoing(c, held.Name, release, now); undo != "" {
			return undo, release, true
		}
	}
	return "", "", false
}

// undoBeforeClosing uncordons, and begins nothing new.
func undoBeforeClosing(c cases.Case, now time.Time) (action, click string, final bool) {
	end := closingClick(c)
	if end == nil {
		return "", "", false
	}
	return dueUndoing(c, cases.Cordon, end.ID, now), end.ID, true
}

// endOfIsolation releases what was isolated for long enough. One that is about to be
// extended is not over: its claim is finished first.
func endOfIsolation(c cases.Case, now time.Time) (action, click string, final bool) {
	isolated := c.Done(cases.Isolate)
	if !c.InForce(cases.Isolate) || c.Claim(cases.Isolate).Outcome == nil || c.Decided.Decision.FallbackOnExpiry {
		return "", "", false
	}
	if isolated.Until.IsZero() || !now.After(isolated.Until) {
		return "", "", false
	}
	return dueUndoing(c, cases.Isolate, "", now), "", false
}

func requestedEviction(c cases.Case, now time.Time) (action, click string, final bool) {
	evict := accepted(c, cases.ActionEvict)
	if evict == "" {
		return "", "", false
	}
	claim := c.Claim(cases.Evict)
	askedAgain := claim != nil && claim.Click != evict && claim.Outcome != nil && !claim.Outcome.Done
	if claim == nil || askedAgain || isDue(c, cases.Evict, now) {
		return cases.Evict, evict, true
	}
	return "", "", false
}

// keepReleased does not take again what was released.
func keepReleased(c cases.Case, _ time.Time) (action, click string, final bool) {
	return "", "", accepted(c, cases.ActionRelease) != ""
}

// requestedExtension claims a hold again that a person wants to last longer: that only
// moves its end.
func requestedExtension(c cases.Case, _ time.Time) (action, click string, final bool) {
	extend := accepted(c, cases.ActionExtend)
	if extend == "" {
		return "", "", false
	}
	for _, held := range []string{cases.Freeze, cases.Isolate} {
		claim := c.Claim(held)
		if claim == nil {
			continue
		}
		begun := claim.Click == extend
		if begun && claim.Outcome == nil || !begun && c.InForce(held) {
			return held, extend, true
		}
	}
	return "", "", false
}

// wantedContainment returns what the decision or a person asks for and is not done yet.
func wantedContainment(c cases.Case, now time.Time) (action, click, sum string) {
	byHand := c.ContainClick()
	for _, action := range c.Wanted(now) {
		click := ""
		if slices.Contains(cases.ByHand, action) {
			click = byHand
		}
		if action == cases.Evidence {
			if sum, ok := dueEvidence(c, now); ok {
				return action, click, sum
			}
			continue
		}
		if cases.Destroys(action) && evidencePending(c) {
			continue // the evidence may still come
		}
		if isDue(c, action, now) || click != "" && endedBefore(c, action, click) {
			return action, click, c.Decided.Finding.Process.SHA256
		}
	}
	return "", "", ""
}

// endedBefore reports whether an action was refused, or has ended by itself, before a click
// asked for it again.
func endedBefore(c cases.Case, action, click string) bool {
	return !c.Begun(action, click) && c.Claim(action).Outcome != nil && !c.InForce(action)
}

// dueEvidence returns the program whose bytes are to be saved next.
func dueEvidence(c cases.Case, now time.Time) (sum string, ok bool) {
	for i, sum := range evidenceTargets(c) {
		claim := evidenceClaim(c, sum)
		if claim == nil || claim.Outcome == nil || i == 0 && !c.Current(claim) || retryDue(c, claim, now) {
			return sum, true
		}
	}
	return "", false
}

// evidenceTargets are the programs whose bytes are to be saved; of a case of an earlier
// version the one that it is about.
func evidenceTargets(c cases.Case) []string {
	if c.Incident == "" {
		return []string{c.Decided.Finding.Process.SHA256}
	}
	return c.EvidenceTargets()
}

// evidenceClaim returns the latest claim of a program's evidence, or nil.
func evidenceClaim(c cases.Case, sum string) *cases.Claim {
	for i := range slices.Backward(c.Claims) {
		if k := &c.Claims[i]; k.Action == cases.Evidence && k.SHA256 == sum {
			return k
		}
	}
	return nil
}

// evidencePending reports whether evidence was not saved, and is tried again.
func evidencePending(c cases.Case) bool {
	return slices.ContainsFunc(evidenceTargets(c), func(sum string) bool {
		claim := evidenceClaim(c, sum)
		return claim != nil && c.Current(claim) && claim.Outcome != nil && !claim.Outcome.Done && !claim.Outcome.RetryAt.IsZero()
	})
}

// isDue reports whether an action was never begun, was not finished, or was deferred
// until now.
func isDue(c cases.Case, action string, now time.Time) bool {
	claim := c.Claim(action)
	if claim == nil || claim.Outcome == nil || !c.Current(claim) {
		return true
	}
	return retryDue(c, claim, now)
}

// retryDue reports whether a claim that was deferred is to be tried again.
func retryDue(c cases.Case, claim *cases.Claim, now time.Time) bool {
	if claim.Outcome.RetryAt.IsZero() || !now.After(claim.Outcome.RetryAt) {
		return false
	}
	tries := 0
	for _, other := range c.Claims {
		if other.Action == claim.Action && (claim.Action != cases.Evidence || other.SHA256 == claim.SHA256) {
			tries++
		}
	}
	return tries < maxTries
}

// deferred reports whether an action was not done, and is to be tried again.
func deferred(c cases.Case, action string) bool {
	claim := c.Claim(action)
	return claim != nil && c.Current(claim) && claim.Outcome != nil && !claim.Outcome.Done && !claim.Outcome.RetryAt.IsZero()
}

// dueUndoing returns what undoes a hold that is in force or half made. One that failed is
// tried again when its time has come, or when a person asks again.
func dueUndoing(c cases.Case, held, click string, now time.Time) string {
	undo := cases.UndoOf(held)
	claim, undone := c.Claim(held), c.Claim(undo)
	if claim == nil {
		return ""
	}
	if undone != nil && undone.N > claim.N && undone.Outcome == nil {
		return undo
	}
	tried := slices.ContainsFunc(c.Claims, func(k cases.Claim) bool {
		return k.Action == undo && k.N > claim.N && k.Click == click
	})
	again := tried && undone.Click == click && deferred(c, undo) && isDue(c, undo, now)
	if (claim.Unresolved() || c.InForce(held)) && (!tried || again) {
		return undo
	}
	return ""
}

// accepted returns the ID of the latest click of a kind that was not refused.
func accepted(c cases.Case, what string) (click string) {
	for _, k := range slices.Backward(c.Clicks) {
		if k.What == what && k.Refused == "" {
			return k.ID
		}
	}
	return ""
}

// closing returns how the case closes now, or nil.
func closing(c cases.Case) *cases.Closed {
	if c.Closed != nil {
		return nil
	}
	if k := closingClick(c); k != nil && len(c.Holds()) == 0 { // what could not be undone keeps it open
		return &cases.Closed{Resolution: cases.Resolution(k.What), By: k.By}
	}
	if id := accepted(c, cases.ActionRelease); id != "" && c.Released() {
		i := slices.IndexFunc(c.Clicks, func(k cases.Click) bool { return k.ID == id })
		return &cases.Closed{Resolution: "released", By: c.Clicks[i].By}
	}
	return nil
}

// closingClick returns the latest accepted click that closes the case, or nil.
func closingClick(c cases.Case) *cases.Click {
	for i := range slices.Backward(c.Clicks) {
		if k := &c.Clicks[i]; cases.Resolution(k.What) != "" && k.Refused == "" {
			return k
		}
	}
	return nil
}

// freezeEnd returns when the case's freeze ends by itself; zero when nothing is frozen.
func freezeEnd(c cases.Case) time.Time {
	if !c.Frozen() {
		return time.Time{}
	}
	return c.Done(cases.Freeze).Until
}

// asksForMore reports whether a decision asks for an action that another does not.
func asksForMore(d, than cases.Decision) bool {
	return slices.ContainsFunc(d.Do, func(a string) bool { return !than.Includes(a) })
}

// union returns what two decisions ask for together. Where one of them asks a person, the
// whole does.
func union(a, b cases.Decision) cases.Decision {
	out := a
	out.Rule = a.Rule + " + " + b.Rule
	for _, action := range b.Do {
		if !out.Includes(action) {
			out.Do = append(slices.Clip(out.Do), action)
		}
	}
	for _, action := range b.Fallback {
		if !slices.Contains(out.Fallback, action) {
			out.Fallback = append(slices.Clip(out.Fallback), action)
		}
	}
	out.RequireApproval = a.RequireApproval || b.RequireApproval
	out.DryRun = a.DryRun || b.DryRun
	out.HoldFor = cmp.Or(a.HoldFor, b.HoldFor)
	return out
}
