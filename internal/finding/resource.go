package finding

import (
	"fmt"
	"strings"
)

// Place is the cluster that a detection comes from, as configured for the topic that
// carries it: what a node says of its own cluster does not count.
type Place struct {
	Project  string // ID
	Location string // a zone or a region
	Cluster  string
}

// ResourceName returns the cluster's full resource name, as Cloud Asset Inventory spells
// it: zonal clusters are below zones, regional ones below locations.
func (p Place) ResourceName() string {
	collection := "locations"
	if IsZone(p.Location) {
		collection = "zones"
	}
	return fmt.Sprintf("//%s/projects/%s/%s/%s/clusters/%s", hostGKE, p.Project, collection, p.Location, p.Cluster)
}

// OtherResourceName returns the name that other writers may use for the same cluster.
func (p Place) OtherResourceName() string {
	if IsZone(p.Location) {
		return fmt.Sprintf("//%s/projects/%s/locations/%s/clusters/%s", hostGKE, p.Project, p.Location, p.Cluster)
	}
	return fmt.Sprintf("//%s/projects/%s/regions/%s/clusters/%s", hostGKE, p.Project, p.Location, p.Cluster)
}

// IsZone reports whether a location is a zone ("europe-west1-b") and not a region.
func IsZone(location string) bool {
	i := strings.LastIndexByte(location, '-')
	return strings.Count(location, "-") >= 2 && i == len(location)-2 && location[i+1] >= 'a' && location[i+1] <= 'z'
}

// ServiceKind is a kind of resource that runs containers without a cluster.
type ServiceKind string

// Kinds of services. The strings are stored, and part of keys.
const (
	CloudRunService ServiceKind = "Cloud Run service"
	CloudRunJob     ServiceKind = "Cloud Run job"
	AgentEngine     ServiceKind = "Agent Engine"
)

// Service runs containers without a cluster.
type Service struct {
	Kind     ServiceKind `json:"kind,omitempty"`
	Name     string      `json:"name,omitempty"`
	Revision string      `json:"revision,omitempty"` // of a Cloud Run service, where it is known
}

const (
	hostGKE = "container.googleapis.com"
	hostRun = "run.googleapis.com"
	hostAI  = "aiplatform.googleapis.com"
)

// serviceCollections are the parts of resource names that name a service.
var serviceCollections = []struct {
	host, collection string
	kind             ServiceKind
}{
	{hostRun, "services", CloudRunService},
	{hostRun, "jobs", CloudRunJob},
	{hostAI, "reasoningEngines", AgentEngine},
}

// parseService returns the service that a resource name names; zero if it names none. A
// revision ("checkout-00007-abc") is of the service of its name.
func parseService(resourceName string) Service {
	if !strings.HasPrefix(resourceName, "//") {
		return Service{}
	}
	host, _, _ := strings.Cut(resourceName[2:], "/")
	revision := part(resourceName, "revisions")
	for _, c := range serviceCollections {
		if name := part(resourceName, c.collection); host == c.host && name != "" {
			return Service{Kind: c.kind, Name: name, Revision: revision}
		}
	}
	if host == hostRun && revision != "" {
		return Service{Kind: CloudRunService, Name: serviceOfRevision(revision), Revision: revision}
	}
	return Service{}
}

// serviceOfRevision cuts what Cloud Run appends to a service's name: "-00007-abc".
func serviceOfRevision(revision string) string {
	base, _, ok := cutLast(revision, "-")
	if !ok {
		return revision
	}
	service, number, ok := cutLast(base, "-")
	if !ok || len(number) != 5 || strings.Trim(number, "0123456789") != "" {
		return revision
	}
	return service
}

// parseCluster returns the cluster that a resource name names, whatever it calls the
// collection of its location.
func parseCluster(resourceName string) (p Place, ok bool) {
	if !strings.HasPrefix(resourceName, "//"+hostGKE+"/") || part(resourceName, "clusters") == "" {
		return Place{}, false
	}
	location := or(part(resourceName, "zones"), part(resourceName, "regions"), part(resourceName, "locations"))
	return Place{Project: part(resourceName, "projects"), Location: location, Cluster: part(resourceName, "clusters")}, true
}

// SameResource reports whether two resource names name the same resource: a cluster may be
// below zones, regions or locations.
func SameResource(a, b string) bool {
	pa, ok := parseCluster(a)
	if !ok {
		return a == b
	}
	pb, ok := parseCluster(b)
	return ok && pa == pb
}

// ResourceNames returns the names under which findings about the same resource are stored.
func (f Finding) ResourceNames() []string {
	p, ok := parseCluster(f.ResourceName)
	if !ok {
		return nonEmpty(f.ResourceName)
	}
	out := []string{f.ResourceName}
	for _, name := range []string{p.ResourceName(), p.OtherResourceName()} {
		if p.Location != "" && name != f.ResourceName {
			out = append(out, name)
		}
	}
	return out
}

// ContainmentUnsupported returns why nothing is contained for the finding whatever the
// policy asks for; "" where something may be.
func (f Finding) ContainmentUnsupported() string {
	switch {
	case !f.ReportedBy.Trusted():
		return fmt.Sprintf("it was reported by %s, a source that may notify people but contain nothing", f.ReporterName())
	case f.Service.Kind != "":
		return fmt.Sprintf("a %s has no pod to contain: the case has the commands for a person", f.Service.Kind)
	}
	return ""
}

// part returns the segment that follows a collection in a resource name:
// ".../clusters/<this>/...".
func part(name, collection string) string {
	for rest := name; ; {
		i := strings.Index(rest, collection+"/")
		if i < 0 {
			return ""
		}
		after := rest[i+len(collection)+1:]
		if i == 0 || rest[i-1] == '/' {
			value, _, _ := strings.Cut(after, "/")
			return value
		}
		rest = after
	}
}

func lastPart(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }
