// Package workflows plays Cloud Workflows: the executions API over its own gRPC,
// callbacks over HTTP, and a runner of the very file that is deployed. Executions
// live in this process: when it ends they end, which the sweep makes good.
package workflows

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"

	"cloud.google.com/go/workflows/executions/apiv1/executionspb"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/contraband-dev/contraband/internal/workflowlang"
)

// Config of a Server. All fields are required but Client, Token, Observe and Fault.
type Config struct {
	Workflow   string // projects/P/locations/L/workflows/W
	Definition *workflowlang.Definition
	Env        map[string]string // user-defined variables
	Client     *http.Client      // nil: http.DefaultClient
	Token      string            // access token that callbacks demand; "": one of this machine's
	Observe    func(execution, step string) error
	Fault      func(execution, call string) error // raised in place of a call of the standard library; nil: none
}

// thisMachine is the token of who has none of Google's.
const thisMachine = "on-this-machine"

// Server is Cloud Workflows.
type Server struct {
	executionspb.UnimplementedExecutionsServer

	cfg      Config
	server   *grpc.Server
	web      *http.Server
	address  string
	callback string // the base of callbacks' addresses
	ctx      context.Context
	cancel   context.CancelFunc
	wg       sync.WaitGroup

	mu         sync.Mutex
	executions map[string]*execution
	callbacks  map[string]*callback // by path
}

type execution struct {
	name   string
	labels map[string]string
	state  executionspb.Execution_State
	result any
	err    error
}

// callback takes one request that is not yet read.
type callback struct {
	of      string // execution
	pending chan map[string]any
}

// Start serves on loopback.
func Start(cfg Config) (*Server, error) {
	cfg.Token = cmp.Or(cfg.Token, thisMachine)
	s := &Server{cfg: cfg, server: grpc.NewServer(), executions: map[string]*execution{}, callbacks: map[string]*callback{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	h, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	s.address, s.callback = l.Addr().String(), "http://"+h.Addr().String()
	executionspb.RegisterExecutionsServer(s.server, s)
	s.web = &http.Server{Handler: http.HandlerFunc(s.called), ReadHeaderTimeout: 10 * time.Second}
	go s.server.Serve(l)
	go s.web.Serve(h)
	return s, nil
}

// Close ends every execution where it is.
func (s *Server) Close() error {
	s.cancel()
	s.server.Stop()
	err := s.web.Close()
	s.wg.Wait()
	return err
}

// Options of a client that is to reach it.
func (s *Server) Options() []option.ClientOption {
	return []option.ClientOption{option.WithEndpoint(s.address), option.WithoutAuthentication(),
		option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials()))}
}

// CallbackPrefix is what callbacks' addresses begin with.
func (s *Server) CallbackPrefix() string { return s.callback + "/" }

// CallbackClient calls callbacks, with a token as they demand one.
func (s *Server) CallbackClient() *http.Client {
	return &http.Client{Transport: withToken(s.cfg.Token)}
}

type withToken string

func (t withToken) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+string(t))
	return http.DefaultTransport.RoundTrip(r)
}

// States counts executions by their state.
func (s *Server) States() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[string]int{}
	for _, e := range s.executions {
		out[e.state.String()]++
	}
	return out
}

// Labels of all executions.
func (s *Server) Labels() (out []map[string]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.executions {
		out = append(out, e.labels)
	}
	return out
}

// Results are what the executions that succeeded have returned.
func (s *Server) Results() (out []any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.executions {
		if e.state == executionspb.Execution_SUCCEEDED {
			out = append(out, e.result)
		}
	}
	return out
}

var labelForm = regexp.MustCompile(`^[a-z0-9_-]{0,63}$`)

// CreateExecution starts one.
func (s *Server) CreateExecution(_ context.Context, r *executionspb.CreateExecutionRequest) (*executionspb.Execution, error) {
	if r.GetParent() != s.cfg.Workflow {
		return nil, status.Errorf(codes.NotFound, "workflow %q does not exist", r.GetParent())
	}
	var argument any
	if text := r.GetExecution().GetArgument(); text != "" {
		if err := json.Unmarshal([]byte(text), &argument); err != nil || len(text) > 32<<10 {
			return nil, status.Error(codes.InvalidArgument, "argument is no JSON, or too large")
		}
	}
	for k, v := range r.GetExecution().GetLabels() {
		if !labelForm.MatchString(k) || k == "" || !labelForm.MatchString(v) {
			return nil, status.Errorf(codes.InvalidArgument, "label %q=%q", k, v)
		}
	}
	e := &execution{name: s.cfg.Workflow + "/executions/" + strings.ToLower(rand.Text()), labels: r.GetExecution().GetLabels(), state: executionspb.Execution_ACTIVE}
	s.mu.Lock()
	s.executions[e.name] = e
	s.mu.Unlock()
	s.wg.Go(func() { s.run(e, argument) })
	return &executionspb.Execution{Name: e.name, State: executionspb.Execution_ACTIVE, Argument: r.GetExecution().GetArgument(), Labels: r.GetExecution().GetLabels()}, nil
}

func (s *Server) run(e *execution, argument any) {
	observe := func(step string) error {
		if s.cfg.Observe == nil {
			return nil
		}
		return s.cfg.Observe(e.name, step)
	}
	result, err := s.cfg.Definition.Run(s.ctx, &env{s, e}, argument, observe)
	s.mu.Lock()
	defer s.mu.Unlock()
	e.result, e.err, e.state = result, err, executionspb.Execution_SUCCEEDED
	if err != nil {
		e.state = executionspb.Execution_FAILED
		slog.Warn("an execution has failed; the sweep goes on with the case", "execution", e.name, "error", err.Error())
	}
	for path, c := range s.callbacks { // an execution's callbacks end with it
		if c.of == e.name {
			delete(s.callbacks, path)
		}
	}
}

