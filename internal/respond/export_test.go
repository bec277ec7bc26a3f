package respond

import "github.com/contraband-dev/contraband/internal/cases"

// DueNow names the steps that a case is due.
func (r *Responder) DueNow(c cases.Case) (out []string) {
	for _, s := range r.due(c, cases.Lost{}) {
		out = append(out, s.name)
	}
	return out
}
