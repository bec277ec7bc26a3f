package sensorapi

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Action is what an Order asks of a node.
type Action string

const (
	Freeze   Action = "freeze"   // stop every process of the container, memory intact
	Thaw     Action = "thaw"     // let them go on
	Evidence Action = "evidence" // send the bytes that ran to Upload
	Inspect  Action = "inspect"  // tell the processes and the open sockets of the container
	Probe    Action = "probe"    // try Targets from the container's network, and Ports of the container from the node's side
)

// Order is what Contain asks of the sensor of one node. Its ID makes it
// idempotent: the same order twice is carried out once.
type Order struct {
	ID          string    `json:"id"`
	Case        string    `json:"case"`
	Action      Action    `json:"action"`
	ContainerID string    `json:"containerId"`
	Node        string    `json:"node,omitempty"`   // whose order it is; required on Kubernetes
	PodUID      string    `json:"podUid,omitempty"` // the container must still be of this pod; required on Kubernetes
	Expires     time.Time `json:"expires"`          // an order that is older is refused; a freeze ends by itself then

	// SHA256 of Evidence is what to send. Of other actions, where it is given, the sensor
	// must have detected that program in the container.
	SHA256 string  `json:"sha256,omitempty"`
	Upload *Upload `json:"upload,omitempty"`

	// For Probe: addresses inside the cluster, host:port, tried from the container's
	// network namespace (Targets) and from the sensor's (Towards).
	Targets []string `json:"targets,omitempty"`
	Towards []string `json:"towards,omitempty"`
}

// MaxTargets bounds what one Probe tries.
const MaxTargets = 8

// Upload is where evidence goes: a URL that takes one PUT, creates only, and expires.
type Upload struct {
	URL      string            `json:"url"`
	Headers  map[string]string `json:"headers,omitempty"` // to be sent as they are
	MaxBytes int64             `json:"maxBytes"`
}

// OrderStatus is the sensor's answer.
type OrderStatus struct {
	ID      string    `json:"id"`
	Done    bool      `json:"done"`
	Error   string    `json:"error,omitempty"`
	Gone    bool      `json:"gone,omitempty"`    // the container is no more: nothing left to act on
	Refused bool      `json:"refused,omitempty"` // the sensor has looked, and will not: it knows no such container, or the order is not for it
	Until   time.Time `json:"until,omitzero"`    // of a freeze: when it ends by itself
	At      time.Time `json:"at"`
	Bytes   int64     `json:"bytes,omitempty"`   // evidence sent
	SHA256  string    `json:"sha256,omitempty"`  // of the evidence as read
	Process int       `json:"process,omitempty"` // processes frozen or thawed

	Inspection *Inspection `json:"inspection,omitempty"`
	Reached    []Reached   `json:"reached,omitempty"` // of Probe, each of Targets and Towards
}

// Reached is the result of one connection that a Probe tried.
type Reached struct {
	Target string `json:"target"`
	Inward bool   `json:"inward,omitempty"` // towards the container
	OK     bool   `json:"ok"`
	Error  string `json:"error,omitempty"`
}

// Inspection is a container as its node sees it, bounded.
type Inspection struct {
	Processes []ProcessInfo `json:"processes"`
	Sockets   []Socket      `json:"sockets"`
	Cut       bool          `json:"cut,omitempty"` // there are more
}

// ProcessInfo is one process of a container. Arguments are redacted.
type ProcessInfo struct {
	PID       int       `json:"pid"` // in the node's PID namespace
	ParentPID int       `json:"parentPid"`
	UID       int       `json:"uid"`
	Exe       string    `json:"exe"`
	Args      []string  `json:"args,omitempty"`
	Started   time.Time `json:"started,omitzero"`
}

// Socket is one socket of a container's network namespace.
type Socket struct {
	Protocol string `json:"protocol"` // tcp, tcp6, udp, udp6
	Local    string `json:"local"`
	Remote   string `json:"remote,omitempty"`
	State    string `json:"state,omitempty"`
	PID      int    `json:"pid,omitempty"` // of the container's processes, where one holds it
}

// Validate refuses an order that cannot be carried out safely.
func (o Order) Validate() error {
	switch {
	case !IsContainerID(o.ID):
		return fmt.Errorf("order id %q has characters that an id cannot have", o.ID)
	case !IsContainerID(o.Case):
		return fmt.Errorf("order %q: case %q is none", o.ID, o.Case)
	case !IsContainerID(o.ContainerID):
		return fmt.Errorf("order %q: container id %q is none", o.ID, o.ContainerID)
	case o.Expires.IsZero():
		return fmt.Errorf("order %q has no expiry", o.ID)
	}
	switch o.Action {
	case Freeze, Thaw, Inspect:
		return nil
	case Probe:
		if n := len(o.Targets) + len(o.Towards); n == 0 || n > MaxTargets {
			return fmt.Errorf("order %q: a probe needs 1 to %d targets, not %d", o.ID, MaxTargets, n)
		}
		for _, t := range slices.Concat(o.Targets, o.Towards) {
			if err := InCluster(t); err != nil {
				return fmt.Errorf("order %q: %w", o.ID, err)
			}
		}
		return nil
	case Evidence:
		if !IsSHA256(o.SHA256) || o.Upload == nil || o.Upload.URL == "" || o.Upload.MaxBytes <= 0 {
			return fmt.Errorf("order %q: evidence needs sha256, upload.url and upload.maxBytes", o.ID)
		}
		return nil
	default:
		return fmt.Errorf("order %q: action %q is unknown", o.ID, o.Action)
	}
}

// InCluster refuses what a probe must not touch: anything but a private address,
// and the node's metadata server, which is link-local.
func InCluster(target string) error {
	a, err := netip.ParseAddrPort(target)
	if err != nil {
		return fmt.Errorf("probe of %q: an IP address and a port are wanted", target)
	}
	carrier := netip.MustParsePrefix("100.64.0.0/10") // GKE's pods may be there
	if !a.Addr().IsPrivate() && !carrier.Contains(a.Addr()) {
		return fmt.Errorf("probe of %q: not an address inside a cluster", target)
	}
	return nil
}
