// Package deadletter owns messages that were given up on: what is recorded about each, and
// how they are listed and published again once the cause is mended.
package deadletter

import (
	"strings"
	"time"
)

// Kind is what was given up on.
type Kind string

// Kinds. The strings are attributes of messages.
const (
	Message Kind = "message" // one that a function could not handle
	Page    Kind = "page"    // an incident that no channel took: its page is sent by itself
)

// Letter is one message that was given up on.
type Letter struct {
	ID      string    `json:"id"`
	Kind    Kind      `json:"kind"`
	Topic   string    `json:"topic,omitempty"`   // "projects/P/topics/T" to which it was published; "": not known
	Cluster string    `json:"cluster,omitempty"` // "PROJECT/LOCATION/CLUSTER"; "": not known
	Reason  string    `json:"reason"`
	At      time.Time `json:"at"` // when it was given up on
	Data    []byte    `json:"data"`
	// Attributes that it was published with.
	Attributes map[string]string `json:"attributes,omitempty"`
}

// Attributes of a message on the dead-letter topic. Pub/Sub adds its own to those that it
// moves there. A message's own attributes are never taken for either: whoever may publish
// could otherwise say where it is published again, or that nothing is to be.
const (
	ourPrefix   = "deadletter-"
	attrKind    = ourPrefix + "kind"
	attrTopic   = ourPrefix + "topic"
	attrCluster = ourPrefix + "cluster"
	attrReason  = ourPrefix + "reason"
	attrAt      = ourPrefix + "at"
	attrEarlier = "reason" // all that letters of earlier versions have

	pubsubPrefix       = "CloudPubSubDeadLetter"
	pubsubSubscription = "CloudPubSubDeadLetterSourceSubscription"
	pubsubProject      = "CloudPubSubDeadLetterSourceSubscriptionProject"
	pubsubDeliveries   = "CloudPubSubDeadLetterSourceDeliveryCount"
)

// maxReason bounds a reason: an attribute has 1,024 bytes at most.
const maxReason = 1000

// Encode returns the attributes with which a letter is published to the dead-letter topic.
func (l Letter) Encode() map[string]string {
	out := own(l.Attributes)
	kind := l.Kind
	if kind == "" {
		kind = Message
	}
	out[attrKind], out[attrAt] = string(kind), l.At.UTC().Format(time.RFC3339)
	out[attrReason] = strings.ToValidUTF8(l.Reason[:min(len(l.Reason), maxReason)], "")
	for name, value := range map[string]string{attrTopic: l.Topic, attrCluster: l.Cluster} {
		if value != "" {
			out[name] = value
		}
	}
	return out
}

// Decode returns the letter of a message on the dead-letter topic, which was published there
// at a time.
func Decode(id string, data []byte, attributes map[string]string, published time.Time) Letter {
	l := Letter{ID: id, Kind: Message, At: published.UTC(), Data: data, Attributes: own(attributes)}
	if attributes[pubsubSubscription] != "" {
		l.Reason = "it was delivered " + attributes[pubsubDeliveries] + " times without success: see the function's log at that time"
		return l
	}
	if attributes[attrKind] == "" {
		l.Reason = attributes[attrEarlier]
		return l
	}
	l.Topic, l.Cluster, l.Reason = attributes[attrTopic], attributes[attrCluster], attributes[attrReason]
	if Kind(attributes[attrKind]) == Page {
		l.Kind = Page
	}
	if at, err := time.Parse(time.RFC3339, attributes[attrAt]); err == nil {
		l.At = at
	}
	return l
}

// own returns the attributes that a message was published with.
func own(attributes map[string]string) map[string]string {
	out := map[string]string{}
	for name, value := range attributes {
		if !strings.HasPrefix(name, ourPrefix) && !strings.HasPrefix(name, pubsubPrefix) {
			out[name] = value
		}
	}
	return out
}

// SourceSubscription returns the subscription from which Pub/Sub moved a message, or "".
func SourceSubscription(attributes map[string]string) string {
	if attributes[pubsubSubscription] == "" {
		return ""
	}
	return "projects/" + attributes[pubsubProject] + "/subscriptions/" + attributes[pubsubSubscription]
}
