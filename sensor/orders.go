package sensor

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"go.etcd.io/bbolt"

	"github.com/contraband-dev/contraband/internal/sensorapi"
)

// errRefused marks what the sensor will answer to the same order again.
var errRefused = errors.New("refused")

// orderTime bounds the carrying out of one order: less than Contain waits for it.
const orderTime = 12 * time.Second

// Carry carries out an order once; the same order again returns the same outcome.
// An error is a refusal that leaves nothing done; what was tried and did not
// work is shown in the status.
func (s *Sensor) Carry(ctx context.Context, o sensorapi.Order) (sensorapi.OrderStatus, error) {
	return s.carry(ctx, o, false)
}

// carry is Carry for an order that is an object of a cluster, or is not.
func (s *Sensor) carry(ctx context.Context, o sensorapi.Order, object bool) (sensorapi.OrderStatus, error) {
	if err := o.Validate(); err != nil {
		return sensorapi.OrderStatus{}, fmt.Errorf("%w: %w", errRefused, err)
	}
	var done sensorapi.OrderStatus
	err := s.spool.db.View(func(tx *bbolt.Tx) error { return getJSON(tx.Bucket(bucketOrders), o.ID, &done) })
	if err == nil {
		return s.stillTrue(o, done)
	}
	if !errors.Is(err, errAbsent) {
		return sensorapi.OrderStatus{}, fmt.Errorf("read order %q: %w", o.ID, err)
	}
	if time.Now().After(o.Expires) {
		return sensorapi.OrderStatus{}, fmt.Errorf("%w: order %q expired at %s", errRefused, o.ID, o.Expires.Format(time.RFC3339))
	}
	h, err := s.spool.home(o.ContainerID)
	if errors.Is(err, errAbsent) {
		return sensorapi.OrderStatus{}, fmt.Errorf("%w: this sensor has detected nothing in container %q, and acts on nothing else", errRefused, o.ContainerID)
	}
	if err != nil {
		return sensorapi.OrderStatus{}, err
	}
	if why := notOurs(o, h, s.cfg.Node); why != "" {
		return sensorapi.OrderStatus{}, fmt.Errorf("%w: order %q: %s", errRefused, o.ID, why)
	}
	if o.SHA256 != "" && o.Action != sensorapi.Evidence { // a finding that names another program is not of this sensor
		ran, err := s.spool.hasRun(o.ContainerID, o.SHA256)
		if err != nil {
			return sensorapi.OrderStatus{}, fmt.Errorf("order %q: %w", o.ID, err)
		}
		if !ran {
			return sensorapi.OrderStatus{}, fmt.Errorf("%w: this sensor has detected no program with the hash %s in container %q", errRefused, o.SHA256, o.ContainerID)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, orderTime)
	defer cancel()
	status := sensorapi.OrderStatus{ID: o.ID}
	switch o.Action {
	case sensorapi.Inspect:
		type inspected struct {
			in  *sensorapi.Inspection
			err error
		}
		var got inspected
		got, err = within(&s.patience, h.CgroupID, orderTime, func() inspected { // a process may be stuck
			in, err := s.inspect(h)
			return inspected{in, err}
		}, func(inspected) {})
		status.Inspection, err = got.in, errors.Join(err, got.err)
	case sensorapi.Probe:
		status.Reached, err = s.probe(ctx, h, o)
	case sensorapi.Freeze:
		status.Until = o.Expires
		status.Process, err = s.freeze(ctx, h, o, object)
	case sensorapi.Thaw:
		status.Process, err = s.thaw(ctx, h, o.Case)
	case sensorapi.Evidence:
		status.SHA256, status.Bytes, err = s.sendEvidence(ctx, h, o)
	}
	status.At = time.Now().UTC()
	status.Done = err == nil
	if err != nil {
		status.Error, status.Gone = err.Error(), errors.Is(err, errGone)
	}
	looked := o.Action == sensorapi.Inspect || o.Action == sensorapi.Probe // a look is taken anew
	if (status.Done || status.Gone) && !looked {                           // nor is what may work the next time remembered
		if err := s.spool.db.Update(func(tx *bbolt.Tx) error { return putJSON(tx.Bucket(bucketOrders), o.ID, status) }); err != nil {
			return sensorapi.OrderStatus{}, fmt.Errorf("remember order %q: %w", o.ID, err)
		}
	}
	s.cfg.Log.Info("order", "id", o.ID, "action", o.Action, "case", o.Case, "container", o.ContainerID, "done", status.Done, "error", status.Error)
	return status, nil
}

// notOurs says why an order is not for this node, or not about this container.
func notOurs(o sensorapi.Order, h home, nodeName string) string {
	switch {
	case o.Node != "" && o.Node != nodeName:
		return fmt.Sprintf("it is for node %q", o.Node)
	case o.PodUID != "" && h.Pod.UID != "" && o.PodUID != h.Pod.UID:
		return fmt.Sprintf("the container is of pod %q, not of %q", h.Pod.UID, o.PodUID)
	}
	return ""
}

// Take is Carry for the orders of a cluster, where a refusal must be known from what
// may pass.
func (s *Sensor) Take(ctx context.Context, o sensorapi.Order) (status sensorapi.OrderStatus, refused bool, err error) {
	status, err = s.carry(ctx, o, true)
	return status, errors.Is(err, errRefused), err
}

// sendEvidence uploads the bytes that ran, found by their hash: the file still
// held open, else what a process of the container still runs.
func (s *Sensor) sendEvidence(ctx context.Context, h home, o sensorapi.Order) (sum string, n int64, err error) {
	src := s.held.reader(o.SHA256)
	if src == nil {
		type found struct {
			f   *os.File
			err error
		}
		// What a process runs may lie where nothing answers.
		got, err := within(&s.patience, h.CgroupID, orderTime, func() found {
			f, err := s.findRunning(ctx, h, o.SHA256)
			return found{f, err}
		}, func(late found) {
			if late.f != nil {
				late.f.Close()
			}
		})
		if err := errors.Join(err, got.err); err != nil {
			return "", 0, err
		}
		f := got.f
		defer f.Close()
		src = f
	}
	hash, counted := sha256.New(), &counter{}
	body := io.TeeReader(io.LimitReader(src, o.Upload.MaxBytes+1), io.MultiWriter(hash, counted))
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, o.Upload.URL, body)
	if err != nil {
		return "", 0, err
	}
	for k, v := range o.Upload.Headers {
		req.Header.Set(k, v)
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", 0, fmt.Errorf("upload: %w", err)
	}
	defer resp.Body.Close()
	// 412: it is already there. That is success: evidence is created once, and
	// Contain verifies the hash of what is there.
	if resp.StatusCode/100 != 2 && resp.StatusCode != http.StatusPreconditionFailed {
		return "", 0, fmt.Errorf("upload: %s", resp.Status)
	}
	if resp.StatusCode == http.StatusPreconditionFailed {
		return o.SHA256, 0, nil
	}
	if sum = hex.EncodeToString(hash.Sum(nil)); sum != o.SHA256 {
		return "", 0, fmt.Errorf("the file now has the hash %s: it was changed after it ran", sum)
	}
	return sum, counted.n, nil
}

