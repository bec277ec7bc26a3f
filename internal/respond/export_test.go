package respond

import (
	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/incidents"
)

// DueNow names the steps that a case is due.
func (r *Responder) DueNow(c cases.Case) (out []string) {
	for _, s := range (&run{Responder: r}).due(c) {
		out = append(out, s.name)
	}
	return out
}

// NoticesDue names the steps that an incident is due.
func (r *Responder) NoticesDue(i incidents.Incident) (out []string) {
	for _, n := range (&telling{Responder: r}).due(i) {
		out = append(out, n.name)
	}
	return out
}
