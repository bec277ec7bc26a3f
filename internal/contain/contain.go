// Package contain carries out what a case has claimed: freeze, evidence, thaw.
// It acts on nothing but a claim recorded in the case log, reads everything it
// acts on from there, and runs the guards again at the moment of acting.
package contain

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/contraband-dev/contraband/internal/casefile"
	"github.com/contraband-dev/contraband/internal/docket"
	"github.com/contraband-dev/contraband/internal/node"
	"github.com/contraband-dev/contraband/internal/policy"
	"github.com/contraband-dev/contraband/internal/retry"
)

// MaxEvidence is the largest program that is taken as evidence, in bytes.
const MaxEvidence = 64 << 20

// freezeFor is how long a freeze lasts when nobody releases it.
const freezeFor = 24 * time.Hour

// Orders reaches the sensor of a node.
type Orders interface {
	Carry(ctx context.Context, node string, o node.Order) (node.OrderStatus, error)
}

// Container contains. All fields are required.
type Container struct {
	Log    *casefile.Log
	Guards policy.Guards
	Orders Orders
	// Upload makes a URL that creates one key, once, of at most max bytes.
	Upload func(ctx context.Context, key string, max int64) (*node.Upload, error)
	Now    func() time.Time
}

// Do carries out the claim that is event n of a case. A refusal and a failure
// for good are answers; an error is something that may pass: the same call
// again is safe, since the sensor carries an order out once.
func (c *Container) Do(ctx context.Context, caseID string, n int) (docket.Acted, error) {
	f, err := c.Log.Read(ctx, caseID, "contain")
	if err != nil {
		return docket.Acted{}, err
	}
	events := f.Events()
	if n < 0 || n >= len(events) || events[n].Kind != docket.KindClaimed {
		return docket.Acted{}, retry.Permanent(fmt.Errorf("case %q has no claim at event %d", caseID, n))
	}
	var claim docket.Claimed
	if err := json.Unmarshal(events[n].Body, &claim); err != nil {
		return docket.Acted{}, retry.Permanent(fmt.Errorf("case %q, event %d: %w", caseID, n, err))
	}
	kase, err := docket.Fold(caseID, events)
	if err != nil {
		return docket.Acted{}, retry.Permanent(err)
	}
	acted := docket.Acted{Claim: n, Action: claim.Action}
	refuse := func(why string) (docket.Acted, error) {
		acted.Error, acted.At = "refused: "+why, c.Now().UTC()
		return acted, nil
	}
	if why := c.refuses(kase, claim, n); why != "" {
		return refuse(why)
	}
	if claim.Action == docket.Freeze {
		ok, err := c.withinBudget(ctx, fmt.Sprintf("%s/%d", caseID, n))
		if err != nil {
			return docket.Acted{}, err
		}
		if !ok {
			return refuse(fmt.Sprintf("%d containments in this hour already (guards.max_containments_per_hour)", c.Guards.MaxContainmentsPerHour))
		}
	}
	return c.carry(ctx, caseID, claim, acted)
}

// refuses runs the guards against the log, not against what a caller says.
func (c *Container) refuses(k docket.Case, claim docket.Claimed, n int) string {
	f := k.Decided.Finding
	if claim.ContainerID != f.Container.ID || claim.Node != f.Node || claim.SHA256 != f.Process.SHA256 {
		return "the claim is not about what the finding names"
	}
	if claim.Action == docket.Thaw { // undoing is guarded by a person's word alone
		for _, click := range k.Clicks {
			if click.ID == claim.Click && click.What == docket.PressRelease && click.Refused == "" {
				return ""
			}
		}
		return "nobody has asked for the release"
	}
	if !k.Decided.Decision.Includes(claim.Action) {
		return fmt.Sprintf("the policy's decision does not include %q", claim.Action)
	}
	if claim.Action == docket.Freeze && k.Closed != nil {
		return "the case is closed"
	}
	for _, other := range k.Claims {
		if other.N < n && other.Action == docket.Thaw && claim.Action == docket.Freeze {
			return "the container has been released meanwhile"
		}
	}
	if claim.Action == docket.Evidence { // reading destroys nothing
		return ""
	}
	return c.Guards.Refuses(f)
}

