package functions_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/contraband-dev/contraband/functions/advance"
	"github.com/contraband-dev/contraband/internal/cases"
	fakeslack "github.com/contraband-dev/contraband/internal/fake/slack"
	fakeworkflows "github.com/contraband-dev/contraband/internal/fake/workflows"
	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/internal/funcserver"
	"github.com/contraband-dev/contraband/internal/policy"
	"github.com/contraband-dev/contraband/internal/scc"
	"github.com/contraband-dev/contraband/internal/sensorapi"
	"github.com/contraband-dev/contraband/internal/workflowlang"
	caseflow "github.com/contraband-dev/contraband/workflows"
)

const workflowName = "projects/p/locations/l/workflows/case"

const caseID = "0123456789abcdef"

// desk is a suite with an open case, and Slack.
type desk struct {
	*pipeline
	t     *testing.T
	slack *fakeslack.Server
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	s, _, _ := start(t, nil)
	f, err := s.Log.Read(t.Context(), caseID, "test")
	if err == nil {
		_, err = f.Append(t.Context(), cases.KindDecided, cases.Decided{Key: "k"})
	}
	if err == nil {
		err = f.Release(t.Context())
	}
	d := &desk{pipeline: s, t: t}
	if err == nil {
		d.slack, err = fakeslack.Open(filepath.Join(t.TempDir(), "slack.db"))
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.slack.Close() })
	web := httptest.NewServer(http.HandlerFunc(s.Interact))
	t.Cleanup(web.Close)
	d.slack.Interact = fakeslack.Interactivity{URL: web.URL, SigningSecret: signingSecret}
	return d
}

// press posts what Slack does when ann says that the case is harmless.
func (d *desk) press() {
	d.t.Helper()
	payload := `{"type":"block_actions","user":{"id":"U1","name":"ann"},"trigger_id":"t","actions":[{"type":"button","block_id":"buttons","action_id":"` +
		cases.ActionExpected + `","value":"` + caseID + `","action_ts":"1.2"}]}`
	status, err := d.slack.Send(d.t.Context(), []byte(url.Values{"payload": {payload}}.Encode()), time.Now())
	if err != nil || status != http.StatusOK {
		d.t.Fatalf("%d, %v", status, err)
	}
}

// waiting is a desk whose cases the deployed workflow drives.
type waiting struct {
	*desk
	flows *fakeworkflows.Server
	posts atomic.Int64     // to Advance
	ended atomic.Int64     // of them, those that were answered
	first http.HandlerFunc // handles the first of them, if it is not nil
	fault func(execution, call string) error
}

// newWaiting starts one whose executions end before the step dieAt, "" for none.
func newWaiting(t *testing.T, dieAt string) *waiting {
	t.Helper()
	w := &waiting{desk: newDesk(t)}
	api := httptest.NewServer(w.slack.Handler())
	t.Cleanup(api.Close)
	w.slack.Token, w.Config.SlackToken, w.Config.SlackChannel, w.Parts.SlackAPI = "xoxb-test", "xoxb-test", fakeslack.Channel, api.URL+"/api/"
	d, err := workflowlang.Parse(caseflow.Case)
	if err != nil {
		t.Fatal(err)
	}
	advance := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		defer w.ended.Add(1)
		if w.posts.Add(1) == 1 && w.first != nil {
			w.first(rw, r)
			return
		}
		w.Advance(rw, r)
	}))
	t.Cleanup(advance.Close)
	w.flows, err = fakeworkflows.Start(fakeworkflows.Config{
		Workflow: workflowName, Definition: d, Env: map[string]string{"ADVANCE_URL": advance.URL, "ADVANCE_AUDIENCE": advance.URL},
		Observe: func(_, step string) error {
			if step == dieAt {
				return errors.New("the machine is gone")
			}
			return nil
		},
		Token: "the function's own", Fault: func(execution, call string) error {
			if w.fault == nil {
				return nil
			}
			return w.fault(execution, call)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.flows.Close() })
	w.Config.Workflow, w.Config.CallbackPrefix, w.Base.Config.AdvanceURL = workflowName, w.flows.CallbackPrefix(), advance.URL
	w.Parts.Executions, w.Base.Parts.Callbacks = w.flows.Options(), w.flows.CallbackClient()
	return w
}

// eventuallyLimit is far above what any step takes, for a busy machine.
const eventuallyLimit = 2 * time.Minute

