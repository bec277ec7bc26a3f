// Package casebook owns the pages that people read: the list of cases, one
// case's timeline, evidence and commands, and its buttons. A button writes a
// click to the case log and nothing else.
package web

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/contraband-dev/contraband/internal/blobstore"
	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/cases/caselog"
	"github.com/contraband-dev/contraband/internal/cases/casetext"
	"github.com/contraband-dev/contraband/internal/incidents/incidentlog"
	"github.com/contraband-dev/contraband/internal/web/safetext"
)

//go:embed casebook.html
var pages string

//go:embed casebook.css
var style string

type book struct {
	log      *caselog.Store
	clicked  func(ctx context.Context, caseID string)
	visitors Visitors
	page     *template.Template
	policy   string // Content-Security-Policy
}

// Visitors says who looks, and who may press.
type Visitors struct {
	// Who answers whom a request is verified to come from; to whom it answers an error
	// nothing is shown. nil: whoever reaches the pages, by no name.
	Who func(*http.Request) (string, error)
	// May reports whether somebody may press. nil: whoever reaches the pages.
	May func(who string) bool
}

// anybody is who looks where nobody says who.
const anybody = "a visitor of the casebook"

type visitorKey struct{}

// known lets in whom Who knows.
func (v Visitors) known(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who := anybody
		if v.Who != nil {
			var err error
			if who, err = v.Who(r); err != nil {
				http.Error(w, err.Error(), http.StatusUnauthorized)
				return
			}
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), visitorKey{}, who)))
	})
}

// Handler serves GET / (the list), GET /cases/{id}, GET /cases/{id}/evidence,
// POST /cases/{id}/press, GET /exceptions, POST /exceptions/{id}/revoke, and the same as
// JSON below /api/. After a click is on
// record clicked is told.
func Handler(log *caselog.Store, visitors Visitors, clicked func(ctx context.Context, caseID string)) http.Handler {
	sum := sha256.Sum256([]byte(style))
	b := &book{log: log, clicked: clicked, visitors: visitors,
		page: template.Must(template.New("casebook").Funcs(template.FuncMap{
			"css": func() template.CSS { return template.CSS(style) }, "since": since, "stamp": stamp, "steps": casetext.Steps, "actions": casetext.Actions, "named": casetext.FindingFields,
			"headline": casetext.Headline, "label": casetext.Label, "short": func(s string) string { return safetext.Middle(safetext.Escape(s), listWidth) },
		}).Parse(pages)),
		// Nothing from elsewhere, no script at all, one style by its hash.
		policy: "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", b.list)
	mux.HandleFunc("GET /cases/{id}", b.one)
	mux.HandleFunc("GET /cases/{id}/evidence", b.evidence)
	mux.HandleFunc("POST /cases/{id}/press", b.press)
	mux.HandleFunc("GET /exceptions", b.exceptions)
	mux.HandleFunc("POST /exceptions/{id}/revoke", b.revoke)
	mux.HandleFunc("GET /api/exceptions", b.exceptionsJSON)
	mux.HandleFunc("POST /api/exceptions/{id}/revoke", b.revoke)
	mux.HandleFunc("GET /api/cases", b.listJSON)
	mux.HandleFunc("GET /api/cases/{id}", b.oneJSON)
	// A form of another site cannot press a button.
	return http.NewCrossOriginProtection().Handler(b.headers(visitors.known(mux)))
}

func (b *book) headers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", b.policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

// cases are all, the newest first.
func (b *book) cases(ctx context.Context) ([]cases.Case, error) {
	ids, err := b.log.Cases(ctx)
	if err != nil {
		return nil, err
	}
	var out []cases.Case
	for _, id := range ids {
		c, _, err := b.read(ctx, id)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b cases.Case) int { return b.Opened.Compare(a.Opened) })
	return out, nil
}

var errNoCase = errors.New("there is no such case")

var errNoID = errors.New("this cannot be the ID of a case")

func (b *book) read(ctx context.Context, id string) (cases.Case, []caselog.Event, error) {
	c, events, err := incidentlog.Case(ctx, b.log, id)
	if err == nil && len(events) == 0 && c.Damaged == "" {
		return c, nil, errNoCase
	}
	return c, events, err
}

// requested is read for an ID that a visitor gives.
func (b *book) requested(r *http.Request) (cases.Case, []caselog.Event, error) {
	id := r.PathValue("id")
	if strings.ContainsFunc(id, func(r rune) bool { return r <= ' ' || r > '~' || r == '/' }) {
		return cases.Case{}, nil, errNoID
	}
	if !caselog.IsID(id) {
		return cases.Case{}, nil, errNoCase
	}
	return b.read(r.Context(), id)
}

func (b *book) list(w http.ResponseWriter, r *http.Request) {
	all, err := b.cases(r.Context())
	b.render(w, "list", all, err)
}

// listWidth is the most columns of a value in the list; the case's page shows it whole.
const listWidth = 80

