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
	"strings"
	"time"

	"go.etcd.io/bbolt"

	"github.com/contraband-dev/contraband/internal/node"
)

// freeze is remembered before it is made, so that one made by a sensor that
// died still ends.
type freeze struct {
	Order   string    `json:"order"`
	Expires time.Time `json:"expires"`
}

// errRefused marks what the sensor will answer to the same order again.
var errRefused = errors.New("refused")

// orderTime bounds the carrying out of one order.
const orderTime = 20 * time.Second

// Carry carries out an order once; the same order again answers what came of it.
// An error is a refusal that leaves nothing done; what was tried and did not
// work is told in the status.
func (s *Sensor) Carry(ctx context.Context, o node.Order) (node.OrderStatus, error) {
	if err := o.Validate(); err != nil {
		return node.OrderStatus{}, fmt.Errorf("%w: %w", errRefused, err)
	}
	var done node.OrderStatus
	err := s.spool.db.View(func(tx *bbolt.Tx) error { return getJSON(tx.Bucket(bucketOrders), o.ID, &done) })
	if err == nil {
		return done, nil
	}
	if !errors.Is(err, errAbsent) {
		return node.OrderStatus{}, fmt.Errorf("read order %q: %w", o.ID, err)
	}
	if time.Now().After(o.Expires) {
		return node.OrderStatus{}, fmt.Errorf("%w: order %q expired at %s", errRefused, o.ID, o.Expires.Format(time.RFC3339))
	}
	h, err := s.spool.home(o.ContainerID)
	if errors.Is(err, errAbsent) {
		return node.OrderStatus{}, fmt.Errorf("%w: this sensor has detected nothing in container %q, and acts on nothing else", errRefused, o.ContainerID)
	}
	if err != nil {
		return node.OrderStatus{}, err
	}
	if why := notOurs(o, h, s.cfg.Node); why != "" {
		return node.OrderStatus{}, fmt.Errorf("%w: order %q: %s", errRefused, o.ID, why)
	}
	ctx, cancel := context.WithTimeout(ctx, orderTime)
	defer cancel()
	status := node.OrderStatus{ID: o.ID}
	switch o.Action {
	case node.Inspect:
		status.Inspection, err = s.inspect(h)
	case node.Probe:
		status.Reached, err = s.probe(ctx, h, o)
	case node.Freeze:
		status.Process, err = s.freeze(ctx, h, o)
	case node.Thaw:
		status.Process, err = s.thaw(ctx, h, o.Case)
	case node.Evidence:
		status.SHA256, status.Bytes, err = s.sendEvidence(ctx, h, o)
	}
	status.At = time.Now().UTC()
	status.Done = err == nil
	if err != nil {
		status.Error, status.Gone = err.Error(), errors.Is(err, errGone)
	}
	if status.Done || status.Gone { // what may work the next time is not remembered
		if err := s.spool.db.Update(func(tx *bbolt.Tx) error { return putJSON(tx.Bucket(bucketOrders), o.ID, status) }); err != nil {
			return node.OrderStatus{}, fmt.Errorf("remember order %q: %w", o.ID, err)
		}
	}
	s.cfg.Log.Info("order", "id", o.ID, "action", o.Action, "case", o.Case, "container", o.ContainerID, "done", status.Done, "error", status.Error)
	return status, nil
}

// notOurs says why an order is not for this node, or not about this container.
func notOurs(o node.Order, h home, nodeName string) string {
	switch {
	case o.Node != "" && o.Node != nodeName:
		return fmt.Sprintf("it is for node %q", o.Node)
	case o.PodUID != "" && h.Pod.UID != "" && o.PodUID != h.Pod.UID:
		return fmt.Sprintf("the container is of pod %q, not of %q", h.Pod.UID, o.PodUID)
	}
	return ""
}

// Take is Carry for those who must know a refusal from what may pass.
func (s *Sensor) Take(ctx context.Context, o node.Order) (status node.OrderStatus, refused bool, err error) {
	status, err = s.Carry(ctx, o)
	return status, errors.Is(err, errRefused), err
}

