// Package cases defines case events and folds an event log into a Case; pure, no I/O.
// A case is one container of one pod in one burst, with the programs that it ran: it
// is what is done (decision, containment, evidence). What people are notified of is an
// incident (package incidents).
package cases

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/contraband-dev/contraband/internal/cases/caselog"
	"github.com/contraband-dev/contraband/internal/finding"
)

// Kinds of events. The strings are stored.
const (
	KindDecided         = "decided"   // the first, and each later one that is worse: found, looked up, decided
	KindJoined          = "joined"    // further findings
	KindEscalated       = "escalated" // the second SCC finding is written, or will never be
	KindPaged           = "paged"     // people were notified, or their messages edited
	KindClaimed         = "claimed"   // an action that Contain may now carry out
	KindActed           = "acted"     // its outcome
	KindClicked         = "clicked"   // a person's click, accepted or refused
	KindExpired         = "expired"   // a freeze that was not released has ended by itself
	KindLost            = "lost"      // a freeze or an isolation is no longer in effect
	KindWorkflowStarted = "driven"    // a workflow waits for the case; without one the sweep advances it
	KindRechecked       = "judged"    // the indicator sources were asked again, and report nothing worse
	KindReminded        = "reminded"  // people were notified again
	KindReported        = "reported"  // the SCC finding shows the case's state
	KindQueued          = "queued"    // of an incident: it is a line of a digest
	KindOwners          = "owners"    // the sources of owners were asked again, with more time
	KindClosed          = caselog.Closed
)

// Level is how bad a verdict is.
type Level string

const (
	Malicious   Level = "malicious"
	Suspicious  Level = "suspicious"
	Unknown     Level = "unknown"
	NotLookedUp Level = "not-looked-up"
)

var severityRank = map[Level]int{Malicious: 4, Suspicious: 2, Unknown: 1}

// WorseThan reports whether l is more severe than other.
func (l Level) WorseThan(other Level) bool { return severityRank[l] > severityRank[other] }

// Verdict is what the indicator sources say about the bytes.
type Verdict struct {
	Level  Level     `json:"level"`
	Label  string    `json:"label,omitempty"`  // "xmrig", "41/71 engines, miner.xmrig"
	Source string    `json:"source,omitempty"` // who says so
	Link   string    `json:"link,omitempty"`
	Why    string    `json:"why,omitempty"` // of NotLookedUp; else what went wrong with a source
	At     time.Time `json:"at"`
}

// Fact is one thing to look at or to run.
type Fact struct {
	Title string `json:"title"`
	Text  string `json:"text,omitempty"` // a query or a command line, quoted for a shell
	Link  string `json:"link,omitempty"`
}

// Facts are what the analyst would have looked up.
type Facts struct {
	Queries  []Fact   `json:"queries,omitempty"`
	Commands []Fact   `json:"commands,omitempty"`
	Research []Fact   `json:"research,omitempty"` // MITRE, VirusTotal
	Related  []Fact   `json:"related,omitempty"`  // findings of the same container within an hour
	Contacts []string `json:"tell,omitempty"`     // whom, best first
	// Owners are who is responsible, with the source that names each, most trusted first.
	Owners  []OwnerContact `json:"owners,omitempty"`
	Missing []string       `json:"missing,omitempty"` // sources that failed, and why
	// OwnersLate: a source of owners did not reply in time; the page did not wait for it.
	OwnersLate bool `json:"ownersLate,omitempty"`

	Workload *Workload `json:"workload,omitempty"` // nil: the cluster was not asked, or did not respond
}

// OwnerContact is a person or team responsible for a workload.
type OwnerContact struct {
	Name   string `json:"name"` // an e-mail address, a group, a team, a channel
	Source string `json:"source"`
	// SlackChannel means that Name is a Slack channel, which is notified as well.
	SlackChannel bool `json:"slackChannel,omitempty"`
}

// Workload is what the cluster says of the pod that a finding names.
type Workload struct {
	PodUID         string            `json:"podUid,omitempty"`
	ContainerID    string            `json:"containerId,omitempty"` // of the container of the finding's name
	Created        time.Time         `json:"created,omitzero"`
	ServiceAccount string            `json:"serviceAccount,omitempty"`
	Owners         []Owner           `json:"owners,omitempty"`         // from the pod's to the root
	InstanceID     string            `json:"instanceId,omitempty"`     // of the node's machine
	NodeLabels     map[string]string `json:"nodeLabels,omitempty"`     // bounded
	ClusterLabels  map[string]string `json:"clusterLabels,omitempty"`  // resource labels
	ClusterVersion string            `json:"clusterVersion,omitempty"` // of the control plane
}

// Owner is an object that owns another.
type Owner struct {
	Kind string `json:"kind"`
	Name string `json:"name"`
}

