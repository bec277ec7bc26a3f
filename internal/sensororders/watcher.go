// Package orders is the sensor's side of ContainmentOrder objects: it lists and
// watches its own node's, has each carried out, and writes its outcome. It
// speaks plain HTTP to the API server: the client library would be larger than
// the sensor.
package sensororders

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/contraband-dev/contraband/internal/sensorapi"
)

// Carrier carries out an order once; the same order again returns the outcome of
// it. An error is a refusal, or something that may pass.
type Executor func(ctx context.Context, o sensorapi.Order) (status sensorapi.OrderStatus, refused bool, err error)

// Watcher takes one node's orders.
type Watcher struct {
	Server string       // the API server's address, https://HOST:PORT
	Client *http.Client // trusts the API server
	Token  func() (string, error)
	Node   string
	Carry  Executor
	// Frozen returns the orders whose freezes are in force, and Withdrawn ends the one
	// of an order whose object is no more. Both nil: nothing is ever frozen here.
	Frozen    func() ([]string, error)
	Withdrawn func(ctx context.Context, order string) error
	Log       *slog.Logger

	connected atomic.Bool
	work      sync.WaitGroup
	mu        sync.Mutex
	inHand    map[string]bool
}

// serviceAccount is where a pod finds its token.
const serviceAccount = "/var/run/secrets/kubernetes.io/serviceaccount"

// InCluster is a Watcher with the pod's own service account, or nil outside a cluster.
func InCluster(nodeName string, carry Executor, log *slog.Logger) (*Watcher, error) {
	host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return nil, nil
	}
	return New("https://"+net.JoinHostPort(host, port), serviceAccount, nodeName, carry, log)
}

// New is a Watcher that finds ca.crt and token in a directory. The token is read
// anew for each request: the kubelet renews it.
func New(server, dir, nodeName string, carry Executor, log *slog.Logger) (*Watcher, error) {
	ca, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		return nil, fmt.Errorf("take orders from %q: %w", server, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("take orders from %q: %q holds no certificate", server, filepath.Join(dir, "ca.crt"))
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	// A connection that is dead without a word is found out, and orders are seen again.
	transport.HTTP2 = &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 10 * time.Second}
	transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	return &Watcher{
		Server: server, Client: &http.Client{Transport: transport}, Node: nodeName, Carry: carry, Log: log,
		Token: func() (string, error) {
			token, err := os.ReadFile(filepath.Join(dir, "token"))
			return strings.TrimSpace(string(token)), err
		},
	}, nil
}

// Connected reports whether orders would be seen now.
func (w *Watcher) Connected() bool { return w.connected.Load() }

// object is a ContainmentOrder, as far as we read it.
type object struct {
	Metadata struct {
		Name            string `json:"name"`
		ResourceVersion string `json:"resourceVersion"`
	} `json:"metadata"`
	Spec   sensorapi.Order        `json:"spec"`
	Status *sensorapi.OrderStatus `json:"status"`
}

const (
	watchTime = 5 * time.Minute // after which the server ends a watch, and we list again
	maxPause  = 8 * time.Second // less than Contain waits for an order
	atOnce    = 16              // orders in hand
)

// Run takes orders until ctx ends. What fails is tried again, for ever.
func (w *Watcher) Run(ctx context.Context) error {
	w.inHand = map[string]bool{}
	slots := make(chan struct{}, atOnce)
	defer w.work.Wait()
	take := func(o object) {
		if !w.begin(o) {
			return
		}
		w.work.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots; w.end(o) }()
			w.carryOut(ctx, o)
		})
	}
	for pause := time.Second; ctx.Err() == nil; {
		err := w.session(ctx, take)
		w.connected.Store(false)
		if ctx.Err() != nil {
			break
		}
		if err == nil { // the server ended the watch in its time
			pause = time.Second
			continue
		}
		w.Log.Warn("no orders can be taken now", "error", err.Error(), "again in", pause)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, maxPause)
	}
	return nil
}

// begin reports whether an order is to be carried out, and is not in hand.
func (w *Watcher) begin(o object) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if o.Status != nil || w.inHand[o.Metadata.Name] || o.Spec.Node != w.Node {
		return false
	}
	w.inHand[o.Metadata.Name] = true
	return true
}

func (w *Watcher) end(o object) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.inHand, o.Metadata.Name)
}

