package web_test

import (
	"context"
	"encoding/json"
	"fmt"
	"html"
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