// Decision is what the policy says.
type Decision struct {
	Rule   string   `json:"rule"`
	Do     []string `json:"do"`
	DryRun bool     `json:"dryRun,omitempty"`
	Why    string   `json:"why,omitempty"` // why less is done than a rule asks for

	// Fallback is done as well when a containment is not in effect: a freeze that is
	// lost, an isolation that is not enforced, or one that ended with FallbackOnExpiry.
	Fallback []string `json:"otherwise,omitempty"`
	// HoldFor is how long a freeze and an isolation last unless they are released.
	HoldFor time.Duration `json:"for,omitempty"`
	// RequireApproval has a person approve before anything is contained; silence causes
	// a reminder, never an action.
	RequireApproval bool `json:"ask,omitempty"`
	// FallbackOnExpiry does Fallback at the end of HoldFor instead of releasing the pod.
	FallbackOnExpiry bool `json:"escalateAtEnd,omitempty"`
}

// Includes reports whether the policy asks for an action.
func (d Decision) Includes(action string) bool { return slices.Contains(d.Do, action) }

// HoldDuration returns HoldFor, or a day.
func (d Decision) HoldDuration() time.Duration {
	if d.HoldFor == 0 {
		return 24 * time.Hour
	}
	return d.HoldFor
}

// Decided is the body of KindDecided.
type Decided struct {
	Key      string          `json:"key"` // of the finding
	Finding  finding.Finding `json:"finding"`
	Facts    Facts           `json:"facts"`
	Verdict  Verdict         `json:"verdict"`
	Decision Decision        `json:"decision"`
	Received time.Time       `json:"received"` // when the notification arrived
	// Expected is the exception that the finding matches; "": none.
	Expected string `json:"expected,omitempty"`
	// Widened: another program's rule contains in more ways; the verdict is as it was.
	Widened bool `json:"widened,omitempty"`
	// Incident is the incident whose messages show the case; "" in events of earlier
	// versions, whose cases are each an incident of their own.
	Incident string `json:"incident,omitempty"`
	Slot     string `json:"slot,omitempty"` // of the finding's occurrence
	// Recheck: the sources were asked again about what the case has, and report worse.
	Recheck bool `json:"again,omitempty"`
	// Moved: a new container of the pod runs the same: containments of the container
	// apply to that one.
	Moved bool `json:"moved,omitempty"`
}

// Joined is the body of KindJoined.
type Joined struct {
	// Keys are finding keys; of cases with an incident each is HandledKey's.
	Keys []string  `json:"keys"`
	Last time.Time `json:"last,omitzero"` // event time of the newest
	// Programs has what the findings add: counts, and programs that are new.
	Programs []Program `json:"programs,omitempty"`
	// Clicks are IDs of clicks that were refused, and are not kept.
	Clicks []string `json:"clicks,omitempty"`
	// Through is a slot before which every occurrence has been handled.
	Through string `json:"through,omitempty"`
}

// Escalated is the body of KindEscalated.
type Escalated struct {
	Finding string `json:"finding,omitempty"`
	Error   string `json:"error,omitempty"` // it is not written: why
	Retry
}

// Retry is when a write is tried again that failed because of a configuration which a person
// has to mend. Zero: it is not tried again.
type Retry struct {
	RetryAt time.Time `json:"retryAt,omitzero"`
	Tries   int       `json:"tries,omitempty"` // so far
}

// retryPauses lie between the tries of a write that fails because of a configuration.
var retryPauses = []time.Duration{time.Minute, 5 * time.Minute, 30 * time.Minute, time.Hour, 6 * time.Hour}

// retryFor is for how long after a case was opened such a write is tried.
const retryFor = 14 * 24 * time.Hour

// Next returns the retry of a write that failed again at a time, in a case opened at another.
func (r Retry) Next(at, opened time.Time) Retry {
	if at.Sub(opened) > retryFor {
		return Retry{Tries: r.Tries + 1}
	}
	return Retry{RetryAt: at.Add(retryPauses[min(r.Tries, len(retryPauses)-1)]).UTC(), Tries: r.Tries + 1}
}

// Due reports whether it is time to try again.
func (r Retry) Due(now time.Time) bool { return !r.RetryAt.IsZero() && !now.Before(r.RetryAt) }

// EscalationDue reports whether the second finding is to be written.
func (c Case) EscalationDue(now time.Time) bool {
	return c.Decided.Decision.Includes(Escalate) && (c.Escalated == nil || c.Escalated.Due(now))
}

// ReportDue reports whether the finding is to show the case's state.
func (c Case) ReportDue(now time.Time) bool {
	return c.Reported != c.Status() || c.ReportRetry.Due(now)
}

