// Package finding owns what a Security Command Center finding is to us: it
// decodes every shape in which one arrives, encodes ours, and knows categories
// and ids. It never calls out.
package finding

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"
)

// Categories that we raise ourselves, worded as Container Threat Detection words them.
const (
	AddedBinary          = "Added Binary Executed"
	AddedMaliciousBinary = "Execution: Added Malicious Binary Executed"
	SensorBlind          = "CONTRABAND_SENSOR_BLIND" // a sensor of ours cannot be relied on
)

// Finding is one occurrence of an SCC finding. Empty fields were not in it.
type Finding struct {
	Name          string    `json:"name"`          // as it came; may be organisation-scoped
	CanonicalName string    `json:"canonicalName"` // project-scoped where SCC says so, else Name
	Parent        string    `json:"parent,omitempty"`
	ResourceName  string    `json:"resourceName,omitempty"`
	Category      string    `json:"category"`
	Class         string    `json:"class,omitempty"` // THREAT, SCC_ERROR, ...
	State         string    `json:"state,omitempty"` // ACTIVE, INACTIVE
	Mute          string    `json:"mute,omitempty"`
	Severity      string    `json:"severity,omitempty"`
	Deleted       bool      `json:"deleted,omitempty"`
	EventTime     time.Time `json:"eventTime,omitzero"`
	CreateTime    time.Time `json:"createTime,omitzero"`
	Description   string    `json:"description,omitempty"`
	ExternalURI   string    `json:"externalUri,omitempty"`
	Detector      string    `json:"detector,omitempty"` // parentDisplayName

	Project       string `json:"project,omitempty"` // id where known, else number
	ProjectNumber string `json:"projectNumber,omitempty"`
	Location      string `json:"location,omitempty"` // zone or region of the cluster
	Cluster       string `json:"cluster,omitempty"`
	Node          string `json:"node,omitempty"`

	Pod       Pod       `json:"pod,omitzero"`
	Container Container `json:"container,omitzero"`
	Process   Process   `json:"process,omitzero"`
	Contacts  []Contact `json:"contacts,omitempty"`
	Owners    []string  `json:"owners,omitempty"` // App Hub owners' e-mail addresses
	MITRE     []string  `json:"mitre,omitempty"`  // tactics and techniques, as SCC spells them

	Sensor *Sensor `json:"sensor,omitempty"` // what only our own sensor tells
}

