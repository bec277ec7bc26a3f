// Package contain carries out what a case has claimed: freeze, evidence, isolate,
// cordon, evict, and the undoing. It acts on nothing but a claim recorded in the
// case log, reads everything it acts on from there, and runs the guards again at
// the moment of acting, against the cluster as it then is.
package contain

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/contraband-dev/contraband/internal/blobstore"
	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/cases/caselog"
	"github.com/contraband-dev/contraband/internal/contain/cluster"
	"github.com/contraband-dev/contraband/internal/policy/guards"
	"github.com/contraband-dev/contraband/internal/retry"
	"github.com/contraband-dev/contraband/internal/sensorapi"
)

// MaxEvidence is the largest program that is taken as evidence, in bytes.
const MaxEvidence = 64 << 20

// binaryItem is the name of the program among the evidence.
const binaryItem = "binary"

// Container contains.
type Executor struct {
	Log    *caselog.Store // required
	Guards guards.Guards
	// Clusters reaches the clusters that findings name; nil: there are none.
	Clusters cluster.Finder
	// Orders reaches the sensor of a machine without a cluster; nil: there is none.
	Orders Orders
	// Upload makes a URL that creates one key, once, of at most max bytes. Required
	// for the binary as evidence.
	Upload func(ctx context.Context, key string, max int64) (*sensorapi.Upload, error)
	// Patience is how long a sensor may take to carry out an order of a cluster.
	// Default: 15 s.
	Patience time.Duration
	Now      func() time.Time // required
}

// task is one claim in hand.
type task struct {
	*Executor
	kase   cases.Case
	claim  cases.Claimed
	n      int
	acted  cases.Outcome
	dryRun []string // of Kubernetes' options
}

func (t task) failed(why string) cases.Outcome {
	t.acted.Error, t.acted.At = why, t.Now().UTC()
	return t.acted
}

func (t task) done() cases.Outcome {
	t.acted.Done, t.acted.At = true, t.Now().UTC()
	return t.acted
}

// maxAgain is how often what may be otherwise in a while is put off.
const maxAgain = 6

// tryAgain is when that is tried again: after a minute, then twice as long each time, for
// about an hour in all; zero after that.
func (t task) tryAgain() time.Time {
	tries := 0
	for _, k := range t.kase.Claims {
		if k.Action == t.claim.Action && k.Click == t.claim.Click && k.ContainerID == t.claim.ContainerID {
			tries++
		}
	}
	if tries < 1 || tries > maxAgain {
		return time.Time{}
	}
	return t.Now().UTC().Add(time.Minute << (tries - 1))
}

// notCarried is the outcome of an order that no sensor has carried out, for good or for now.
func (t task) notCarried(err error) cases.Outcome {
	if errors.As(err, new(untaken)) {
		t.acted.RetryAt = t.tryAgain()
	}
	return t.failed(err.Error())
}

// Do carries out the claim that is event n of a case. A refusal and a failure
// for good are answers; an error is something that may pass: the same call
// again is safe, since every effect has a key of its own.
func (c *Executor) Execute(ctx context.Context, caseID string, n int) (cases.Outcome, error) {
	f, err := c.Log.Read(ctx, caseID, "contain")
	if err != nil {
		return cases.Outcome{}, err
	}
	kase, err := cases.Fold(caseID, f.Events())
	if err != nil {
		return cases.Outcome{}, retry.Refused(err)
	}
	i := slices.IndexFunc(kase.Claims, func(k cases.Claim) bool { return k.N == n })
	if i < 0 {
		return cases.Outcome{}, retry.Refused(fmt.Errorf("case %q has no claim at event %d", caseID, n))
	}
	claim := kase.Claims[i].Claimed
	t := task{Executor: c, kase: kase, claim: claim, n: n, acted: cases.Outcome{Claim: n, Action: claim.Action}}
	if why := t.refused(); why != "" {
		return t.failed("refused: " + why), nil
	}
	if kase.Decided.Finding.Pod.Name != "" && c.Clusters != nil {
		return c.onCluster(ctx, t)
	}
	if c.Guards.DryRun && cases.UndoneBy(claim.Action) == "" && claim.Action != cases.Evidence {
		return t.failed("refused: dry run: the policy says guards.dry_run"), nil
	}
	if claim.Action == cases.Freeze && !kase.InForce(cases.Freeze) {
		why, err := t.overBudget(ctx, "")
		if err != nil {
			return cases.Outcome{}, err
		}
		if why != "" {
			return t.nextHour(why), nil
		}
	}
	return c.onMachine(ctx, t)
}