// Paged is the body of KindPaged: where people were notified, and what they see there.
type Paged struct {
	Channel   string `json:"channel,omitempty"` // of the first message that was delivered
	Timestamp string `json:"ts,omitempty"`
	Link      string `json:"link,omitempty"`
	Digest    string `json:"digest,omitempty"` // of what the messages show
	Error     string `json:"error,omitempty"`  // no channel took the page: why

	// Deliveries has each channel that was to be notified. Events of earlier versions
	// have none: Channel and Timestamp are then a message in Slack.
	Deliveries []Delivery `json:"deliveries,omitempty"`
	// RetryAt is when a page that no channel took is sent again; Tries counts.
	RetryAt time.Time `json:"retryAt,omitzero"`
	Tries   int       `json:"tries,omitempty"`
	// DeadLettered: the operators were alerted that no channel took the page.
	DeadLettered bool `json:"deadLettered,omitempty"`
}

// Delivery is the message about a case on one channel.
type Delivery struct {
	Target  string `json:"target"`            // "slack:#payments-oncall"
	Mention string `json:"mention,omitempty"` // who is notified there
	Why     string `json:"why,omitempty"`     // which route or source names it

	Room     string   `json:"room,omitempty"`
	ID       string   `json:"id,omitempty"` // "": not delivered
	Link     string   `json:"link,omitempty"`
	Digest   string   `json:"digest,omitempty"`   // of what it shows
	Threaded []string `json:"threaded,omitempty"` // updates that its thread has

	Error   string    `json:"error,omitempty"` // of the last try
	Class   string    `json:"class,omitempty"` // of Error: transient, misconfigured, refused
	Tries   int       `json:"tries,omitempty"` // failed in a row
	RetryAt time.Time `json:"retryAt,omitzero"`
}

// Delivered reports whether the channel has the message.
func (d Delivery) Delivered() bool { return d.ID != "" }

// NextRetry returns when a channel is to be tried again; zero if none is.
func (p Paged) NextRetry() time.Time {
	at := p.RetryAt
	for _, d := range p.Deliveries {
		if !d.RetryAt.IsZero() && (at.IsZero() || d.RetryAt.Before(at)) {
			at = d.RetryAt
		}
	}
	return at
}

// PageDue reports whether people are to be paged: they never were, or no channel took
// the page and it is time to try again.
func (c Case) PageDue(now time.Time) bool {
	return c.Decided.Decision.Includes(Page) && (c.Paged == nil || c.Paged.Error != "" && !now.Before(c.Paged.RetryAt))
}

// Queued is the body of KindQueued: the incident is a line of a digest, because the policy
// says so or because more incidents were to be paged than the limit allows.
type Queued struct {
	Digest string    `json:"digest"` // its ID
	Until  time.Time `json:"until"`  // when it is sent
	Level  Level     `json:"level"`  // a worse verdict is paged at once
	// ByPolicy: further programs are a line of the digest that follows. Programs is how many
	// there were.
	ByPolicy bool `json:"byPolicy,omitempty"`
	Programs int  `json:"programs,omitempty"`
}

// Claimed is the body of KindClaimed: all that Contain acts on.
type Claimed struct {
	Action      string `json:"action"`
	ContainerID string `json:"containerId"`
	Node        string `json:"node"`
	SHA256      string `json:"sha256,omitempty"`
	PodUID      string `json:"podUid,omitempty"`
	Click       string `json:"click,omitempty"` // that asked for it, where no rule does
}

// Outcome is the body of KindActed. Claim is the number of the event that allowed it.
type Outcome struct {
	Claim      int       `json:"claim"`
	Action     string    `json:"action"`
	Done       bool      `json:"done"`
	Error      string    `json:"error,omitempty"`
	TargetGone bool      `json:"gone,omitempty"` // the container no longer exists: nothing is frozen or left to thaw
	At         time.Time `json:"at"`             // when the node did it
	Until      time.Time `json:"until,omitzero"` // of a freeze: when it ends by itself
	Processes  int       `json:"processes,omitempty"`
	SHA256     string    `json:"sha256,omitempty"`
	Bytes      int64     `json:"bytes,omitempty"`

	Notes       []string  `json:"notes,omitempty"`       // remarks for a reader
	Verified    string    `json:"verified,omitempty"`    // how it was verified
	Unverified  string    `json:"unverified,omitempty"`  // why it could not be verified
	NotEnforced string    `json:"notEnforced,omitempty"` // of an isolation: why traffic still flows
	RestartsAt  time.Time `json:"restartsAt,omitzero"`   // of a freeze: when the kubelet is likely to restart the container
	Workload    string    `json:"workload,omitempty"`    // of a freeze: what owned the pod, by whose count it is ready
	RetryAt     time.Time `json:"later,omitzero"`        // not done yet; to be retried from then on
	OverBudget  bool      `json:"overBudget,omitempty"`  // the hour's containments are spent
	Unknown     bool      `json:"unknown,omitempty"`     // it was given up: it may or may not have taken effect
	Confirmed   bool      `json:"confirmed,omitempty"`   // the sensor of the pod's own node confirmed the container
	Items       []Item    `json:"items,omitempty"`       // of evidence
}

