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

// ReadMessage reads a Pub/Sub CloudEvent. The framework's own error would quote the
// payload, secrets and all.
func ReadMessage(e cloudevents.Event) (Message, error) {
	var m struct {
		Message Message `json:"message"`
	}
	if err := json.Unmarshal(e.Data(), &m); err != nil {
		return m.Message, errors.New("the event is no Pub/Sub message")
	}
	if m.Message.MessageID == "" {
		m.Message.MessageID = e.ID()
	}
	return m.Message, nil
}

// TopicOf answers the topic that an event came from. The framework keeps it, in
// the source, from the path to which the push subscription delivers; the
// subscription's name it drops.
func TopicOf(e cloudevents.Event) string {
	_, topic, _ := strings.Cut(e.Source(), "pubsub.googleapis.com/")
	return topic
}

// Safe makes an error fit for the framework, which uses its text as a format.
func Safe(err error) error {
	if err == nil {
		return nil
	}
	return errors.New(strings.ReplaceAll(err.Error(), "%", "%%"))
}
