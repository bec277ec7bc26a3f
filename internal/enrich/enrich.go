// Package enrich gathers the facts that an analyst would look up: log queries, commands,
// research links, related findings, contacts. It reads and never writes. Everything in a
// finding may be chosen by an attacker, so each value is quoted for where it is used.
package enrich

import (
	"cmp"
	"context"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/contain/cluster"
	"github.com/contraband-dev/contraband/internal/finding"
)

// Nearby lists findings about the resource of a finding, in a time range.
type Nearby interface {
	Nearby(ctx context.Context, f finding.Finding, from, to time.Time) ([]finding.Finding, error)
}

// Enricher gathers facts. A source that fails is named in Facts.Missing; the others are
// not affected.
type Enricher struct {
	Nearby   Nearby // nil: not configured
	Fallback string // contact of last resort: the security channel
	// Clusters reaches the cluster that a finding names; nil: not configured.
	Clusters cluster.Finder
	// Owners finds who is responsible; nil: the finding's own contacts alone.
	Owners func(context.Context, finding.Finding) (owners []cases.OwnerContact, missing []string, late bool)
}

// Facts returns the facts about a finding.
func (e Enricher) Facts(ctx context.Context, f finding.Finding) cases.Facts {
	var (
		facts                 = cases.Facts{Commands: commands(f), Research: research(f)}
		workload              *cases.Workload
		related               []cases.Fact
		owners                []cases.OwnerContact
		noWorkload, noRelated string
		noOwners              []string
		sources               sync.WaitGroup
	)
	sources.Go(func() { workload, noWorkload = e.workload(ctx, f) })
	sources.Go(func() { related, noRelated = e.related(ctx, f) })
	if e.Owners != nil {
		sources.Go(func() { owners, noOwners, facts.OwnersLate = e.Owners(ctx, f) })
	}
	sources.Wait()
	facts.Workload, facts.Related, facts.Owners = workload, related, owners
	for _, missing := range append([]string{noRelated}, append(noOwners, noWorkload)...) {
		if missing != "" {
			facts.Missing = append(facts.Missing, missing)
		}
	}
	facts.Queries, facts.Contacts = queries(f, workload), e.contacts(f, workload)
	for _, o := range owners {
		if !slices.Contains(facts.Contacts, o.Name) {
			facts.Contacts = append(facts.Contacts, o.Name)
		}
	}
	return facts
}

// nearbyRange is how long before and after a finding others count as related.
const nearbyRange = time.Hour

// related returns the findings about the same container, pod or service, and those that
// name an address that the finding is connected to.
func (e Enricher) related(ctx context.Context, f finding.Finding) (related []cases.Fact, missing string) {
	if e.Nearby == nil {
		return nil, "related findings: SCC is not configured"
	}
	near, err := e.Nearby.Nearby(ctx, f, f.EventTime.Add(-nearbyRange), f.EventTime.Add(nearbyRange))
	if err != nil {
		return nil, "related findings: " + err.Error()
	}
	for _, n := range near {
		if n.CanonicalName == f.CanonicalName || !finding.SameResource(n.ResourceName, f.ResourceName) {
			continue
		}
		why := relation(n, f)
		if why == "" {
			continue
		}
		text := strings.TrimSpace(n.EventTime.UTC().Format(time.RFC3339) + " " + n.Process.Path)
		related = append(related, cases.Fact{Title: n.Category, Text: text + " (" + why + ")"})
	}
	return related, ""
}

// relation returns how two findings about the same resource are related; "" if they are not.
func relation(a, b finding.Finding) string {
	if sameContainer(a, b) {
		return "same container"
	}
	for _, c := range a.Connections {
		for _, d := range b.Connections {
			if c.DestinationIP == d.DestinationIP {
				return "same remote address " + c.DestinationIP
			}
		}
	}
	return ""
}

func sameContainer(a, b finding.Finding) bool {
	switch {
	case b.Service.Kind != "":
		return a.Service.Kind == b.Service.Kind && a.Service.Name == b.Service.Name
	case a.Container.ID != "" && b.Container.ID != "":
		return a.Container.ID == b.Container.ID
	}
	samePod := a.Pod.Name != "" && a.Pod.Namespace == b.Pod.Namespace && a.Pod.Name == b.Pod.Name
	return samePod && a.Container.Name == b.Container.Name
}