// MaxGrace is the longest that a pod keeps running after we have removed it, whatever
// grace period its manifest asks for.
const MaxGrace = 30 * time.Second

// Item is one piece of evidence, kept under its hash.
type Item struct {
	Name   string    `json:"name"` // "binary", "pod.json", "logs/app.previous.txt", ...
	SHA256 string    `json:"sha256,omitempty"`
	Bytes  int64     `json:"bytes,omitempty"`
	At     time.Time `json:"at"`
	By     string    `json:"by"`              // its source: the sensor of a node, the Kubernetes API
	Error  string    `json:"error,omitempty"` // why there is none
}

// OwnersFound is the body of KindOwners.
type OwnersFound struct {
	Owners  []OwnerContact `json:"owners,omitempty"`
	Missing []string       `json:"missing,omitempty"` // sources that failed again, and why
}

// WorkflowStarted is the body of KindWorkflowStarted.
type WorkflowStarted struct {
	Execution string `json:"execution,omitempty"`
	Error     string `json:"error,omitempty"` // none was started: the sweep advances the case
}

// Rechecked is the body of KindRechecked.
type Rechecked struct {
	Verdict
	Programs []Program `json:"programs,omitempty"` // with their verdicts now
	// Failed means that no source answered: it is tried again soon, and the look-up does
	// not count as one of the plan's.
	Failed bool `json:"failed,omitempty"`
}

// Reminded is the body of KindReminded.
type Reminded struct {
	Timestamp string `json:"ts,omitempty"`
	Error     string `json:"error,omitempty"`
	Worse     bool   `json:"graver,omitempty"` // the verdict is worse than the page said; else an approval is pending
}

// Lost is the body of KindLost.
type Lost struct {
	Action string `json:"action,omitempty"` // no longer in effect: Isolate; "": Freeze; Evict: the pod is still there
	Why    string `json:"why"`
}

// Click actions.
const (
	ActionContain    = "contain"    // do what ByHand lists, although the policy does not ask for it
	ActionRelease    = "release"    // undo the containment: thaw, release, uncordon
	ActionEvict      = "evict"      // evict the pod; what it ran is saved
	ActionApprove    = "approve"    // do what the policy asks for
	ActionDeny       = "deny"       // do not
	ActionExtend     = "extend"     // hold the pod for as long again
	ActionClose      = "close"      // close without a resolution; the finding stays active
	ActionExpected   = "benign"     // the program was expected: the finding becomes INACTIVE
	ActionRemediated = "remediated" // the problem was remediated: the finding becomes INACTIVE
)

// ClickOfSCC begins the ID of a click that Security Command Center's state stands for.
const ClickOfSCC = "scc-"

// Automatic reports whether no person has clicked.
func (k Click) Automatic() bool { return strings.HasPrefix(k.ID, ClickOfSCC) }

// IsClickAction reports whether a string is a click action.
func IsClickAction(what string) bool {
	return Resolution(what) != "" || slices.Contains([]string{ActionContain, ActionRelease, ActionEvict, ActionApprove, ActionDeny, ActionExtend}, what)
}

// resolutions of the click actions that close a case.
var resolutions = map[string]string{ActionClose: "settled", ActionExpected: "benign", ActionRemediated: "remediated"}

// Resolution returns the resolution with which a click closes a case, or "".
func Resolution(what string) string { return resolutions[what] }

// Click is what a person clicked; it is also the body of KindClicked.
type Click struct {
	ID      string    `json:"id"`
	What    string    `json:"what"`
	By      string    `json:"by"`
	At      time.Time `json:"at"`
	Refused string    `json:"refused,omitempty"`
	// Decision is the number of the event whose decision the button was shown with; nil:
	// not known.
	Decision *int `json:"decision,omitempty"`
	// Of ActionExpected: what is expected from now on, until when, and why.
	Scope  string    `json:"scope,omitempty"` // ScopeBytes where it is ""
	Until  time.Time `json:"until,omitzero"`
	Reason string    `json:"reason,omitempty"`
}

// Scopes of what is expected, the narrowest first.
const (
	ScopeBytes = "bytes" // these bytes in this workload
	ScopePath  = "path"  // these paths in this image repository, in this workload
)

// maxReason bounds a typed reason, in bytes.
const maxReason = 2000

// Expect sets what is expected from now on, as a person has typed it: the scope, the last
// day as 2006-01-02 ("": the usual one) and the reason. Its error is for that person.
func (k *Click) Expect(scope, until, reason string) error {
	switch scope {
	case "", ScopeBytes, ScopePath:
	default:
		return fmt.Errorf("unknown scope %q", scope)
	}
	reason = strings.TrimSpace(reason)
	if reason == "" || len(reason) > maxReason {
		return fmt.Errorf("give the reason why it is expected, in at most %d bytes", maxReason)
	}
	var last time.Time
	if until != "" {
		day, err := time.Parse(time.DateOnly, until)
		if err != nil {
			return fmt.Errorf("the last day must be a date such as 2027-01-31, not %q", until)
		}
		if last = day.Add(24 * time.Hour); last.Before(k.At) {
			return fmt.Errorf("the last day, %s, is over", until)
		}
	}
	k.Scope, k.Until, k.Reason = scope, last, reason
	return nil
}

// Closed is the body of KindClosed.
type Closed struct {
	Resolution string `json:"resolution"`
	By         string `json:"by"`
}

// ClosesFinding reports whether the SCC finding becomes INACTIVE as well. A release says
// nothing about the finding.
func (c Closed) ClosesFinding() bool {
	return c.Resolution == resolutions[ActionExpected] || c.Resolution == resolutions[ActionRemediated]
}

// Reported is the body of KindReported.
type Reported struct {
	Status string `json:"status"`
	Error  string `json:"error,omitempty"`
	Retry
}

// Case is the state that its events add up to.
type Case struct {
	ID       string    `json:"id"`
	First    time.Time `json:"first,omitzero"` // event time of the first finding
	Opened   time.Time `json:"opened"`
	Updated  time.Time `json:"updated"`
	Incident string    `json:"incident,omitempty"` // "": opened by an earlier version
	Decided  Decided   `json:"decided"`            // the decision that stands, and the finding that led to it
	Joined   int       `json:"joined"`             // findings after the first
	LastSeen time.Time `json:"lastSeen,omitzero"`
	// Programs that the container ran, the most severe first; bounded, MorePrograms has
	// the number of those left out.
	Programs     []Program `json:"programs,omitempty"`
	MorePrograms int       `json:"morePrograms,omitempty"`

	Escalated        *Escalated       `json:"escalated,omitempty"`
	Paged            *Paged           `json:"paged,omitempty"`
	Queued           *Queued          `json:"queued,omitempty"`
	Claims           []Claim          `json:"claims,omitempty"`
	Clicks           []Click          `json:"clicks,omitempty"`
	Reported         string           `json:"reported,omitempty"`
	ReportRetry      Retry            `json:"reportRetry,omitzero"`
	LateOwners       *OwnersFound     `json:"lateOwners,omitempty"`
	Expired          bool             `json:"expired,omitempty"`  // the freeze has
	FreezeLostReason string           `json:"lost,omitempty"`     // why the freeze is no longer in effect
	IsolationBroken  string           `json:"open,omitempty"`     // why the isolation is no longer in effect
	RemovalStuck     string           `json:"stays,omitempty"`    // why the pod that was removed is still there
	Moves            int              `json:"moves,omitempty"`    // times the case moved to a new container of the pod
	Reminded         *Reminded        `json:"reminded,omitempty"` // of the decision that stands
	WorseReminder    *Reminded        `json:"warned,omitempty"`   // likewise, of a worse verdict
	WorkflowStarted  *WorkflowStarted `json:"driven,omitempty"`
	Rechecks         int              `json:"judged,omitempty"` // times that the sources were asked again
	Closed           *Closed          `json:"closed,omitempty"`
	// Damaged is what is wrong with the log: the rest is what can be read of it. Set for
	// people alone; a case that is worked on has none.
	Damaged string `json:"damaged,omitempty"`

	// Handled has the clicks that events mention, and the findings of cases without an
	// incident; HandledFinding covers both kinds of cases.
	Handled map[string]bool `json:"-"`
	// Findings that were handled, by short key, with their slots; those of slots before
	// Through are all handled.
	seen    map[string]string
	through string

	failedLookups int       // in a row
	lookedUp      time.Time // when the sources were last asked
	decided       time.Time // the decision that stands
	decidedN      int       // the number of its event
	worse         bool      // than the one before it
	joined        time.Time // when findings were last joined
}

// DecisionN returns the number of the event whose decision stands: what a button is about.
func (c Case) DecisionN() int { return c.decidedN }

// JoinedAt returns when findings were last joined; zero if none were.
func (c Case) JoinedAt() time.Time { return c.joined }

// DecidedAt returns when the decision that stands was made.
func (c Case) DecidedAt() time.Time { return c.decided }

// WorseReminderDue reports whether people were paged about something less severe than is
// known now and were not notified since: an edited message notifies no person.
func (c Case) WorseReminderDue() bool {
	return c.worse && c.WorseReminder == nil && c.Closed == nil && c.Decided.Decision.Includes(Page) && c.Paged != nil && c.Paged.Error == ""
}

