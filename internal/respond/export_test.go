package respond

import "github.com/contraband-dev/contraband/internal/docket"

// DueNow names the steps that a case is due.
func (r *Responder) DueNow(c docket.Case) (out []string) {
	for _, s := range r.due(c, docket.Lost{}) {
		out = append(out, s.name)
	}
	return out
}
