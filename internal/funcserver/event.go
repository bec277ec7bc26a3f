package funcserver

import (
	"encoding/json"
	"errors"
	"strings"

	cloudevents "github.com/cloudevents/sdk-go/v2"
)

// Message is the payload of google.cloud.pubsub.topic.v1.messagePublished:
// https://github.com/googleapis/google-cloudevents, pubsub/v1/data.proto.
type Message struct {
	Data       []byte            `json:"data"`
	Attributes map[string]string `json:"attributes"`
	MessageID  string            `json:"messageId"`
}

// ReadMessage decodes a Pub/Sub CloudEvent. Its error does not quote the payload, which
// can contain secrets; the framework's own error would.
func ReadMessage(e cloudevents.Event) (Message, error) {
	var m struct {
		Message Message `json:"message"`
	}
	if err := json.Unmarshal(e.Data(), &m); err != nil {
		return m.Message, errors.New("event is not a Pub/Sub message")
	}
	if m.Message.MessageID == "" {
		m.Message.MessageID = e.ID()
	}
	return m.Message, nil
}

// TopicOf returns the topic of an event. The framework takes it from the path to which
// the push subscription delivers, and puts it into the event's source; it drops the
// subscription's name.
func TopicOf(e cloudevents.Event) string {
	_, topic, _ := strings.Cut(e.Source(), "pubsub.googleapis.com/")
	return topic
}

// Safe returns the error with percent signs escaped: the framework uses its text as a
// format string.
func Safe(err error) error {
	if err == nil {
		return nil
	}
	return errors.New(strings.ReplaceAll(err.Error(), "%", "%%"))
}