// queries returns log queries for half an hour around the event: those of Google's
// playbook for a pod, those of a service else.
func queries(f finding.Finding, w *cases.Workload) []cases.Fact {
	var out []cases.Fact
	add := func(title string, terms ...string) {
		q := strings.Join(terms, "\n")
		out = append(out, cases.Fact{Title: title, Text: q, Link: logsLink(f, q)})
	}
	if f.Service.Kind != "" {
		for _, q := range serviceQueries(f) {
			add(q.Title, q.Text)
		}
		return out
	}
	if f.Pod.Name != "" {
		inCluster := []string{
			term("resource.labels.project_id", f.Project), term("resource.labels.location", f.Location),
			term("resource.labels.cluster_name", f.Cluster),
		}
		add("Pod logs", append(append([]string{`resource.type="k8s_container"`}, inCluster...),
			term("resource.labels.namespace_name", f.Pod.Namespace), term("resource.labels.pod_name", f.Pod.Name))...)
		add("Changes to the pod", append(append([]string{auditLog(f), `resource.type="k8s_cluster"`}, inCluster...), quoteLog(f.Pod.Name))...)
	}
	if w != nil && w.InstanceID != "" {
		add("Node logs", `resource.type="gce_instance"`, term("resource.labels.instance_id", w.InstanceID))
	} else if f.Node != "" { // the instance ID is on the node; its name finds the logs too
		add("Node logs", `resource.type="gce_instance"`, term(`labels."compute.googleapis.com/resource_name"`, f.Node))
	}
	return out
}

func auditLog(f finding.Finding) string {
	return term("logName", "projects/"+f.Project+"/logs/cloudaudit.googleapis.com%2Factivity")
}

func term(name, value string) string { return name + "=" + quoteLog(value) }

// quoteLog quotes a value for the Logging query language.
func quoteLog(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, s)
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

func logsLink(f finding.Finding, query string) string {
	if f.Project == "" {
		return ""
	}
	from, to := f.EventTime.Add(-30*time.Minute).UTC().Format(time.RFC3339), f.EventTime.Add(30*time.Minute).UTC().Format(time.RFC3339)
	return "https://console.cloud.google.com/logs/query;query=" + url.PathEscape(query) + ";timeRange=" + url.PathEscape(from+"/"+to) +
		"?project=" + url.QueryEscape(f.Project)
}

// research returns links about the techniques of the finding and about its file.
func research(f finding.Finding) []cases.Fact {
	var out []cases.Fact
	for _, t := range f.Techniques() {
		out = append(out, cases.Fact{Title: "MITRE ATT&CK " + t.Title(), Link: t.Link()})
	}
	if f.Process.SHA256 != "" {
		out = append(out, cases.Fact{Title: "VirusTotal report of the hash", Link: "https://www.virustotal.com/gui/file/" + f.Process.SHA256})
	}
	return out
}

// ownerLabels add contacts. Whoever controls a workload writes its labels, so they never
// replace the security channel.
var ownerLabels = []string{"owner", "team"}

// contacts returns whom to notify, the most responsible first.
func (e Enricher) contacts(f finding.Finding, w *cases.Workload) []string {
	var out []string
	add := func(who string) {
		if who != "" && !slices.Contains(out, who) {
			out = append(out, who)
		}
	}
	for _, o := range f.Owners {
		add(o)
	}
	contacts := slices.Clone(f.Contacts)
	slices.SortStableFunc(contacts, func(a, b finding.Contact) int { return cmp.Compare(rank[a.Kind], rank[b.Kind]) })
	for _, c := range contacts {
		add(c.Email)
	}
	for _, name := range ownerLabels {
		add(f.Pod.Labels[name])
		add(f.Container.Labels[name])
		if w != nil {
			add(w.ClusterLabels[name])
		}
	}
	add(e.Fallback)
	return out
}

var rank = map[string]int{"technical": -2, "security": -1}
