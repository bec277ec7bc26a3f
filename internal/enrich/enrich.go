// Package enrich owns the facts that an analyst would look up: log queries,
// commands, research links, findings nearby, whom to tell. It reads and never
// writes. Everything in a finding is the attacker's to choose, so each value is
// quoted for where it goes.
package enrich

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/contain/cluster"
	"github.com/contraband-dev/contraband/internal/finding"
)

// Nearby lists the findings about the same resource in a time range.
type Nearby interface {
	List(ctx context.Context, resourceName string, from, to time.Time) ([]finding.Finding, error)
}

// Enricher gathers facts. A source that fails is named in Facts.Missing; the
// others are told all the same.
type Enricher struct {
	Nearby   Nearby // nil: not configured
	Fallback string // whom to tell when nobody else is known: the security channel
	// Clusters reaches the cluster that a finding names; nil: not configured.
	Clusters cluster.Finder
	// Owners finds who is responsible; nil: the finding's own contacts alone.
	Owners func(context.Context, finding.Finding) (owners []cases.OwnerContact, missing []string)
}

// Facts of a finding.
func (e Enricher) Facts(ctx context.Context, f finding.Finding) cases.Facts {
	var (
		workload *cases.Workload
		missing  string
		asked    sync.WaitGroup
	)
	asked.Go(func() { workload, missing = e.workload(ctx, f) })
	facts := cases.Facts{Commands: commands(f), Research: research(f)}
	var ownersMissing []string
	if e.Owners != nil {
		asked.Go(func() { facts.Owners, ownersMissing = e.Owners(ctx, f) })
	}
	e.nearby(ctx, f, &facts)
	asked.Wait()
	facts.Missing = append(facts.Missing, ownersMissing...)
	facts.Workload = workload
	if missing != "" {
		facts.Missing = append(facts.Missing, missing)
	}
	facts.Queries, facts.Contacts = queries(f, workload), e.tell(f, workload)
	for _, o := range facts.Owners {
		if !slices.Contains(facts.Contacts, o.Name) {
			facts.Contacts = append(facts.Contacts, o.Name)
		}
	}
	return facts
}

func (e Enricher) nearby(ctx context.Context, f finding.Finding, facts *cases.Facts) {
	if e.Nearby == nil {
		facts.Missing = append(facts.Missing, "findings nearby: no SCC access is configured")
		return
	}
	near, err := e.Nearby.List(ctx, f.ResourceName, f.EventTime.Add(-time.Hour), f.EventTime.Add(time.Hour))
	if err != nil {
		facts.Missing = append(facts.Missing, "findings nearby: "+err.Error())
		return
	}
	for _, n := range near {
		// SCC has no filter on pods and containers: the match is made here.
		if n.CanonicalName != f.CanonicalName && sameContainer(n, f) {
			facts.Related = append(facts.Related, cases.Fact{Title: n.Category, Text: n.EventTime.UTC().Format(time.RFC3339) + " " + n.Process.Path})
		}
	}
}

func sameContainer(a, b finding.Finding) bool {
	if a.Container.ID != "" && b.Container.ID != "" {
		return a.Container.ID == b.Container.ID
	}
	return a.Pod.Name != "" && a.Pod.Namespace == b.Pod.Namespace && a.Pod.Name == b.Pod.Name && a.Container.Name == b.Container.Name
}

// queries are the three of Google's playbook, an hour around the event.
func queries(f finding.Finding, w *cases.Workload) []cases.Fact {
	var out []cases.Fact
	add := func(title string, terms ...string) {
		q := strings.Join(terms, "\n")
		out = append(out, cases.Fact{Title: title, Text: q, Link: logsLink(f, q)})
	}
	if f.Pod.Name != "" {
		add("Pod logs", `resource.type="k8s_container"`, term("resource.labels.project_id", f.Project), term("resource.labels.location", f.Location),
			term("resource.labels.cluster_name", f.Cluster), term("resource.labels.namespace_name", f.Pod.Namespace), term("resource.labels.pod_name", f.Pod.Name))
		add("Who touched the pod", term("logName", "projects/"+f.Project+"/logs/cloudaudit.googleapis.com%2Factivity"), `resource.type="k8s_cluster"`,
			term("resource.labels.project_id", f.Project), term("resource.labels.location", f.Location), term("resource.labels.cluster_name", f.Cluster), quoteLog(f.Pod.Name))
	}
	if w != nil && w.InstanceID != "" {
		add("Node logs", `resource.type="gce_instance"`, term("resource.labels.instance_id", w.InstanceID))
	} else if f.Node != "" {
		// The instance id needs the node itself; its name finds it too.
		add("Node logs", `resource.type="gce_instance"`, term("labels.\"compute.googleapis.com/resource_name\"", f.Node))
	}
	return out
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

var zone = regexp.MustCompile(`-[a-z]$`)

// commands reach the running container; on a machine without Kubernetes, by the process.
func commands(f finding.Finding) []cases.Fact {
	if f.Pod.Name == "" {
		if f.Process.PID == 0 {
			return nil
		}
		root := fmt.Sprintf("/proc/%d/root", f.Process.PID)
		return []cases.Fact{
			{Title: "Copy the program (as root on the node)", Text: "cp -- " + Quote(root+f.Process.Path) + " ./evidence.bin"},
			{Title: "A shell in the container (not while it is frozen)", Text: fmt.Sprintf("nsenter --target %d --mount --pid --net --uts --ipc -- /bin/sh", f.Process.PID)},
		}
	}
	flag := "--region"
	if zone.MatchString(f.Location) {
		flag = "--zone"
	}
	box := ""
	if f.Container.Name != "" {
		box = " --container=" + Quote(f.Container.Name)
	}
	return []cases.Fact{
		{Title: "Reach the cluster", Text: fmt.Sprintf("gcloud container clusters get-credentials %s %s %s --project %s", Quote(f.Cluster), flag, Quote(f.Location), Quote(f.Project))},
		{Title: "Copy the program (needs tar in the image)", Text: fmt.Sprintf("kubectl cp %s ./evidence.bin%s", Quote(f.Pod.Namespace+"/"+f.Pod.Name+":"+f.Process.Path), box)},
		{Title: "A shell in the container (not while it is frozen)", Text: fmt.Sprintf("kubectl exec --namespace=%s -ti %s%s -- /bin/sh", Quote(f.Pod.Namespace), Quote(f.Pod.Name), box)},
	}
}

// Quote makes one word of s for a POSIX shell, whatever it holds.
func Quote(s string) string {
	s = strings.ReplaceAll(s, "\x00", "")
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./:@%+=-") == "" && s[0] != '-' {
		return s
	}
	return `'` + strings.ReplaceAll(s, `'`, `'\''`) + `'`
}

func research(f finding.Finding) []cases.Fact {
	out := []cases.Fact{
		{Title: "MITRE ATT&CK T1105 Ingress Tool Transfer", Link: "https://attack.mitre.org/techniques/T1105/"},
		{Title: "MITRE ATT&CK T1106 Native API", Link: "https://attack.mitre.org/techniques/T1106/"},
	}
	if f.Process.SHA256 != "" {
		out = append(out, cases.Fact{Title: "VirusTotal (opens with the hash)", Link: "https://www.virustotal.com/gui/file/" + f.Process.SHA256})
	}
	return out
}

// ownerLabels may add a recipient; whoever controls a workload writes them, so
// they never replace the security channel.
var ownerLabels = []string{"owner", "team"}

func (e Enricher) tell(f finding.Finding, w *cases.Workload) []string {
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
