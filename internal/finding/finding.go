// Package finding models a Security Command Center finding: it decodes every shape in
// which one arrives, has the registry of finding types, and derives keys and identities.
// It performs no I/O.
package finding

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"strings"
	"time"
)

// Finding is one occurrence of an SCC finding. Empty fields were not in it.
type Finding struct {
	Name          string    `json:"name"`          // as received; may be organisation-scoped
	CanonicalName string    `json:"canonicalName"` // project-scoped where SCC provides it, else Name
	Parent        string    `json:"parent,omitempty"`
	ResourceName  string    `json:"resourceName,omitempty"`
	Category      string    `json:"category"`
	Class         string    `json:"class,omitempty"` // THREAT, SCC_ERROR, ...
	State         string    `json:"state,omitempty"` // ACTIVE, INACTIVE
	Mute          string    `json:"mute,omitempty"`
	Severity      string    `json:"severity,omitempty"` // the detector's
	Deleted       bool      `json:"deleted,omitempty"`
	EventTime     time.Time `json:"eventTime,omitzero"`
	CreateTime    time.Time `json:"createTime,omitzero"`
	Description   string    `json:"description,omitempty"`
	NextSteps     string    `json:"nextSteps,omitempty"`
	ExternalURI   string    `json:"externalUri,omitempty"`
	Detector      string    `json:"detector,omitempty"`   // parentDisplayName
	ReportedBy    Reporter  `json:"reportedBy,omitempty"` // set by package respond, which knows the trusted sources

	Project       string `json:"project,omitempty"` // ID where known, else number
	ProjectNumber string `json:"projectNumber,omitempty"`
	Location      string `json:"location,omitempty"` // zone or region of the cluster or the service
	Cluster       string `json:"cluster,omitempty"`
	Node          string `json:"node,omitempty"`
	// Service is the Cloud Run service, job or agent that the finding is about; zero for
	// what runs in a cluster.
	Service Service `json:"service,omitzero"`

	Pod       Pod       `json:"pod,omitzero"`
	Container Container `json:"container,omitzero"`
	Process   Process   `json:"process,omitzero"` // the subject
	// Others are further processes, libraries, pods and containers that the finding names.
	Others      []Mention    `json:"others,omitempty"`
	Connections []Connection `json:"connections,omitempty"`
	Files       []string     `json:"files,omitempty"`      // paths that the finding names
	Indicators  []string     `json:"indicators,omitempty"` // domains, addresses, URLs

	Contacts []Contact `json:"contacts,omitempty"`
	Owners   []string  `json:"owners,omitempty"` // App Hub owners' e-mail addresses
	MITRE    []string  `json:"mitre,omitempty"`  // tactics and techniques, as SCC spells them

	Sensor *Sensor `json:"sensor,omitempty"` // only in findings of our own sensor
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

// Process is what ran: a program, a library or a script. Arguments and contents are
// redacted.
type Process struct {
	Path      string   `json:"path,omitempty"`
	Args      []string `json:"args,omitempty"`
	PID       int64    `json:"pid,omitempty"`
	ParentPID int64    `json:"parentPid,omitempty"`
	SHA256    string   `json:"sha256,omitempty"` // of the whole file; empty when only a part was hashed
	Partial   string   `json:"partialSha256,omitempty"`
	Size      int64    `json:"size,omitempty"`     // bytes
	Contents  string   `json:"contents,omitempty"` // of a script; bounded
	// Runner loaded the library or interprets the script; nil for a program.
	Runner *Runner `json:"runner,omitempty"`
}

// Runner is the program that loaded a library or interprets a script.
type Runner struct {
	Path   string `json:"path,omitempty"`
	SHA256 string `json:"sha256,omitempty"`
}

// Mention is something that a finding names beside its subject.
type Mention struct {
	Kind   string `json:"kind"` // process, library, pod, container
	Name   string `json:"name"` // a path, namespace/name, a container's name
	SHA256 string `json:"sha256,omitempty"`
}

// Connection is a network connection of the process.
type Connection struct {
	Protocol        string `json:"protocol,omitempty"` // TCP, UDP, ...
	DestinationIP   string `json:"destinationIp,omitempty"`
	DestinationPort int64  `json:"destinationPort,omitempty"`
	SourceIP        string `json:"sourceIp,omitempty"`
	SourcePort      int64  `json:"sourcePort,omitempty"`
}

// Remote returns the destination as people write it: "203.0.113.7:4444"; "" without one.
func (c Connection) Remote() string { return address(c.DestinationIP, c.DestinationPort) }

// String returns the connection: "TCP 10.0.0.9:51000 -> 203.0.113.7:4444".
func (c Connection) String() string {
	var parts []string
	for _, p := range []string{c.Protocol, address(c.SourceIP, c.SourcePort)} {
		if p != "" {
			parts = append(parts, p)
		}
	}
	return strings.Join(append(parts, "->", c.Remote()), " ")
}

func address(ip string, port int64) string {
	if ip == "" || port == 0 {
		return ip
	}
	return net.JoinHostPort(ip, fmt.Sprint(port))
}

// Contact is a contact that SCC names.
type Contact struct {
	Kind  string `json:"kind"` // security, technical, ...
	Email string `json:"email"`
}

// Sensor is what our sensor adds.
type Sensor struct {
	Route        string    `json:"route"`
	SameAs       string    `json:"sameAs,omitempty"`
	Unhashed     string    `json:"unhashed,omitempty"`     // why there is no hash
	Unattributed string    `json:"unattributed,omitempty"` // why the container could not be named
	Missed       string    `json:"missed,omitempty"`       // known gaps in this window, in words
	Repeats      int64     `json:"repeats,omitempty"`
	Ancestors    []string  `json:"ancestors,omitempty"` // the parent first, in words: "sh (7) /bin/sh"
	User         int64     `json:"user,omitempty"`      // ID
	Started      time.Time `json:"started,omitzero"`    // the process
	Executed     time.Time `json:"executed,omitzero"`
	Seen         time.Time `json:"seen,omitzero"`
	Hashed       time.Time `json:"hashed,omitzero"`
	Attributed   time.Time `json:"attributed,omitzero"`
	Raised       time.Time `json:"raised,omitzero"`
}

// Closed reports whether the finding is inactive or deleted in SCC.
func (f Finding) Closed() bool { return f.Deleted || f.State == stateInactive }

// Muted reports whether nobody is to be notified of the finding.
func (f Finding) Muted() bool { return f.Mute == muteMuted }

// Key identifies this occurrence: the same notification again has the same key, and so
// have the direct copy of a finding that we raised and SCC's notification of it. Writing
// marks or external systems changes none of its parts.
func (f Finding) Key() string {
	mute := f.Mute
	if mute == "UNDEFINED" || mute == "MUTE_UNSPECIFIED" { // the same as none
		mute = ""
	}
	return digest(f.CanonicalName, f.Category, f.EventTime.UTC().Format(time.RFC3339Nano), f.State, mute, fmt.Sprint(f.Deleted))
}

// ID returns the deterministic ID of a finding that we write: 32 hexadecimal digits, as
// SCC takes 1 to 32 alphanumeric characters.
func ID(parts ...string) string { return digest(parts...)[:32] }

// digest hashes parts; a separator inside a part does not make two lists equal.
func digest(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// isSHA256 reports whether s is a SHA-256 in lower-case hexadecimal.
func isSHA256(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}

// ShortName returns the place as people write it: namespace/pod/container, the service, or
// the container's ID.
func (f Finding) ShortName() string {
	var parts []string
	for _, p := range []string{f.Service.Name, f.Pod.Namespace, f.Pod.Name, f.Container.Name} {
		if p != "" && (len(parts) == 0 || parts[len(parts)-1] != p) {
			parts = append(parts, p)
		}
	}
	if len(parts) == 0 {
		return f.Container.ID
	}
	return strings.Join(parts, "/")
}