// session lists what is there, then watches what comes.
func (w *Watcher) session(ctx context.Context, take func(object)) error {
	var list struct {
		Metadata struct {
			ResourceVersion string `json:"resourceVersion"`
		} `json:"metadata"`
		Items []object `json:"items"`
	}
	var frozen []string // before what is there is known: a freeze that is made now has an object
	if w.Frozen != nil {
		var err error
		if frozen, err = w.Frozen(); err != nil {
			return fmt.Errorf("look at what is frozen: %w", err)
		}
	}
	resp, err := w.do(ctx, http.MethodGet, "", w.selector(nil), nil)
	if err != nil {
		return err
	}
	err = json.NewDecoder(io.LimitReader(resp.Body, 64<<20)).Decode(&list)
	resp.Body.Close()
	if err != nil {
		return fmt.Errorf("list orders: %w", err)
	}
	for _, o := range list.Items {
		take(o)
	}
	for _, id := range frozen {
		if !slices.ContainsFunc(list.Items, func(o object) bool { return o.Metadata.Name == id }) {
			w.withdraw(ctx, id)
		}
	}
	resp, err = w.do(ctx, http.MethodGet, "", w.selector(url.Values{
		"watch": {"1"}, "resourceVersion": {list.Metadata.ResourceVersion}, "allowWatchBookmarks": {"true"},
		"timeoutSeconds": {fmt.Sprint(int(watchTime.Seconds()))},
	}), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	w.connected.Store(true)
	return w.follow(ctx, resp.Body, take)
}

// follow reads events until the stream ends.
func (w *Watcher) follow(ctx context.Context, stream io.Reader, take func(object)) error {
	d := json.NewDecoder(stream)
	for {
		var e struct {
			Type   string          `json:"type"`
			Object json.RawMessage `json:"object"`
		}
		if err := d.Decode(&e); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("watch orders: %w", err)
		}
		switch e.Type {
		case "ADDED", "MODIFIED", "DELETED":
			var o object
			if err := json.Unmarshal(e.Object, &o); err != nil {
				w.Log.Warn("an order cannot be read", "error", err.Error())
				continue
			}
			if e.Type == "DELETED" {
				w.work.Go(func() { w.withdraw(ctx, o.Metadata.Name) }) // it may take its time
				continue
			}
			take(o)
		case "ERROR": // too old a version, most often: list again
			return fmt.Errorf("watch orders: %s", e.Object[:min(len(e.Object), 300)])
		}
	}
}

func (w *Watcher) selector(q url.Values) url.Values {
	if q == nil {
		q = url.Values{}
	}
	q.Set("labelSelector", sensorapi.OrderNodeLabel+"="+w.Node)
	return q
}

// tries of an order that fails in a way that may pass.
const tries = 4

func (w *Watcher) carryOut(ctx context.Context, o object) {
	status := sensorapi.OrderStatus{ID: o.Spec.ID}
	if o.Spec.ID != o.Metadata.Name {
		status.ID, status.Refused, status.Error = o.Metadata.Name, true, "refused: the order's id is not its name"
	} else {
		status = w.try(ctx, o.Spec)
	}
	if status.At.IsZero() {
		status.At = time.Now().UTC()
	}
	refusals := 0
	for pause := 100 * time.Millisecond; ctx.Err() == nil; pause = min(2*pause, maxPause) {
		err := w.tell(ctx, o.Metadata.Name, status)
		if err == nil {
			return
		}
		var refused *refusal
		if errors.As(err, &refused) && refused.status != http.StatusTooManyRequests && refused.status < 500 {
			refusals++
		}
		// A token that is just renewed, or a conflict, may pass; what is gone or not taken does not.
		if refused != nil && (refused.status == http.StatusNotFound || refused.status == http.StatusUnprocessableEntity || refusals > tries) {
			w.Log.Warn("what came of an order cannot be told", "order", o.Metadata.Name, "error", err.Error())
			if refused.status == http.StatusNotFound {
				w.withdraw(ctx, o.Metadata.Name)
			}
			return // it is gone, or not ours
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// withdraw ends the freeze of an order that is no more: it was given up before it
// could be answered, or somebody has deleted it.
func (w *Watcher) withdraw(ctx context.Context, id string) {
	if w.Withdrawn == nil {
		return
	}
	if err := w.Withdrawn(ctx, id); err != nil {
		w.Log.Warn("the freeze of an order that was withdrawn cannot be ended yet", "order", id, "error", err.Error())
	}
}

func (w *Watcher) try(ctx context.Context, o sensorapi.Order) sensorapi.OrderStatus {
	status := sensorapi.OrderStatus{ID: o.ID}
	for i := range tries {
		s, refused, err := w.Carry(ctx, o)
		if err == nil {
			return s
		}
		status.Error, status.Refused = err.Error(), refused
		if refused || ctx.Err() != nil {
			break
		}
		time.Sleep(time.Duration(i+1) * 250 * time.Millisecond)
	}
	return status
}

func (w *Watcher) tell(ctx context.Context, name string, s sensorapi.OrderStatus) error {
	if len(s.Error) > 4000 {
		s.Error = s.Error[:4000]
	}
	body, err := json.Marshal(map[string]any{"status": s})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	resp, err := w.do(ctx, http.MethodPatch, "/"+url.PathEscape(name)+"/status", nil, body)
	if err == nil {
		resp.Body.Close()
	}
	return err
}

// refusal is an answer of the API server that is not 2xx.
type refusal struct {
	status int
	text   string
}

func (r *refusal) Error() string {
	return fmt.Sprintf("the API server answers %d: %s", r.status, r.text)
}

func (w *Watcher) do(ctx context.Context, method, path string, q url.Values, body []byte) (*http.Response, error) {
	address := fmt.Sprintf("%s/apis/%s/%s/namespaces/%s/%s%s", w.Server, sensorapi.OrderGroup, sensorapi.OrderVersion, sensorapi.OrderNamespace, sensorapi.OrderPlural, path)
	if q != nil {
		address += "?" + q.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	token, err := w.Token()
	if err != nil {
		return nil, fmt.Errorf("read the service account's token: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Accept", "application/json")
	if body != nil {
		req.Header.Set("Content-Type", "application/merge-patch+json")
	}
	resp, err := w.Client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 != 2 {
		defer resp.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		return nil, &refusal{resp.StatusCode, strings.TrimSpace(string(text))}
	}
	return resp, nil
}