// Claim is an action with its outcome, once known.
type Claim struct {
	N int `json:"n"`
	Claimed
	At      time.Time `json:"at"`
	Outcome *Outcome  `json:"acted,omitempty"`
}

// Unresolved reports whether the outcome of a claim is not known.
func (k Claim) Unresolved() bool { return k.Outcome == nil || k.Outcome.Unknown }

// move makes the case about a new container of the same pod. The decision stands.
func (c *Case) move(d Decided) {
	if c.InForce(Freeze) {
		c.FreezeLostReason = "the frozen container no longer exists: another of the pod runs the same"
	}
	c.Moves++
	c.Decided.Finding.Container, c.Decided.Finding.EventTime = d.Finding.Container, d.Finding.EventTime
}

// ContainerID returns the ID of the container that the case is about; "": not known.
func (c Case) ContainerID() string {
	if id := c.Decided.Finding.Container.ID; id != "" || c.Decided.Facts.Workload == nil {
		return id
	}
	return c.Decided.Facts.Workload.ContainerID
}

// PodUID returns the UID of the pod that the case is about; "": not known.
func (c Case) PodUID() string {
	if uid := c.Decided.Finding.Pod.UID; uid != "" || c.Decided.Facts.Workload == nil {
		return uid
	}
	return c.Decided.Facts.Workload.PodUID
}

// Current reports whether a claim is about the container that the case is about now: a
// freeze of one that was replaced does not freeze the new one.
func (c Case) Current(k *Claim) bool {
	return k.Action != Freeze && k.Action != Evidence || k.ContainerID == c.ContainerID()
}

// Claim returns the latest claim of an action, or nil.
func (c Case) Claim(action string) *Claim {
	for i := len(c.Claims) - 1; i >= 0; i-- {
		if c.Claims[i].Action == action {
			return &c.Claims[i]
		}
	}
	return nil
}

// lastDone returns the latest claim of an action that was carried out, or nil: a later
// one that failed, such as an extension, undoes nothing.
func (c Case) lastDone(action string) *Claim {
	for i := len(c.Claims) - 1; i >= 0; i-- {
		if k := &c.Claims[i]; k.Action == action && k.Outcome != nil && k.Outcome.Done {
			return k
		}
	}
	return nil
}

// Done returns the outcome of an action that was carried out, or nil.
func (c Case) Done(action string) *Outcome {
	if k := c.lastDone(action); k != nil {
		return k.Outcome
	}
	return nil
}

// InForce reports whether an action was done and is still in effect, as far as the log knows.
func (c Case) InForce(action string) bool {
	if c.Done(action) == nil || c.isUndone(action) || c.PodRemoved() && action != Cordon {
		return false
	}
	return action != Freeze || !c.Expired && c.FreezeLostReason == ""
}

// isUndone reports whether an action that was done was undone later.
func (c Case) isUndone(action string) bool {
	claim := c.lastDone(action)
	return claim != nil && c.undone(claim)
}

// undone reports whether a claim was undone later, or nothing was left to undo.
func (c Case) undone(claim *Claim) bool {
	return slices.ContainsFunc(c.Claims, func(u Claim) bool {
		return u.Action == UndoOf(claim.Action) && u.N > claim.N && u.Outcome != nil && (u.Outcome.Done || u.Outcome.TargetGone)
	})
}

// Pending reports whether a containment was begun and neither ended nor was undone: it
// may or may not be in effect.
func (c Case) Pending() bool {
	return slices.ContainsFunc(c.Claims, func(k Claim) bool {
		return UndoOf(k.Action) != "" && k.Unresolved() && !c.undone(&k)
	})
}

// OverBudget returns the outcome of a containment that is put off because the hour's budget
// is spent, or nil.
func (c Case) OverBudget() *Outcome {
	for _, action := range Containments {
		k := c.Claim(action)
		if k != nil && k.Outcome != nil && k.Outcome.OverBudget && !k.Outcome.RetryAt.IsZero() && c.Current(k) && c.Closed == nil && !c.PodRemoved() {
			return k.Outcome
		}
	}
	return nil
}

// PodRemoved reports whether we have removed the pod.
func (c Case) PodRemoved() bool { return c.Removed() != nil }

// Removed returns the outcome of the pod's removal, or nil.
func (c Case) Removed() *Outcome {
	if a := c.Done(Evict); a != nil {
		return a
	}
	return c.Done(Delete)
}

// RemovalDeadline returns when a pod that we have removed must have gone and is checked;
// zero when there is nothing to check.
func (c Case) RemovalDeadline() (at time.Time) {
	if a := c.Removed(); a != nil && c.RemovalStuck == "" && !a.TargetGone {
		return a.At.Add(goneAfter)
	}
	return at
}