type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) { c.n += int64(len(p)); return len(p), nil }

func (s *Sensor) findRunning(ctx context.Context, h home, sum string) (*os.File, error) {
	dir, err := s.freezer.dirOf(h)
	if err != nil {
		return nil, err
	}
	for _, pid := range processesOf(dir) {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		f, err := os.Open("/proc/" + pid + "/exe")
		if err != nil {
			continue
		}
		if info, err := f.Stat(); err != nil || info.Size() > s.cfg.HashMax {
			f.Close()
			continue
		}
		if got, err := sumOf(f); err == nil && got == sum {
			if _, err = f.Seek(0, io.SeekStart); err == nil {
				return f, nil
			}
		}
		f.Close()
	}
	return nil, errors.New("no process of the container runs it any more, and it is no longer held")
}

// Handler serves the local form of orders: PUT /orders/{id} carries one out
// and returns its OrderStatus. Who may call it is the caller's to restrict.
func (s *Sensor) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /orders/{id}", func(w http.ResponseWriter, r *http.Request) {
		var o sensorapi.Order
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 64<<10)).Decode(&o); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if o.ID != r.PathValue("id") {
			http.Error(w, "the order's id is not that of its address", http.StatusBadRequest)
			return
		}
		status, err := s.Carry(r.Context(), o)
		switch {
		case errors.Is(err, errRefused):
			http.Error(w, err.Error(), http.StatusUnprocessableEntity)
			return
		case err != nil: // may pass
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(status)
	})
	return mux
}