// refused runs the guards against the log, not against what a caller says.
func (t task) refused() string {
	d := t.kase.Decided
	f, action := d.Finding, t.claim.Action
	containerID, podUID := t.kase.ContainerID(), t.kase.PodUID() // also where the finding says less
	// What is done to the pod is not about one of its containers, which may have been
	// replaced since; what is frozen is thawed, whichever it is.
	ofContainer := action == cases.Freeze || action == cases.Evidence || f.Pod.Name == "" && action != cases.Thaw
	if ofContainer && t.claim.ContainerID != containerID || t.claim.PodUID != podUID || t.claim.Node != f.Node || !t.runsProgram() {
		return "the claim is not about what the finding names"
	}
	if undone := cases.UndoneBy(action); undone != "" {
		return t.refusedUndoing(undone)
	}
	if wanted := t.wanted(); !wanted && !t.kase.Approved() {
		return "nobody has approved it"
	} else if !wanted {
		return fmt.Sprintf("the policy's decision does not include %q", action)
	}
	if t.kase.Closed != nil {
		return "the case is closed"
	}
	undo := cases.UndoOf(action)
	for _, other := range t.kase.Claims {
		failed := other.Outcome != nil && !other.Outcome.Done && !other.Outcome.TargetGone
		if undo != "" && other.Action == undo && !failed { // before this claim, or after it
			return "it has been released meanwhile"
		}
	}
	if cases.Destroys(action) && t.kase.Done(cases.Evidence) == nil {
		return "no evidence is saved, and this destroys it"
	}
	if action == cases.Evidence { // reading destroys nothing
		return ""
	}
	return t.Guards.Refuses(f)
}

// runsProgram reports whether the claim is about a program that the case's container ran.
func (t task) runsProgram() bool {
	if t.claim.SHA256 == t.kase.Decided.Finding.Process.SHA256 {
		return true
	}
	return slices.ContainsFunc(t.kase.Programs, func(p cases.Program) bool { return p.SHA256 == t.claim.SHA256 })
}

// wanted reports whether the decision, as it stands now, or a person asks for the action.
func (t task) wanted() bool {
	return slices.Contains(t.kase.Wanted(t.Now()), t.claim.Action) || t.claim.Action == cases.Evict && t.clicked(cases.ActionEvict)
}

// refusedUndoing: undoing is guarded by a person's word, or by the time agreed.
func (t task) refusedUndoing(action string) string {
	if t.clicked(cases.ActionRelease) || action == cases.Cordon && slices.ContainsFunc(t.kase.Clicks, func(k cases.Click) bool {
		return k.ID == t.claim.Click && k.Refused == "" && cases.Resolution(k.What) != ""
	}) {
		return ""
	}
	if done := t.kase.Done(action); action == cases.Isolate && done != nil && !done.Until.IsZero() && t.Now().After(done.Until) {
		return ""
	}
	return "nobody has asked for the release"
}

func (t task) clicked(what string) bool {
	return slices.ContainsFunc(t.kase.Clicks, func(k cases.Click) bool {
		return k.ID == t.claim.Click && k.What == what && k.Refused == ""
	})
}

// order is addressed to the sensor that saw the program.
func (t task) order(action sensorapi.Action, name string) sensorapi.Order {
	return sensorapi.Order{
		ID: fmt.Sprintf("%s.%d%s", t.kase.ID, t.n, name), Case: t.kase.ID, Action: action, ContainerID: t.claim.ContainerID,
		Node: t.claim.Node, PodUID: t.claim.PodUID, Expires: t.Now().UTC().Add(time.Hour),
	}
}

func (t task) freezeOrThaw(ctx context.Context, orders Orders) (cases.Outcome, error) {
	o, beyond := t.order(sensorapi.Action(t.claim.Action), ""), time.Duration(0)
	if t.claim.Action == cases.Freeze {
		if t.kase.Decided.Decision.FallbackOnExpiry {
			beyond = handover
		}
		o.Expires = t.Now().UTC().Add(t.kase.Decided.Decision.HoldDuration() + beyond)
		o.SHA256 = t.toConfirm()
	}
	s, err := orders.Execute(ctx, t.claim.Node, o)
	switch {
	case retry.IsRefused(err):
		return t.notCarried(err), nil
	case err != nil:
		return cases.Outcome{}, err
	case !s.Done && !s.Gone:
		if !s.Refused { // it has tried: the next try may do it
			t.acted.RetryAt = t.tryAgain()
		}
		return t.failed(s.Error), nil
	}
	t.acted.Done, t.acted.Processes, t.acted.TargetGone = s.Done && !s.Gone, s.Process, s.Gone
	t.acted.At = t.between(t.claimedAt(), s.At, t.Now().UTC())
	t.acted.Confirmed = true
	if s.Gone {
		t.acted.Error = "the container is gone"
	}
	if t.claim.Action == cases.Freeze {
		until := s.Until // an earlier try's order may end earlier than this one would
		if until.IsZero() {
			until = o.Expires
		}
		t.acted.Until = t.between(t.acted.At, until, o.Expires).Add(-beyond)
	}
	return t.acted, nil
}

// handover is how much longer a container stays frozen than its time, where something
// else is to be done at the end of it: it must not run in between.
const handover = 2 * time.Minute