// Pod as the finding names it.
type Pod struct {
	Namespace string            `json:"namespace,omitempty"`
	Name      string            `json:"name,omitempty"`
	UID       string            `json:"uid,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
}

// Container as the finding names it.
type Container struct {
	ID     string            `json:"id,omitempty"`
	Name   string            `json:"name,omitempty"`
	Image  string            `json:"image,omitempty"`  // reference
	Digest string            `json:"digest,omitempty"` // sha256:...
	Labels map[string]string `json:"labels,omitempty"`
}

// Process is what ran. Arguments are redacted.
type Process struct {
	Path      string   `json:"path,omitempty"`
	Args      []string `json:"args,omitempty"`
	PID       int64    `json:"pid,omitempty"`
	ParentPID int64    `json:"parentPid,omitempty"`
	SHA256    string   `json:"sha256,omitempty"` // of the whole file; empty when only a part was hashed
	Partial   string   `json:"partialSha256,omitempty"`
	Size      int64    `json:"size,omitempty"`
}

// Contact is somebody whom SCC says to tell.
type Contact struct {
	Kind  string `json:"kind"` // security, technical, ...
	Email string `json:"email"`
}

// Sensor is what our sensor adds.
type Sensor struct {
	Route        string    `json:"route"`
	SameAs       string    `json:"sameAs,omitempty"`
	Unhashed     string    `json:"unhashed,omitempty"`
	Unattributed string    `json:"unattributed,omitempty"` // why the container could not be named
	Missed       string    `json:"missed,omitempty"`       // known gaps in this window, in words
	Repeats      int64     `json:"repeats,omitempty"`
	Ancestors    []string  `json:"ancestors,omitempty"` // the parent first, in words: "sh (7) /bin/sh"
	User         int64     `json:"user,omitempty"`      // id
	Started      time.Time `json:"started,omitzero"`    // the process
	Executed     time.Time `json:"executed,omitzero"`
	Seen         time.Time `json:"seen,omitzero"`
	Hashed       time.Time `json:"hashed,omitzero"`
	Attributed   time.Time `json:"attributed,omitzero"`
	Raised       time.Time `json:"raised,omitzero"`
}

// Kind tells which playbook a finding leads to.
type Kind int

const (
	Other           Kind = iota // not about a program in a container: acknowledged and counted
	ContainerThreat             // something ran in a container
	DetectorHealth              // a detector is blind
)

// containerDetector is the display name of Container Threat Detection's source.
const containerDetector = "Container Threat Detection"

// threats are Container Threat Detection's categories about what runs in a container.
var threats = map[string]bool{
	AddedBinary:            true,
	AddedMaliciousBinary:   true,
	"Added Library Loaded": true,
	"Execution: Added Malicious Library Loaded":     true,
	"Execution: Modified Malicious Binary Executed": true,
	"Execution: Modified Malicious Library Loaded":  true,
	"Execution: Built in Malicious Binary Executed": true,
	"Execution: Fileless Execution in /memfd:":      true,
	"Execution: Malicious Script Executed":          true,
	"Malicious Script Executed":                     true,
	"Reverse Shell":                                 true,
	"Unexpected Child Shell":                        true,
}

// Kind of the finding.
func (f Finding) Kind() Kind {
	switch {
	case threats[f.Category], f.Class == "THREAT" && f.Detector == containerDetector: // also those it learns to see later
		return ContainerThreat
	case f.Class == "SCC_ERROR" && (strings.HasPrefix(f.Category, "KTD_") || f.Category == SensorBlind):
		return DetectorHealth
	default:
		return Other
	}
}

// Closed tells whether SCC says that the matter is over.
func (f Finding) Closed() bool { return f.Deleted || f.State == "INACTIVE" }

// Muted findings are not to be told about.
func (f Finding) Muted() bool { return f.Mute == "MUTED" }

// Key names this occurrence: the same notification again has the same key, and
// so have the direct copy of a finding that we raised and SCC's notification of
// it. Writing marks or external systems changes none of its parts.
func (f Finding) Key() string {
	mute := f.Mute
	if mute == "UNDEFINED" || mute == "MUTE_UNSPECIFIED" { // as good as not said
		mute = ""
	}
	return digest(f.CanonicalName, f.Category, f.EventTime.UTC().Format(time.RFC3339Nano), f.State, mute, fmt.Sprint(f.Deleted))
}

// Of tells whether the finding is in a source: a source's name may have its location
// after it, or not.
func (f Finding) Of(source string) bool {
	const global = "/locations/global"
	return source != "" && strings.TrimSuffix(f.Parent, global) == strings.TrimSuffix(source, global)
}

// ID is the deterministic id of a finding that we write: 32 hex digits, as SCC
// takes 1 to 32 alphanumeric characters.
func ID(parts ...string) string { return digest(parts...)[:32] }

// digest cannot be fooled by a separator inside a part.
func digest(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// isSHA256 says whether s is a SHA-256 in lower-case hexadecimal.
func isSHA256(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}

// ShortName is how people call the place: namespace/pod/container or the container.
func (f Finding) ShortName() string {
	var parts []string
	for _, p := range []string{f.Pod.Namespace, f.Pod.Name, f.Container.Name} {
		if p != "" {
			parts = append(parts, p)
		}
	}
	if len(parts) == 0 {
		return f.Container.ID
	}
	return strings.Join(parts, "/")
}

// Place is what a detection's subscription says of its origin; a node's own
// word does not count.
type Place struct {
	Project  string // id
	Location string
	Cluster  string
}

// ResourceName of the cluster.
func (p Place) ResourceName() string {
	return fmt.Sprintf("//container.googleapis.com/projects/%s/locations/%s/clusters/%s", p.Project, p.Location, p.Cluster)
}
