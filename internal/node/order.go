package node

import (
	"fmt"
	"time"
)

// Action is what an Order asks of a node.
type Action string

const (
	Freeze   Action = "freeze"   // stop every process of the container, memory intact
	Thaw     Action = "thaw"     // let them go on
	Evidence Action = "evidence" // send the bytes that ran to Upload
)

// Order is what Contain asks of the sensor of one node. Its ID makes it
// idempotent: the same order twice is carried out once.
type Order struct {
	ID          string    `json:"id"`
	Case        string    `json:"case"`
	Action      Action    `json:"action"`
	ContainerID string    `json:"containerId"`
	Expires     time.Time `json:"expires"` // an order that is older is refused; a freeze ends by itself then

	// For Evidence.
	SHA256 string  `json:"sha256,omitempty"`
	Upload *Upload `json:"upload,omitempty"`
}

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
	Gone    bool      `json:"gone,omitempty"` // the container is no more: nothing left to act on
	At      time.Time `json:"at"`
	Bytes   int64     `json:"bytes,omitempty"`   // evidence sent
	SHA256  string    `json:"sha256,omitempty"`  // of the evidence as read
	Process int       `json:"process,omitempty"` // processes frozen or thawed
}

// Validate refuses an order that cannot be carried out safely.
func (o Order) Validate() error {
	switch {
	case !IsContainerID(o.ID):
		return fmt.Errorf("order id %q has characters that an id cannot have", o.ID)
	case o.Case == "":
		return fmt.Errorf("order %q names no case", o.ID)
	case !IsContainerID(o.ContainerID):
		return fmt.Errorf("order %q: container id %q is none", o.ID, o.ContainerID)
	case o.Expires.IsZero():
		return fmt.Errorf("order %q has no expiry", o.ID)
	}
	switch o.Action {
	case Freeze, Thaw:
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