func (w *waiting) eventually(what string, ok func() bool) {
	w.t.Helper()
	for until := time.Now().Add(eventuallyLimit); time.Now().Before(until); time.Sleep(10 * time.Millisecond) {
		if ok() {
			return
		}
	}
	w.t.Fatalf("%s: not within %s; executions %v", what, eventuallyLimit, w.flows.States())
}

func (w *waiting) closed() bool {
	w.t.Helper()
	f, err := w.Log.Read(w.t.Context(), caseID, "look")
	if err != nil {
		w.t.Fatal(err)
	}
	return f.IsClosed()
}

// isWaiting reports whether the first request to Advance was answered and has left a
// callback. While it runs, it would take a click itself, and the workflow would end
// without having waited.
func (w *waiting) isWaiting() bool { return w.ended.Load() == 1 && w.resumable() }

func (w *waiting) resumable() bool {
	url, err := w.Log.Callback(w.t.Context(), caseID)
	return err == nil && url != ""
}

// TestWorkflowDrivesACase: it waits for a press, which resumes it, and it ends with
// the case; a second execution ends itself.
func TestWorkflowDrivesACase(t *testing.T) {
	w := newWaiting(t, "")
	if _, err := w.StartWorkflow(t.Context(), caseID); err != nil {
		t.Fatal(err)
	}
	w.eventually("the workflow waits", func() bool { return w.isWaiting() })
	if _, err := w.StartWorkflow(t.Context(), caseID); err != nil {
		t.Fatal(err)
	}
	w.eventually("the second ends itself", func() bool { return w.flows.States()["SUCCEEDED"] == 1 })
	if got := fmt.Sprint(w.flows.Results()); !strings.Contains(got, "another execution has the case") {
		t.Errorf("it ended with %s", got)
	}
	w.press()
	w.eventually("the press closes the case, and the workflow ends", func() bool { return w.closed() && w.flows.States()["SUCCEEDED"] == 2 })
	if n := w.posts.Load(); n != 3 {
		t.Errorf("Advance was called %d times, want 3: by the first, the second, and after the press", n)
	}
}

// TestRespondStartsIt: a finding opens a case, and when that has come to rest one execution
// drives it, labelled with it.
func TestRespondStartsIt(t *testing.T) {
	w := newWaiting(t, "")
	rules, err := policy.Load("")
	if err == nil {
		w.Responder, err = w.NewResponder(rules) // one that starts it
	}
	if err != nil {
		t.Fatal(err)
	}
	d := sensorapi.Detection{Time: time.Now(), Route: sensorapi.Added, Node: "n1", Process: sensorapi.Process{Path: "/tmp/x"}, File: sensorapi.File{SHA256: strings.Repeat("a", 64), Size: 1}, Container: sensorapi.Container{ID: "c1"}}
	_, f, err := scc.FromDetection(d, finding.Place{Project: "p", Location: "l", Cluster: "c"}, source, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	f.CanonicalName = "projects/1/sources/1/findings/f"
	body, err := scc.Notification("", f, nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // Pub/Sub brings it twice
		if err := w.Respond(t.Context(), event(t, "projects/p/topics/findings", body)); err != nil {
			t.Fatal(err)
		}
	}
	w.eventually("the workflow asks", func() bool { return w.posts.Load() == 1 })
	ids, err := w.Log.Cases(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	opened := slices.DeleteFunc(ids, func(id string) bool { return id == caseID })
	if labels := w.flows.Labels(); len(opened) != 1 || len(labels) != 1 || labels[0]["case"] != opened[0] {
		t.Errorf("cases %q, executions %v", opened, labels)
	}
}

// TestInteractsIdentity: a callback is called with a token of the function's own identity,
// for Google's cloud; where there is none the press still brings the case on.
func TestInteractsIdentity(t *testing.T) {
	for token, resumed := range map[string]bool{"the function's own": true, "another's": false} {
		t.Run(token, func(t *testing.T) {
			issuer := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				rw.Header().Set("Content-Type", "application/json")
				json.NewEncoder(rw).Encode(map[string]any{"access_token": token, "token_type": "Bearer", "expires_in": 3600})
			}))
			t.Cleanup(issuer.Close)
			file := filepath.Join(t.TempDir(), "credentials.json")
			if err := os.WriteFile(file, []byte(`{"type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": "r", "token_uri": "`+issuer.URL+`"}`), 0o600); err != nil {
				t.Fatal(err)
			}
			t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", file)
			w := newWaiting(t, "")
			w.Base.Parts.Callbacks = nil
			if _, err := w.StartWorkflow(t.Context(), caseID); err != nil {
				t.Fatal(err)
			}
			w.eventually("the workflow waits", func() bool { return w.isWaiting() })
			w.press()
			w.eventually("the press closes the case", w.closed)
			if ended := w.flows.States()["SUCCEEDED"] == 1; !resumed && ended {
				t.Error("a callback was called with another's token")
			}
			if resumed {
				w.eventually("the workflow is resumed", func() bool { return w.flows.States()["SUCCEEDED"] == 1 })
			}
		})
	}
}

