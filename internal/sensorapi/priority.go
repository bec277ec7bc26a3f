package sensorapi

// A Priority is the value of the attribute PriorityAttribute of a Pub/Sub message, by which
// subscriptions select: what is First is delivered by a subscription of its own, so that a
// backlog of other messages does not delay it.
type Priority string

// PriorityAttribute is the attribute of detections and of the findings made of them.
const PriorityAttribute = "priority"

// The priorities. A message without the attribute, such as SCC's notifications, is Later.
const (
	First Priority = "first" // a container's first detections in a minute, and a sensor's health
	Later Priority = "later" // further detections of a container, and copies of the image's programs
)

// FirstFilter and LaterFilter are the filters of the two subscriptions of a topic, in
// Pub/Sub's filter language. Each message matches exactly one.
const (
	FirstFilter = `attributes.priority = "first"`
	LaterFilter = `NOT attributes.priority = "first"`
)

// Attributes returns the attributes of a message of this priority.
func (p Priority) Attributes() map[string]string {
	return map[string]string{PriorityAttribute: string(p)}
}
