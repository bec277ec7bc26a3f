// Package node owns the contract between a node's sensor and the project: the
// Detection that the sensor publishes and Raise reads, and the Order that
// Contain writes and the sensor carries out. It holds types and their
// validation, nothing that acts; it is why sensor and respond need not know
// each other.
package sensorapi

import (
	"encoding/json"
	"fmt"
	"regexp"
	"time"
)

// Route is how a program came to run that is not of the image.
type Route string

const (
	Added    Route = "added"    // in the container's upper layer only
	Modified Route = "modified" // copied up from the image, and its bytes differ
	Volume   Route = "volume"   // on another mount: tmpfs, emptyDir, hostPath
	Memory   Route = "memory"   // a memfd: no file at all
	Deleted  Route = "deleted"  // unlinked before it ran
	Nested   Route = "nested"   // on an overlay that is not the container's own root
	Script   Route = "script"   // a script that is not of the image; its interpreter may be
	Loader   Route = "loader"   // a program given to the dynamic loader, which is of the image
	Library  Route = "library"  // mapped to be executed by another program: LD_PRELOAD, dlopen
)

// RecordDamaged begins Detection.Health where the sensor watches as it should, and what it
// had on record was damaged.
const RecordDamaged = "the sensor's record on disk was damaged"

// Routes are all of them.
var Routes = []Route{Added, Modified, Volume, Memory, Deleted, Nested, Script, Loader, Library}

// Bounds of a Detection; what is longer is cut by the sensor and refused by Raise.
const (
	MaxString = 4096    // bytes of any one string
	MaxArgs   = 64      // arguments
	MaxLabels = 64      // labels
	MaxBytes  = 1 << 18 // of a whole encoded Detection
)

// Detection is one program that ran in a container and is not of its image.
type Detection struct {
	Time      time.Time `json:"time"` // of the exec
	Route     Route     `json:"route"`
	SameAs    string    `json:"sameAs,omitempty"` // a file of the image with the same bytes: a copy, not contraband
	Process   Process   `json:"process"`
	File      File      `json:"file"`
	Container Container `json:"container"`
	Pod       Pod       `json:"pod,omitzero"`
	Node      string    `json:"node"`
	Timing    Timing    `json:"timing"`
	Missed    Missed    `json:"missed,omitzero"`
	Repeats   uint64    `json:"repeats,omitempty"` // runs of the same file in this container since the last detection of it
	Preceding bool      `json:"preceding,omitempty"`
	// Health, when set, makes it no program that ran but word that this sensor
	// cannot be relied on: only Time and Node are set then.
	Health string `json:"health,omitempty"`
	// Preceding: the program ran before the sensor started, and was found by
	// looking at what runs; Time is then the start of the process.
}

// Process is what ran. Arguments are redacted on the node.
type Process struct {
	Path     string    `json:"path"` // as the container sees it
	Args     []string  `json:"args,omitempty"`
	Filename string    `json:"filename,omitempty"` // what the caller of execve said
	Comm     string    `json:"comm,omitempty"`
	PID      uint32    `json:"pid"` // in the node's PID namespace
	PPID     uint32    `json:"ppid"`
	UID      uint32    `json:"uid"`
	GID      uint32    `json:"gid"`
	Started  time.Time `json:"started"`
	// Ancestors are those that were still there to be looked at, the parent first.
	Ancestors []Ancestor `json:"ancestors,omitempty"`
}

// MaxAncestors bounds how many are sent.
const MaxAncestors = 8

// Ancestor is a process that another descends from.
type Ancestor struct {
	PID  uint32 `json:"pid"` // in the node's PID namespace
	Comm string `json:"comm"`
	Path string `json:"path,omitempty"` // of its program, as it sees it
}

// File is the file that ran. Either SHA256 or Unhashed is set.
type File struct {
	SHA256   string `json:"sha256,omitempty"` // of all its bytes
	Size     int64  `json:"size"`             // bytes
	Unhashed string `json:"unhashed,omitempty"`
}

// Container is where it ran. Name, Image and Labels are empty when no runtime
// could say; Missing then has the reason.
type Container struct {
	ID          string            `json:"id"`
	Runtime     string            `json:"runtime,omitempty"` // containerd, docker, podman, cri
	Name        string            `json:"name,omitempty"`
	Image       string            `json:"image,omitempty"`
	ImageDigest string            `json:"imageDigest,omitempty"` // in its repository, sha256:...
	ImageID     string            `json:"imageId,omitempty"`     // of a local image: digest of its configuration
	Labels      map[string]string `json:"labels,omitempty"`
	Created     time.Time         `json:"created,omitzero"`
	Missing     string            `json:"missing,omitempty"`
}

