package web

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/contraband-dev/contraband/internal/expected"
)

// exception is what people see of one that was declared.
type exception struct {
	expected.Exception
	Scope string `json:"scope"`
	State string `json:"state"` // "in effect", "expired", or by whom it was revoked
	Cases int    `json:"cases"` // in which it matched
	Draft string `json:"draft"` // the entry for the policy file
}

// declared returns the exceptions that people have declared, the newest first.
func (b *book) declared(ctx context.Context) ([]exception, error) {
	all, err := expected.Read(ctx, b.log.Objects, "")
	if err != nil || len(all) == 0 {
		return nil, err
	}
	counts, err := b.matches(ctx)
	if err != nil {
		return nil, err
	}
	var out []exception
	for _, e := range slices.Backward(all) {
		draft, err := e.Draft()
		if err != nil {
			return nil, err
		}
		x := exception{Exception: e, Scope: e.Scope(), State: "in effect", Cases: counts[e.ID], Draft: draft}
		switch {
		case e.Revoked != "":
			x.State = "revoked by " + e.Revoked
		case time.Now().After(e.Until):
			x.State = "expired"
		}
		out = append(out, x)
	}
	return out, nil
}

// matches returns in how many cases each exception matched.
func (b *book) matches(ctx context.Context) (map[string]int, error) {
	all, err := b.cases(ctx)
	counts := map[string]int{}
	for _, c := range all {
		seen := map[string]bool{}
		for _, p := range c.Programs {
			if p.Expected != "" && !seen[p.Expected] {
				seen[p.Expected] = true
				counts[p.Expected]++
			}
		}
	}
	return counts, err
}

func (b *book) exceptions(w http.ResponseWriter, r *http.Request) {
	all, err := b.declared(r.Context())
	b.render(w, "exceptions", all, err)
}

func (b *book) exceptionsJSON(w http.ResponseWriter, r *http.Request) {
	all, err := b.declared(r.Context())
	answer(w, all, err)
}

// revoke ends an exception: the next finding that it matched is paged again.
func (b *book) revoke(w http.ResponseWriter, r *http.Request) {
	who, _ := r.Context().Value(visitorKey{}).(string)
	if why := b.refusesVisitor(who); why != "" {
		http.Error(w, why, http.StatusForbidden)
		return
	}
	all, err := expected.Read(r.Context(), b.log.Objects, "")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	i := slices.IndexFunc(all, func(e expected.Exception) bool { return e.ID == r.PathValue("id") })
	if i < 0 {
		http.Error(w, "there is no such exception", http.StatusNotFound)
		return
	}
	if err := expected.Revoke(r.Context(), b.log.Objects, all[i], who); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if strings.HasPrefix(r.URL.Path, "/api/") {
		answer(w, struct{}{}, nil)
		return
	}
	http.Redirect(w, r, "/exceptions", http.StatusSeeOther)
}