// view is what one case's page shows.
type view struct {
	cases.Case
	Timeline []casetext.TimelineEntry
	Waiting  bool // steps are under way: the page looks again by itself
}

func (b *book) one(w http.ResponseWriter, r *http.Request) {
	c, events, err := b.requested(r)
	v := view{c, casetext.Timeline(c, events), time.Since(c.Updated) < 30*time.Second && c.Closed == nil}
	b.render(w, "case", v, err)
}

func (b *book) render(w http.ResponseWriter, name string, v any, err error) {
	if err != nil {
		http.Error(w, err.Error(), statusOf(err))
		return
	}
	var page strings.Builder
	if err := b.page.ExecuteTemplate(&page, name, v); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	// The template escapes for HTML. What reorders or hides text is no markup, and is made
	// visible here, wherever it stands.
	io.WriteString(w, layout.ReplaceAllStringFunc(page.String(), safetext.Escape))
}

// layout matches what is between line breaks and tabs.
var layout = regexp.MustCompile(`[^\n\t]+`)

// evidence is handed out as bytes to keep, never to be shown or run: the program,
// or the item that ?item= names.
func (b *book) evidence(w http.ResponseWriter, r *http.Request) {
	c, _, err := b.requested(r)
	claim := c.Claim(cases.Evidence)
	if err != nil || claim == nil || claim.Outcome == nil {
		http.Error(w, "there is no evidence", http.StatusNotFound)
		return
	}
	sum, name := claim.Outcome.SHA256, claim.Outcome.SHA256+".bin"
	if item := r.URL.Query().Get("item"); item != "" {
		i := slices.IndexFunc(claim.Outcome.Items, func(i cases.Item) bool { return i.Name == item })
		if i < 0 {
			http.Error(w, "there is no such item", http.StatusNotFound)
			return
		}
		sum, name = claim.Outcome.Items[i].SHA256, path.Base(item)
	}
	if sum == "" {
		http.Error(w, "it was not saved", http.StatusNotFound)
		return
	}
	body, err := b.log.Objects.Read(r.Context(), blobstore.EvidenceKey(sum))
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": name}))
	w.Write(body)
}

func (b *book) press(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	if _, _, err := b.requested(r); err != nil {
		http.Error(w, err.Error(), statusOf(err))
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, 4<<10)
	what := r.PostFormValue("what")
	if !cases.IsClickAction(what) {
		http.Error(w, "there is no such button", http.StatusBadRequest)
		return
	}
	who, _ := r.Context().Value(visitorKey{}).(string)
	if why := b.refusesVisitor(who); why != "" { // logged, not stored: clicks are cheap to make
		slog.WarnContext(r.Context(), "click refused", "case", id, "what", what, "by", who, "reason", why)
		http.Error(w, why, http.StatusForbidden)
		return
	}
	k := cases.Click{ID: uuid.NewString(), What: what, By: who, At: time.Now().UTC()}
	if shown := r.PostFormValue("decision"); shown != "" {
		n, err := strconv.Atoi(shown)
		if err != nil {
			http.Error(w, "there is no such decision", http.StatusBadRequest)
			return
		}
		k.Decision = &n
	}
	if k.What == cases.ActionExpected {
		if err := k.Expect(r.PostFormValue("scope"), r.PostFormValue("until"), r.PostFormValue("reason")); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
	}
	body, err := json.Marshal(k)
	if err == nil {
		err = b.log.Click(r.Context(), id, k.ID, body)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	b.clicked(r.Context(), id)
	http.Redirect(w, r, "/cases/"+id, http.StatusSeeOther)
}

// refusesVisitor returns why somebody may not click, or "".
func (b *book) refusesVisitor(who string) string {
	switch {
	case b.visitors.May == nil || b.visitors.May(who):
		return ""
	case b.visitors.Who == nil:
		return "it is not known here who you are, and only approvers may click: put Identity-Aware Proxy before the casebook, or click in Slack"
	}
	return "you are not among those who may click (CONTRABAND_APPROVERS)"
}

func (b *book) listJSON(w http.ResponseWriter, r *http.Request) {
	all, err := b.cases(r.Context())
	answer(w, all, err)
}

func (b *book) oneJSON(w http.ResponseWriter, r *http.Request) {
	c, events, err := b.requested(r)
	answer(w, map[string]any{"case": c, "timeline": casetext.Timeline(c, events), "events": events}, err)
}

func answer(w http.ResponseWriter, v any, err error) {
	if err != nil {
		http.Error(w, err.Error(), statusOf(err))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v)
}

func statusOf(err error) int {
	switch {
	case errors.Is(err, errNoID):
		return http.StatusBadRequest
	case errors.Is(err, errNoCase):
		return http.StatusNotFound
	}
	return http.StatusInternalServerError
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05") }

func since(from, t time.Time) string {
	if from.IsZero() || t.IsZero() {
		return ""
	}
	return fmt.Sprintf("%+d ms", t.Sub(from).Milliseconds())
}