// Pod is the Kubernetes pod of the container; empty on a machine without Kubernetes.
type Pod struct {
	Namespace string            `json:"namespace,omitempty"`
	Name      string            `json:"name,omitempty"`
	UID       string            `json:"uid,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
}

// Timing says when the sensor did its parts.
type Timing struct {
	Seen       time.Time `json:"seen"`       // the event reached user space
	Hashed     time.Time `json:"hashed"`     // SHA-256 known, or given up
	Attributed time.Time `json:"attributed"` // container known, or given up
}

// Missed are the sensor's known gaps since its last published detection.
type Missed struct {
	Dropped      uint64 `json:"dropped,omitempty"`      // kernel events lost to a full ring buffer
	Unattributed uint64 `json:"unattributed,omitempty"` // candidates whose container could not be found
	Overflowed   uint64 `json:"overflowed,omitempty"`   // detections the full spool had to refuse
	Scripts      uint64 `json:"scripts,omitempty"`      // scripts, known by name alone, that were gone when they were looked for
	Unheld       uint64 `json:"unheld,omitempty"`       // files that could not be held open until they were hashed
	Down         uint64 `json:"down,omitempty"`         // seconds in which no sensor watched, before this one started
}

var (
	sha256Form      = regexp.MustCompile(`^[0-9a-f]{64}$`)
	containerIDForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,255}$`)
)

// IsSHA256 reports whether s is a SHA-256 in lower-case hex.
func IsSHA256(s string) bool { return sha256Form.MatchString(s) }

// IsContainerID reports whether s can be a container's id: it becomes part of paths.
func IsContainerID(s string) bool { return containerIDForm.MatchString(s) && s != "." && s != ".." }

// ParseDetection decodes and validates what a node published. A node may be in
// an attacker's hands: every string is bounded, and nothing in it is trusted
// beyond what its own pods may cause.
func ParseDetection(data []byte) (Detection, error) {
	if len(data) > MaxBytes {
		return Detection{}, fmt.Errorf("detection of %d bytes, at most %d are taken", len(data), MaxBytes)
	}
	var d Detection
	if err := json.Unmarshal(data, &d); err != nil {
		return Detection{}, fmt.Errorf("decode detection: %w", err)
	}
	if err := d.validate(); err != nil {
		return Detection{}, fmt.Errorf("detection: %w", err)
	}
	return d, nil
}

func (d Detection) validate() error {
	if d.Health != "" {
		if d.Time.IsZero() || d.Node == "" {
			return fmt.Errorf("health is told without time and node")
		}
		return d.validateLengths()
	}
	switch d.Route {
	case Added, Modified, Volume, Memory, Deleted, Nested, Script, Loader, Library:
	default:
		return fmt.Errorf("route %q is unknown", d.Route)
	}
	switch {
	case d.Time.IsZero():
		return fmt.Errorf("time is missing")
	case d.Process.Path == "":
		return fmt.Errorf("process.path is missing")
	case !IsContainerID(d.Container.ID):
		return fmt.Errorf("container.id %q is no container id", d.Container.ID)
	case d.File.SHA256 == "" && d.File.Unhashed == "":
		return fmt.Errorf("file.sha256 is missing, and file.unhashed does not say why")
	case d.File.SHA256 != "" && !IsSHA256(d.File.SHA256):
		return fmt.Errorf("file.sha256 %q is no SHA-256", d.File.SHA256)
	case len(d.Process.Args) > MaxArgs:
		return fmt.Errorf("process.args has %d entries, at most %d are taken", len(d.Process.Args), MaxArgs)
	case len(d.Process.Ancestors) > MaxAncestors:
		return fmt.Errorf("process.ancestors has %d entries, at most %d are taken", len(d.Process.Ancestors), MaxAncestors)
	case len(d.Container.Labels) > MaxLabels || len(d.Pod.Labels) > MaxLabels:
		return fmt.Errorf("more than %d labels", MaxLabels)
	}
	return d.validateLengths()
}

func (d Detection) validateLengths() error {
	all := append([]string{
		d.SameAs, d.Process.Path, d.Process.Filename, d.Process.Comm, d.File.Unhashed, d.Node,
		d.Container.Runtime, d.Container.Name, d.Container.Image, d.Container.ImageDigest, d.Container.Missing,
		d.Pod.Namespace, d.Pod.Name, d.Pod.UID, d.Health,
	}, d.Process.Args...)
	for _, a := range d.Process.Ancestors {
		all = append(all, a.Comm, a.Path)
	}
	for _, labels := range []map[string]string{d.Container.Labels, d.Pod.Labels} {
		for k, v := range labels {
			all = append(all, k, v)
		}
	}
	for _, s := range all {
		if len(s) > MaxString {
			return fmt.Errorf("a string of %d bytes, at most %d are taken", len(s), MaxString)
		}
	}
	return nil
}
