package web_test

import (
	"context"
	"encoding/json"
	"fmt"
	"html"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"strings"
	"testing"

	"github.com/contraband-dev/contraband/internal/blobstore"
	"github.com/contraband-dev/contraband/internal/cases/caselog"
	"github.com/contraband-dev/contraband/internal/cases/casetext"
	"github.com/contraband-dev/contraband/internal/testenv/samplecases"
	"github.com/contraband-dev/contraband/internal/web"
)

func TestCasePageOfEachStateIsCompleteAndOffersItsActions(t *testing.T) {
	for _, s := range samplecases.States() {
		t.Run(s.Name, func(t *testing.T) {
			body := getCasePage(t, s)
			if !strings.Contains(body, "</html>") { // a template that fails stops in the middle
				t.Fatalf("the page is cut off:\n%s", body)
			}
			for _, a := range casetext.Actions(s.Case) {
				if !strings.Contains(body, `name="what" value="`+a.ID+`"`) || !strings.Contains(body, html.EscapeString(a.Label)) {
					t.Errorf("action %q (%s) is not offered", a.ID, a.Label)
				}
			}
		})
	}
}

func getCasePage(t *testing.T, s samplecases.State) string {
	t.Helper()
	objects, err := blobstore.Open(t.Context(), "mem://")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range s.Events {
		whole, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		if err := objects.Create(t.Context(), fmt.Sprintf("events/%s/%010d.json", s.Case.ID, e.N), whole); err != nil {
			t.Fatal(err)
		}
	}
	handler := web.Handler(&caselog.Store{Objects: objects}, web.Visitors{}, func(context.Context, string) {})
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", "/cases/"+s.Case.ID, nil))
	return w.Body.String()
}

func TestWebDoesNotLinkSlack(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(out), "slack-go") {
		t.Error("internal/web imports slack-go")
	}
}

// TestFormOfAnotherSiteIsRefused: a page elsewhere that posts to the casebook with the
// visitor's session changes nothing.
func TestFormOfAnotherSiteIsRefused(t *testing.T) {
	objects, err := blobstore.Open(t.Context(), "mem://")
	if err != nil {
		t.Fatal(err)
	}
	s := samplecases.States()[0]
	for _, e := range s.Events {
		whole, err := json.Marshal(e)
		if err == nil {
			err = objects.Create(t.Context(), fmt.Sprintf("events/%s/%010d.json", s.Case.ID, e.N), whole)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	handler := web.Handler(&caselog.Store{Objects: objects}, web.Visitors{}, func(context.Context, string) {})
	for site, want := range map[string]int{"cross-site": http.StatusForbidden, "same-site": http.StatusForbidden, "same-origin": http.StatusSeeOther} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/cases/"+s.Case.ID+"/press", strings.NewReader("what=close"))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Sec-Fetch-Site", site)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("%s: %d %s, want %d", site, w.Code, w.Body, want)
		}
	}
	clicks, err := objects.List(t.Context(), "clicks/")
	if err != nil || len(clicks) != 1 {
		t.Errorf("%d clicks are on record, want that of the casebook's own page: %v", len(clicks), err)
	}
}