const goneAfter = MaxGrace + 15*time.Second

// Holds returns the actions in force that have to be undone.
func (c Case) Holds() []string {
	var out []string
	for _, a := range table {
		if a.Undo != "" && c.InForce(a.Name) {
			out = append(out, a.Name)
		}
	}
	return out
}

// Answer returns the click that approved or denied the decision that stands, or nil. The
// first one counts; an approval of an earlier decision does not.
func (c Case) Answer() *Click {
	for i := range c.Clicks {
		if k := &c.Clicks[i]; k.Refused == "" && (k.What == ActionApprove || k.What == ActionDeny) && c.AnswersCurrent(*k) {
			return k
		}
	}
	return nil
}

// AnswersCurrent reports whether the click is about the current decision; where the
// button did not say, whether it can.
func (c Case) AnswersCurrent(k Click) bool {
	if k.Decision != nil {
		return *k.Decision == c.decidedN
	}
	return !k.At.Before(c.decided)
}

// Asking reports whether an approval is pending.
func (c Case) Asking() bool {
	d := c.Decided.Decision
	return d.RequireApproval && c.Closed == nil && c.Answer() == nil && len(InOrder(d.Do)) > 0
}

// Approved reports whether the policy's containments may be done: no approval is required,
// or one was given.
func (c Case) Approved() bool {
	a := c.Answer()
	return !c.Decided.Decision.RequireApproval || a != nil && a.What == ActionApprove
}

// ContainClick returns the ID of the latest click that contains by hand and was not
// refused; "": there is none, or its freeze has ended by itself.
func (c Case) ContainClick() string {
	for _, k := range slices.Backward(c.Clicks) {
		if k.What == ActionContain && k.Refused == "" {
			if c.Expired && c.Begun(Freeze, k.ID) {
				return ""
			}
			return k.ID
		}
	}
	return ""
}

// ContainRequested reports whether a person has contained by hand and nothing was begun yet.
func (c Case) ContainRequested() bool {
	return c.ContainClick() != "" && !c.Begun(Freeze, c.ContainClick())
}

// Wanted returns the containments that are asked for now, in their order: what the decision
// says, as far as it needs no approval or has it, and what a person does by hand.
func (c Case) Wanted(now time.Time) []string {
	var out []string
	if c.Approved() {
		out = slices.Clone(c.Decided.Decision.Do)
		if c.FallbackReason(now) != "" {
			out = append(out, c.Decided.Decision.Fallback...)
		}
	}
	if c.ContainClick() != "" {
		out = append(out, ByHand...)
	}
	return InOrder(out)
}

// RefusesContain returns why a person cannot contain by hand now, as far as the case shows,
// or "". The guards are asked as well.
func (c Case) RefusesContain() string {
	f := c.Decided.Finding
	switch {
	case c.Closed != nil:
		return "the case is closed"
	case f.ContainmentUnsupported() != "":
		return f.ContainmentUnsupported()
	case c.ContainerID() == "" && f.Pod.Name == "" || f.Node == "":
		return "the finding does not name a container and its node"
	case c.Decided.Decision.DryRun:
		return "the policy says guards.dry_run"
	case c.PodRemoved():
		return "the pod was removed"
	case c.Asking():
		return "an approval is pending: approve or deny"
	case len(c.Holds()) > 0:
		return "it is contained already: " + c.Status()
	case c.Pending() || c.freezeComing():
		return "a containment is in progress"
	case slices.ContainsFunc(c.Clicks, func(k Click) bool { return k.Refused == "" && (k.What == ActionRelease || Resolution(k.What) != "") }):
		return "it was released or is being closed: a new finding opens a new case"
	}
	return ""
}

// Begun reports whether an action was claimed because of a click.
func (c Case) Begun(action, click string) bool {
	return slices.ContainsFunc(c.Claims, func(k Claim) bool { return k.Action == action && k.Click == click })
}

// freezeComing reports whether a freeze that is asked for has no outcome yet. One that is
// put off, such as for a budget, a person can ask for at once.
func (c Case) freezeComing() bool {
	wanted := c.ContainClick() != "" || c.Approved() && c.Decided.Decision.Includes(Freeze)
	k := c.Claim(Freeze)
	begun := k != nil && c.Current(k) && (c.ContainClick() == "" || c.Begun(Freeze, c.ContainClick()))
	return wanted && (!begun || k.Outcome == nil)
}