// withinBudget wins one of the hour's slots, the same one again for the same claim.
func (c *Container) withinBudget(ctx context.Context, who string) (bool, error) {
	hour := c.Now().UTC().Format("2006-01-02T15")
	for i := range c.Guards.MaxContainmentsPerHour {
		key := fmt.Sprintf("budgets/hour/%s/%d", hour, i)
		err := c.Log.Store.Create(ctx, key, []byte(who))
		if err == nil {
			return true, nil
		}
		if !errors.Is(err, casefile.ErrExists) {
			return false, err
		}
		holder, err := c.Log.Store.Read(ctx, key)
		if err != nil {
			return false, err
		}
		if string(holder) == who {
			return true, nil
		}
	}
	return false, nil
}

func (c *Container) carry(ctx context.Context, caseID string, claim docket.Claimed, acted docket.Acted) (docket.Acted, error) {
	o := node.Order{
		ID: fmt.Sprintf("%s.%d", caseID, acted.Claim), Case: caseID, Action: node.Action(claim.Action), ContainerID: claim.ContainerID,
		Expires: c.Now().UTC().Add(time.Hour),
	}
	switch claim.Action {
	case docket.Freeze:
		o.Expires = c.Now().UTC().Add(freezeFor)
	case docket.Evidence:
		if claim.SHA256 == "" {
			acted.Error, acted.At = "the program was not hashed, so its bytes cannot be told from others", c.Now().UTC()
			return acted, nil
		}
		up, err := c.Upload(ctx, casefile.EvidenceKey(claim.SHA256), MaxEvidence)
		if err != nil {
			return docket.Acted{}, err
		}
		o.SHA256, o.Upload = claim.SHA256, up
	}
	s, err := c.Orders.Carry(ctx, claim.Node, o)
	if err != nil {
		if !retry.IsPermanent(err) {
			return docket.Acted{}, err
		}
		acted.Error, acted.At = err.Error(), c.Now().UTC()
		return acted, nil
	}
	acted.At, acted.Processes, acted.Gone = s.At, s.Process, s.Gone
	if claim.Action == docket.Freeze {
		acted.Until = o.Expires
	}
	switch {
	case s.Gone:
		acted.Error = "the container is gone"
	case !s.Done:
		acted.Error = s.Error
	case claim.Action == docket.Evidence:
		return c.verify(ctx, claim.SHA256, acted)
	default:
		acted.Done = true
	}
	return acted, nil
}

// verify trusts no node: what arrived must have the hash.
func (c *Container) verify(ctx context.Context, sum string, acted docket.Acted) (docket.Acted, error) {
	body, err := c.Log.Store.Read(ctx, casefile.EvidenceKey(sum))
	if err != nil {
		return docket.Acted{}, err
	}
	got := sha256.Sum256(body)
	acted.SHA256, acted.Bytes = hex.EncodeToString(got[:]), int64(len(body))
	if acted.SHA256 != sum {
		acted.Error = "what arrived has another hash: " + acted.SHA256
		return acted, nil
	}
	acted.Done = true
	return acted, nil
}

// HTTPOrders reaches a sensor's local API, for one machine.
type HTTPOrders struct {
	URL    string // of the sensor
	Token  string // bearer
	Client *http.Client
}

// Carry sends an order and waits for what came of it.
func (h HTTPOrders) Carry(ctx context.Context, _ string, o node.Order) (node.OrderStatus, error) {
	body, err := json.Marshal(o)
	if err != nil {
		return node.OrderStatus{}, retry.Permanent(err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, h.URL+"/orders/"+o.ID, bytes.NewReader(body))
	if err != nil {
		return node.OrderStatus{}, retry.Permanent(err)
	}
	req.Header.Set("Authorization", "Bearer "+h.Token)
	resp, err := h.Client.Do(req)
	if err != nil {
		return node.OrderStatus{}, fmt.Errorf("order %q: %w", o.ID, err) // the sensor may be restarting
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		why, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
		err := fmt.Errorf("order %q: %s: %s", o.ID, resp.Status, strings.TrimSpace(string(why)))
		if resp.StatusCode == http.StatusUnprocessableEntity || resp.StatusCode == http.StatusBadRequest || resp.StatusCode == http.StatusNotFound {
			return node.OrderStatus{}, retry.Permanent(err) // the sensor has looked and refuses
		}
		return node.OrderStatus{}, err
	}
	var s node.OrderStatus
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<16)).Decode(&s); err != nil {
		return node.OrderStatus{}, fmt.Errorf("order %q: decode answer: %w", o.ID, err)
	}
	return s, nil
}
