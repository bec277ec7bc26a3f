package web_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/contraband-dev/contraband/internal/blobstore"
	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/cases/caselog"
	"github.com/contraband-dev/contraband/internal/expected"
	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/internal/web"
)

func TestDeclaredExceptionIsShownCountedAndRevoked(t *testing.T) {
	store, err := blobstore.Open(t.Context(), "mem://")
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	log := &caselog.Store{Objects: store, Lease: cases.Lease}
	f := finding.Finding{Category: finding.AddedBinary, Pod: finding.Pod{Namespace: "shop", Name: "web-0"}, Process: finding.Process{Path: "/x", SHA256: strings.Repeat("a", 64)}}
	declared := cases.Case{ID: "c1", Decided: cases.Decided{Finding: f}, Programs: []cases.Program{cases.ProgramOf(f, cases.Verdict{})}}
	all := expected.Of(declared, cases.Click{ID: "k", By: "ann", Reason: "<b>build tool</b>"}, time.Now())
	if err := expected.Record(t.Context(), store, "k", all); err != nil {
		t.Fatal(err)
	}
	c, err := log.Read(t.Context(), "c2", "test")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Append(t.Context(), cases.KindDecided, cases.Decided{Key: "k", Slot: "20261125T100", Finding: f, Expected: all[0].ID, Incident: "inc-1"}); err != nil {
		t.Fatal(err)
	}
	approver := "ann"
	visitors := web.Visitors{Who: func(*http.Request) (string, error) { return approver, nil }, May: func(who string) bool { return who == "ann" }}
	server := httptest.NewServer(web.Handler(log, visitors, func(context.Context, string) {}))
	defer server.Close()
	read := func() (out []struct {
		State, Draft string
		Cases        int
	}) {
		t.Helper()
		resp, err := http.Get(server.URL + "/api/exceptions")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
			t.Fatal(err)
		}
		return out
	}
	revoke := func() int {
		t.Helper()
		resp, err := http.Post(server.URL+"/exceptions/"+all[0].ID+"/revoke", "", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	if got := read(); len(got) != 1 || got[0].State != "in effect" || got[0].Cases != 1 || !strings.Contains(got[0].Draft, "workload: web") {
		t.Errorf("%+v", got)
	}
	page := httptest.NewRecorder()
	web.Handler(log, visitors, nil).ServeHTTP(page, httptest.NewRequest(http.MethodGet, "/exceptions", nil))
	if body := page.Body.String(); page.Code != http.StatusOK || !strings.Contains(body, "&lt;b&gt;build tool") || !strings.Contains(body, "Revoke") {
		t.Errorf("%d: %s", page.Code, body)
	}
	approver = "eve"
	if code := revoke(); code != http.StatusForbidden || read()[0].State != "in effect" {
		t.Errorf("somebody who is not an approver revokes it: %d", code)
	}
	approver = "ann"
	if code := revoke(); code != http.StatusOK || read()[0].State != "revoked by ann" {
		t.Errorf("%d, %+v", code, read())
	}
}