func (s *Sensor) freeze(ctx context.Context, h home, o node.Order) (int, error) {
	if _, err := s.freezer.dirOf(h); err != nil {
		return 0, err
	}
	err := s.spool.db.Update(func(tx *bbolt.Tx) error {
		return putJSON(tx.Bucket(bucketFreezes), freezeKey(o.ContainerID, o.Case), freeze{o.ID, o.Expires})
	})
	if err != nil {
		return 0, err
	}
	deadline, _ := ctx.Deadline()
	n, err := s.freezer.set(h, true, deadline)
	if err == nil {
		return n, nil
	}
	// Told as not done, it must not be half done: nobody could release it.
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), orderTime)
	defer cancel()
	_, undone := s.thaw(undo, h, o.Case)
	if errors.Is(err, errGone) {
		return 0, err
	}
	return 0, errors.Join(err, undone)
}

// freezeKey is of a container and a case: a container that two cases want frozen
// goes on when both have released it.
func freezeKey(container, caseID string) string { return container + "/" + caseID }

// thaw ends one case's freeze, and the container's with the last of them.
func (s *Sensor) thaw(ctx context.Context, h home, caseID string) (int, error) {
	others := 0
	err := s.spool.db.View(func(tx *bbolt.Tx) error {
		c := tx.Bucket(bucketFreezes).Cursor()
		for k, _ := c.Seek([]byte(h.ID + "/")); k != nil && strings.HasPrefix(string(k), h.ID+"/"); k, _ = c.Next() {
			if string(k) != freezeKey(h.ID, caseID) {
				others++
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	n := 0
	if others == 0 {
		deadline, _ := ctx.Deadline()
		if n, err = s.freezer.set(h, false, deadline); err != nil && !errors.Is(err, errGone) {
			return n, err
		}
	}
	forget := s.spool.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketFreezes).Delete([]byte(freezeKey(h.ID, caseID))) })
	return n, errors.Join(err, forget)
}

// expireFreezes thaws what has been frozen for as long as its order allows.
func (s *Sensor) expireFreezes(ctx context.Context) error {
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for {
		s.held.expire()
		due, err := s.dueFreezes(time.Now())
		if err != nil {
			return err
		}
		for _, key := range due {
			s.cfg.Log.Warn("a freeze has expired", "container and case", key, "error", s.thawExpired(ctx, key))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (s *Sensor) thawExpired(ctx context.Context, key string) error {
	container, caseID, _ := strings.Cut(key, "/")
	h, err := s.spool.home(container)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, orderTime)
	defer cancel()
	_, err = s.thaw(ctx, h, caseID)
	return err
}

func (s *Sensor) dueFreezes(now time.Time) ([]string, error) {
	var due []string
	err := s.spool.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketFreezes).ForEach(func(k, v []byte) error {
			var f freeze
			if err := json.Unmarshal(v, &f); err != nil {
				return err
			}
			if now.After(f.Expires) {
				due = append(due, string(k))
			}
			return nil
		})
	})
	return due, err
}

// sendEvidence uploads the bytes that ran, found by their hash: the file still
// held open, else what a process of the container still runs.
func (s *Sensor) sendEvidence(ctx context.Context, h home, o node.Order) (sum string, n int64, err error) {
	src := s.held.reader(o.SHA256)
	if src == nil {
		f, err := s.findRunning(h, o.SHA256)
		if err != nil {
			return "", 0, err
		}
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

func (s *Sensor) findRunning(h home, sum string) (*os.File, error) {
	dir, err := s.freezer.dirOf(h)
	if err != nil {
		return nil, err
	}
	for _, pid := range processesOf(dir) {
		f, err := os.Open("/proc/" + pid + "/exe")
		if err != nil {
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
// and answers its OrderStatus. Who may call it is the caller's to restrict.
func (s *Sensor) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /orders/{id}", func(w http.ResponseWriter, r *http.Request) {
		var o node.Order
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