// called is a request to a callback.
func (s *Server) called(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Bearer "+s.cfg.Token {
		http.Error(w, "an access token that is known is needed", http.StatusUnauthorized)
		return
	}
	s.mu.Lock()
	c := s.callbacks[r.URL.Path]
	s.mu.Unlock()
	if c == nil {
		http.Error(w, "there is no such callback", http.StatusNotFound)
		return
	}
	if r.Method != http.MethodPost {
		http.Error(w, "POST only", http.StatusMethodNotAllowed)
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	request := map[string]any{"http_request": map[string]any{"body": parsed(r.Header.Get("Content-Type"), body), "method": r.Method, "url": r.URL.Path},
		"received_time": time.Now().UTC().Format(time.RFC3339Nano), "type": "HTTP"}
	select {
	case c.pending <- request:
		w.WriteHeader(http.StatusOK)
	default:
		http.Error(w, "one is waiting to be read", http.StatusTooManyRequests)
	}
}

// env is what one execution reaches.
type env struct {
	s *Server
	e *execution
}

func (v *env) Getenv(name string) (string, bool) {
	if name == "GOOGLE_CLOUD_WORKFLOW_EXECUTION_ID" {
		return v.e.name[strings.LastIndex(v.e.name, "/")+1:], true
	}
	value, ok := v.s.cfg.Env[name]
	return value, ok
}

func (v *env) Sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func (v *env) fault(call string) error {
	if v.s.cfg.Fault == nil {
		return nil
	}
	return v.s.cfg.Fault(v.e.name, call)
}

func (v *env) CreateCallback(_ context.Context, method string) (map[string]any, error) {
	if method != http.MethodPost {
		return nil, workflowlang.Raise("ValueError", fmt.Sprintf("http_callback_method %q", method), 0)
	}
	path := "/v1/" + v.e.name + "/callbacks/" + strings.ToLower(rand.Text())
	v.s.mu.Lock()
	defer v.s.mu.Unlock()
	v.s.callbacks[path] = &callback{of: v.e.name, pending: make(chan map[string]any, 1)}
	return map[string]any{"url": v.s.callback + path}, nil
}

func (v *env) AwaitCallback(ctx context.Context, at map[string]any, timeout time.Duration) (map[string]any, error) {
	if err := v.fault("events.await_callback"); err != nil {
		return nil, err
	}
	url, _ := at["url"].(string)
	v.s.mu.Lock()
	c := v.s.callbacks[strings.TrimPrefix(url, v.s.callback)]
	v.s.mu.Unlock()
	if c == nil || c.of != v.e.name {
		return nil, workflowlang.Raise("ValueError", "it is no callback of this execution", 0)
	}
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case request := <-c.pending:
		return request, nil
	case <-timer.C:
		return nil, workflowlang.Raise("TimeoutError", "no request has come", 0)
	}
}

// Post sends JSON. https://cloud.google.com/workflows/docs/reference/stdlib/http/post
func (v *env) Post(ctx context.Context, args map[string]any) (map[string]any, error) {
	url, _ := args["url"].(string)
	if auth, ok := args["auth"].(map[string]any); ok && (auth["type"] != "OIDC" || auth["audience"] == "") {
		return nil, workflowlang.Raise("AuthError", "auth is not OIDC with an audience", 0)
	}
	body, err := json.Marshal(args["body"])
	if err != nil {
		return nil, workflowlang.Raise("TypeError", err.Error(), 0)
	}
	if seconds, ok := args["timeout"].(int64); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(seconds)*time.Second)
		defer cancel()
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return nil, workflowlang.Raise("ValueError", err.Error(), 0)
	}
	req.Header.Set("Content-Type", "application/json")
	client := v.s.cfg.Client
	if client == nil {
		client = http.DefaultClient
	}
	resp, err := client.Do(req)
	if err != nil {
		if v.s.ctx.Err() != nil {
			return nil, err
		}
		return nil, workflowlang.Raise(tagOf(err), err.Error(), 0)
	}
	defer resp.Body.Close()
	reply, err := io.ReadAll(io.LimitReader(resp.Body, 2<<20))
	if err != nil {
		return nil, workflowlang.Raise(tagOf(err), err.Error(), 0)
	}
	answer := map[string]any{"code": int64(resp.StatusCode), "body": parsed(resp.Header.Get("Content-Type"), reply), "headers": map[string]any{}}
	if resp.StatusCode >= 400 {
		answer["tags"], answer["message"] = []any{"HttpError"}, "HTTP server responded with error code "+resp.Status
		return nil, &workflowlang.Error{Value: answer}
	}
	return answer, nil
}

// tagOf distinguishes a reply that was not waited for from a connection that was never made
// and one that broke. https://cloud.google.com/workflows/docs/reference/syntax/error-types
func tagOf(err error) string {
	var op *net.OpError
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return "TimeoutError"
	case errors.As(err, &op) && op.Op == "dial":
		return "ConnectionFailedError"
	}
	return "ConnectionError"
}

// parsed is a body as a workflow has it: JSON becomes values, numbers without a
// fraction whole ones.
func parsed(contentType string, body []byte) any {
	if !strings.HasPrefix(contentType, "application/json") {
		return string(body)
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	var v any
	if d.Decode(&v) != nil {
		return string(body)
	}
	return whole(v)
}

func whole(v any) any {
	switch x := v.(type) {
	case json.Number:
		if n, err := x.Int64(); err == nil {
			return n
		}
		f, _ := x.Float64()
		return f
	case []any:
		for i := range x {
			x[i] = whole(x[i])
		}
	case map[string]any:
		for k := range x {
			x[k] = whole(x[k])
		}
	}
	return v
}