// TestWorkflowDies: ended before any of its steps, the case continues: a click that
// finds no one waiting calls Advance itself, and what it does not reach the sweep does.
func TestWorkflowDies(t *testing.T) {
	d, err := workflowlang.Parse(caseflow.Case)
	if err != nil {
		t.Fatal(err)
	}
	refuses := func(code int) http.HandlerFunc {
		return func(rw http.ResponseWriter, _ *http.Request) { http.Error(rw, "no", code) }
	}
	// What leads to those that an execution does not come to by itself.
	leads := map[string]func(*waiting){
		"judge":     func(w *waiting) { w.first = refuses(http.StatusServiceUnavailable) },
		"permanent": func(w *waiting) { w.first = refuses(http.StatusNotFound) },
		"only_time_may_pass": func(w *waiting) {
			w.first = func(rw http.ResponseWriter, _ *http.Request) {
				funcserver.Reply(rw, advance.Reply{WaitSeconds: 1}, nil)
			}
		},
		"tell": func(w *waiting) {
			w.fault = func(string, string) error { return workflowlang.Raise("ValueError", "odd", 0) }
		},
	}
	for _, at := range d.Steps() {
		t.Run(at, func(t *testing.T) {
			t.Parallel()
			w := newWaiting(t, at)
			if lead := leads[at]; lead != nil {
				lead(w)
			}
			if _, err := w.StartWorkflow(t.Context(), caseID); err != nil {
				t.Fatal(err)
			}
			if at == "again" || at == "finish" { // only a press leads there
				w.eventually("it waits", func() bool { return w.isWaiting() })
			} else {
				w.eventually("it has died", func() bool { return w.flows.States()["FAILED"] == 1 })
			}
			w.press()
			w.eventually("the press closes the case, by the sweep if need be", func() bool {
				w.Sweep(httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", nil))
				return w.closed() && w.flows.States()["FAILED"] == 1
			})
		})
	}
}

// TestSweepSuffices: with no workflow, and Advance out of reach of the press.
func TestSweepSuffices(t *testing.T) {
	d := newDesk(t)
	d.Base.Config.AdvanceURL = "http://127.0.0.1:9/"
	d.press()
	advance := httptest.NewServer(http.HandlerFunc(d.Advance)) // it is back
	t.Cleanup(advance.Close)
	d.Base.Config.AdvanceURL = advance.URL
	d.Log.Now = func() time.Time { return time.Now().Add(2 * time.Second) } // the next minute's sweep
	sweep := httptest.NewRecorder()
	d.Sweep(sweep, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", nil))
	f, err := d.Log.Read(t.Context(), caseID, "look")
	if err != nil || !f.IsClosed() {
		t.Errorf("after the sweep (%d %s) the case is open: %v", sweep.Code, sweep.Body, err)
	}
}

// TestAdvanceRefusesStrangers: a token of ours is sent to no address but Workflows'.
func TestAdvanceRefusesStrangers(t *testing.T) {
	w := newWaiting(t, "")
	for _, url := range []string{"https://elsewhere.example/v1/x", "http://169.254.169.254/", w.flows.CallbackPrefix()[:10]} {
		b, err := json.Marshal(funcserver.AdvanceRequest{Case: caseID, Execution: "e", Callback: url})
		if err != nil {
			t.Fatal(err)
		}
		rw := httptest.NewRecorder()
		w.Advance(rw, httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", bytes.NewReader(b)))
		if rw.Code != http.StatusUnprocessableEntity || w.resumable() {
			t.Errorf("%s: %d", url, rw.Code)
		}
	}
}