// ClickActions returns what can be clicked now, in the order in which it is shown.
func (c Case) ClickActions() []string {
	var out []string
	if c.Closed != nil {
		return out
	}
	if c.Asking() {
		out = append(out, ActionApprove, ActionDeny)
	}
	if c.RefusesContain() == "" {
		out = append(out, ActionContain)
	}
	holds := c.Holds()
	if len(holds) > 0 {
		out = append(out, ActionRelease)
	}
	if c.InForce(Freeze) || c.InForce(Isolate) {
		out = append(out, ActionExtend)
	}
	if c.Decided.Finding.Pod.Name != "" && c.Decided.Finding.ContainmentUnsupported() == "" && !c.PodRemoved() && c.Done(Evidence) != nil {
		out = append(out, ActionEvict)
	}
	if !c.InForce(Freeze) && !c.InForce(Isolate) && !c.ContainRequested() {
		out = append(out, ActionExpected, ActionRemediated, ActionClose)
	}
	return out
}

// again is how long after a case was opened the sources are asked once more about
// programs that they did not know: new malware is unknown on its first day.
var again = []time.Duration{time.Hour, 24 * time.Hour, 7 * 24 * time.Hour}

// RecheckTimes returns when the sources are to be asked again, the next time first.
func (c Case) RecheckTimes() (out []time.Time) {
	level := c.Decided.Verdict.Level
	if c.Closed != nil || c.Decided.Finding.Process.SHA256 == "" || level != Unknown && level != NotLookedUp {
		return nil
	}
	if at := c.retryLookup(); !at.IsZero() {
		out = append(out, at)
	}
	for _, d := range again[min(c.Rechecks, len(again)):] {
		if at := c.Opened.Add(d); len(out) == 0 || at.After(out[0]) {
			out = append(out, at)
		}
	}
	return out
}

// WithRecheck returns the case as it is after the sources were asked again.
func (c Case) WithRecheck(at time.Time, failed bool) Case {
	c.recheck(caselog.Event{At: at}, Rechecked{Verdict: Verdict{Level: Unknown}, Failed: failed})
	return c
}

// lookupPauses lie between look-ups that fail: a failure uses up none of the plan's.
var lookupPauses = []time.Duration{15 * time.Second, time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour}

// retryLookup returns when the sources are asked again because none has answered; zero
// when one has.
func (c Case) retryLookup() (at time.Time) {
	if c.Decided.Verdict.Why == "" && c.failedLookups == 0 {
		return at
	}
	from := c.lookedUp
	if from.IsZero() {
		from = c.decided
	}
	if from.Sub(c.Opened) > again[len(again)-1] {
		return at
	}
	return from.Add(lookupPauses[min(c.failedLookups, len(lookupPauses)-1)])
}

// Frozen reports whether the container is frozen as far as the log knows.
func (c Case) Frozen() bool { return c.InForce(Freeze) }

// Released reports whether the pod was contained, or may have been, and no longer is.
func (c Case) Released() bool {
	return len(c.Holds()) == 0 && !c.Pending() && slices.ContainsFunc(c.Claims, func(k Claim) bool {
		return UndoOf(k.Action) != "" && (k.Outcome == nil || k.Outcome.Done) && c.undone(&k)
	})
}

// FallbackReason returns why Decision.Fallback is to be done, or "".
func (c Case) FallbackReason(now time.Time) string {
	isolated := c.Done(Isolate)
	switch {
	case c.FreezeLostReason != "":
		return c.FreezeLostReason
	case c.IsolationBroken != "":
		return c.IsolationBroken
	case isolated != nil && isolated.NotEnforced != "":
		return isolated.NotEnforced
	case isolated == nil && c.Claim(Isolate) != nil && c.Claim(Isolate).Outcome != nil && c.Claim(Isolate).Outcome.NotEnforced != "":
		return c.Claim(Isolate).Outcome.NotEnforced
	case c.Decided.Decision.FallbackOnExpiry && c.InForce(Isolate) && now.After(isolated.Until):
		return "the isolation has reached its end"
	case c.Decided.Decision.FallbackOnExpiry && c.Expired:
		return "the freeze has reached its end"
	}
	return ""
}

// Status returns the state in few words, for lists and for SCC's external system.
func (c Case) Status() string {
	var words []string
	for _, a := range c.Holds() {
		words = append(words, ContainmentOf(a).State)
	}
	if c.PodRemoved() {
		word := "pod removed"
		if c.RemovalStuck != "" {
			word = "pod does not go"
		}
		words = append([]string{word}, words...)
	}
	switch {
	case c.Damaged != "":
		return "log damaged"
	case c.Closed != nil:
		return "closed: " + c.Closed.Resolution
	case c.FreezeLostReason != "" && !c.PodRemoved():
		return strings.Join(append([]string{"freeze lost"}, words...), ", ")
	case len(words) > 0:
		return strings.Join(words, ", ")
	case c.Released():
		return "released"
	case c.Expired:
		return "freeze expired"
	case c.Asking():
		return "waiting for approval"
	case c.Expected() != "":
		return "expected"
	default:
		return "open"
	}
}
