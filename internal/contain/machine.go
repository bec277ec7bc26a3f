package contain

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/retry"
	"github.com/contraband-dev/contraband/internal/sensorapi"
)

// onMachine carries out a claim where there is no cluster: the sensor does all of it.
func (c *Executor) onMachine(ctx context.Context, t task) (cases.Outcome, error) {
	if c.Orders == nil {
		return t.failed("no sensor and no cluster can be reached from here"), nil
	}
	switch t.claim.Action {
	case cases.Freeze, cases.Thaw:
		return t.freezeOrThaw(ctx, c.Orders)
	case cases.Evidence:
		acted, err := t.program(ctx, c.Orders)
		if err == nil && acted.Done {
			acted.Items = []cases.Item{{Name: binaryItem, SHA256: acted.SHA256, Bytes: acted.Bytes, At: acted.At, By: "the sensor of " + t.claim.Node}}
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

// Carry sends an order and waits for its outcome.
func (h HTTPOrders) Execute(ctx context.Context, _ string, o sensorapi.Order) (sensorapi.OrderStatus, error) {
	body, err := json.Marshal(o)
	if err != nil {
		return sensorapi.OrderStatus{}, retry.Refused(err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, h.URL+"/orders/"+o.ID, bytes.NewReader(body))
	if err != nil {
		return sensorapi.OrderStatus{}, retry.Refused(err)
	}
	req.Header.Set("Authorization", "Bearer "+h.Token)
	resp, err := h.Client.Do(req)
	if err != nil {
		return sensorapi.OrderStatus{}, fmt.Errorf("order %q: %w", o.ID, err) // the sensor may be restarting
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		why, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
		err := fmt.Errorf("order %q: %s: %s", o.ID, resp.Status, strings.TrimSpace(string(why)))
		if resp.StatusCode == http.StatusUnprocessableEntity || resp.StatusCode == http.StatusBadRequest || resp.StatusCode == http.StatusNotFound {
			return sensorapi.OrderStatus{}, retry.Refused(err) // the sensor has looked and refuses
		}
		return sensorapi.OrderStatus{}, err
	}
	var s sensorapi.OrderStatus
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<16)).Decode(&s); err != nil {
		return sensorapi.OrderStatus{}, fmt.Errorf("order %q: decode answer: %w", o.ID, err)
	}
	return s, nil
}
