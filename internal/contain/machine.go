package contain

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/contraband-dev/contraband/internal/docket"
	"github.com/contraband-dev/contraband/internal/node"
	"github.com/contraband-dev/contraband/internal/retry"
)

// onMachine carries out a claim where there is no cluster: the sensor does all of it.
func (c *Container) onMachine(ctx context.Context, t task) (docket.Acted, error) {
	if c.Orders == nil {
		return t.failed("no sensor and no cluster can be reached from here"), nil
	}
	switch t.claim.Action {
	case docket.Freeze, docket.Thaw:
		return t.freezeOrThaw(ctx, c.Orders)
	case docket.Evidence:
		acted, err := t.program(ctx, c.Orders)
		if err == nil && acted.Done {
			acted.Items = []docket.Item{{Name: binaryItem, SHA256: acted.SHA256, Bytes: acted.Bytes, At: acted.At, By: "the sensor of " + t.claim.Node}}
		}
		return acted, err
	}
	return t.failed(fmt.Sprintf("%s is done to pods, and there is no cluster here", t.claim.Action)), nil
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