// toConfirm is the hash that the pod's own sensor must have seen run in the container:
// another node's word could be about any program. Of findings of others it has seen
// nothing.
func (t task) toConfirm() string {
	if t.kase.Decided.Finding.Sensor == nil {
		return ""
	}
	return t.claim.SHA256
}

func (t task) claimedAt() time.Time {
	for _, k := range t.kase.Claims {
		if k.N == t.n {
			return k.At.UTC()
		}
	}
	return t.Now().UTC()
}

// between bounds a time that a node reports: it could be any, and others rely on it.
func (task) between(from, at, to time.Time) time.Time {
	if at.Before(from) {
		return from
	}
	if at.After(to) {
		return to
	}
	return at
}

// program has the sensor send what ran, and verifies what arrived.
func (t task) program(ctx context.Context, orders Orders) (cases.Outcome, error) {
	if t.claim.SHA256 == "" {
		return t.failed("the program was not hashed, so its bytes cannot be told from others"), nil
	}
	if t.Upload == nil {
		return t.failed("no place for uploads is configured"), nil
	}
	if acted, err := t.saved(ctx); err != nil || acted.Done {
		return acted, err // another case, or an earlier try, has it
	}
	o := t.order(sensorapi.Evidence, "")
	up, err := t.sign(ctx, blobstore.UploadKey(o.ID))
	if ctx.Err() != nil {
		return cases.Outcome{}, err
	}
	if err != nil {
		return t.failed(err.Error()), nil // what is wrong with a key or a right must not hold back what contains
	}
	o.SHA256, o.Upload = t.claim.SHA256, up
	s, err := orders.Execute(ctx, t.claim.Node, o)
	switch {
	case retry.IsRefused(err): // it may have arrived all the same
		if acted, arrived := t.verify(ctx, blobstore.UploadKey(o.ID)); arrived == nil && acted.Done {
			return acted, nil
		}
		return t.notCarried(err), nil
	case err != nil:
		return cases.Outcome{}, err
	case s.Gone:
		t.acted.TargetGone = true
		return t.failed("the container is gone"), nil
	case !s.Done:
		return t.failed(s.Error), nil
	}
	t.acted.Confirmed = true
	return t.verify(ctx, blobstore.UploadKey(o.ID))
}

// sign makes an address to upload to. What may pass is tried again, for seconds: the
// containment waits for it.
func (t task) sign(ctx context.Context, key string) (*sensorapi.Upload, error) {
	var up *sensorapi.Upload
	var err error
	for pause := 200 * time.Millisecond; ; pause *= 4 {
		if up, err = t.Upload(ctx, key, MaxEvidence); err == nil || pause > 4*time.Second {
			break
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(pause):
		}
	}
	if err != nil {
		return nil, fmt.Errorf("make an address for the upload: %w", err)
	}
	return up, nil
}

// saved returns done when the bytes are among the evidence already.
func (t task) saved(ctx context.Context) (cases.Outcome, error) {
	body, err := t.Log.Objects.Read(ctx, blobstore.EvidenceKey(t.claim.SHA256))
	if errors.Is(err, blobstore.ErrNotExist) {
		return cases.Outcome{}, nil
	}
	if err != nil {
		return cases.Outcome{}, err
	}
	if got := sha256.Sum256(body); hex.EncodeToString(got[:]) != t.claim.SHA256 {
		return cases.Outcome{}, retry.Refused(fmt.Errorf("evidence %q does not have the hash of its name", t.claim.SHA256))
	}
	t.acted.SHA256, t.acted.Bytes = t.claim.SHA256, int64(len(body))
	return t.done(), nil
}

// verify trusts no node: what arrived becomes evidence when it has the hash.
func (t task) verify(ctx context.Context, arrived string) (cases.Outcome, error) {
	body, err := t.Log.Objects.Read(ctx, arrived)
	if errors.Is(err, blobstore.ErrNotExist) { // an earlier try has moved it
		if acted, err := t.saved(ctx); err != nil || acted.Done {
			return acted, err
		}
		return t.failed("the sensor says that it has sent the program, and it has not arrived"), nil
	}
	if err != nil {
		return cases.Outcome{}, err
	}
	if got := sha256.Sum256(body); hex.EncodeToString(got[:]) != t.claim.SHA256 {
		return t.failed(fmt.Sprintf("what arrived has another hash: %x", got)), nil
	}
	if err := t.Log.Objects.Create(ctx, blobstore.EvidenceKey(t.claim.SHA256), body); err != nil && !errors.Is(err, blobstore.ErrExists) {
		return cases.Outcome{}, err
	}
	if err := t.Log.Objects.Delete(ctx, arrived); err != nil {
		t.acted.Notes = append(t.acted.Notes, err.Error())
	}
	t.acted.SHA256, t.acted.Bytes = t.claim.SHA256, int64(len(body))
	return t.done(), nil
}
