package functions

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	scc "cloud.google.com/go/securitycenter/apiv2/securitycenterpb"

	"cloud.google.com/go/pubsub/v2"
	cloudevents "github.com/cloudevents/sdk-go/v2"

	"github.com/contraband-dev/contraband/internal/casefile"
	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/internal/node"
	"github.com/contraband-dev/contraband/internal/respond"
	"github.com/contraband-dev/contraband/internal/retry"
)

// messagePublished is the payload of google.cloud.pubsub.topic.v1.messagePublished:
// https://github.com/googleapis/google-cloudevents, pubsub/v1/data.proto.
type messagePublished struct {
	Message struct {
		Data       []byte            `json:"data"`
		Attributes map[string]string `json:"attributes"`
		MessageID  string            `json:"messageId"`
	} `json:"message"`
	Subscription string `json:"subscription"`
}

// open reads a Pub/Sub CloudEvent. The framework's own error would quote the
// payload, secrets and all.
func open(e cloudevents.Event) (messagePublished, error) {
	var m messagePublished
	if err := json.Unmarshal(e.Data(), &m); err != nil {
		return m, errors.New("the event is no Pub/Sub message")
	}
	if m.Message.MessageID == "" {
		m.Message.MessageID = e.ID()
	}
	return m, nil
}

// topicOf answers the topic that an event came from. The framework keeps it, in
// the source, from the path to which the push subscription delivers; the
// subscription's name it drops.
func topicOf(e cloudevents.Event) string {
	_, topic, _ := strings.Cut(e.Source(), "pubsub.googleapis.com/")
	return topic
}

// safe makes an error fit for the framework, which uses its text as a format.
func safe(err error) error {
	if err == nil {
		return nil
	}
	return errors.New(strings.ReplaceAll(err.Error(), "%", "%%"))
}

// Raise writes a detection as a finding of ours, and hands the same finding on
// at once, without waiting for SCC's notification.
func (s *Suite) Raise(ctx context.Context, e cloudevents.Event) error {
	m, err := open(e)
	if err != nil {
		return safe(s.park(ctx, e.Data(), err)) // no repetition makes it readable
	}
	err = s.raise(ctx, topicOf(e), m.Message.Data)
	if retry.IsPermanent(err) {
		return safe(s.park(ctx, m.Message.Data, err))
	}
	return safe(err)
}

func (s *Suite) raise(ctx context.Context, topic string, data []byte) error {
	d, err := node.ParseDetection(data)
	if err != nil {
		return retry.Permanent(err)
	}
	place, err := s.cfg.place(topic)
	if err != nil {
		return err // a configuration that will be mended: nothing is lost meanwhile
	}
	source := s.cfg.SCCSource
	if source == "" {
		source = "projects/" + place.Project + "/sources/contraband/locations/global"
	}
	_, f, err := finding.FromDetection(d, place, source, time.Now())
	if err != nil {
		return retry.Permanent(err)
	}
	if s.scc != nil {
		written, err := s.scc.Upsert(ctx, f)
		switch {
		case err == nil:
			f = written
		case retry.IsPermanent(err):
			// SCC will never take it: people are told all the same.
			slog.Error("the finding is not in SCC", "error", err.Error())
			f.CanonicalName = f.Name
		default:
			return err
		}
	}
	body, err := finding.Notification("", f, &scc.Resource{Name: f.ResourceName})
	if err != nil {
		return retry.Permanent(err)
	}
	_, err = s.findings.Publish(ctx, &pubsub.Message{Data: body}).Get(ctx)
	return err
}

// Respond takes a notification as far as it goes now.
func (s *Suite) Respond(ctx context.Context, e cloudevents.Event) error {
	ctx, cancel := context.WithTimeout(ctx, respond.FunctionTimeout)
	defer cancel()
	m, err := open(e)
	if err != nil {
		return safe(s.park(ctx, e.Data(), err))
	}
	if err := s.keep(ctx, m.Message.Data); err != nil {
		return safe(err)
	}
	findings, err := finding.Decode(m.Message.Data)
	if errors.Is(err, finding.ErrNoFinding) {
		s.observe(m.Message.MessageID, []respond.Outcome{{Acknowledged: "there is no finding in it"}})
		return nil
	}
	if err != nil { // malformed, or nobody's: it will never be anything else
		if parked := s.park(ctx, m.Message.Data, err); parked != nil {
			return safe(parked)
		}
		s.observe(m.Message.MessageID, []respond.Outcome{{DeadLettered: err.Error()}})
		return nil
	}
	var outcomes []respond.Outcome
	for _, f := range findings {
		o, err := s.responder.Finding(ctx, f)
		if err != nil {
			return safe(err) // transient: Pub/Sub brings it again
		}
		outcomes = append(outcomes, o)
	}
	s.observe(m.Message.MessageID, outcomes)
	return nil
}

// keep stores a notification as it came, if that is configured.
func (s *Suite) keep(ctx context.Context, data []byte) error {
	if !s.cfg.KeepNotifications {
		return nil
	}
	sum := sha256.Sum256(data)
	err := s.parts.Store.Create(ctx, "notifications/"+hex.EncodeToString(sum[:]), data)
	if errors.Is(err, casefile.ErrExists) {
		return nil
	}
	return err
}

func (s *Suite) observe(messageID string, outcomes []respond.Outcome) {
	for _, o := range outcomes {
		slog.Info("notification", "message", messageID, "case", o.Case, "acknowledged", o.Acknowledged, "deadLettered", o.DeadLettered)
	}
	if s.parts.Observe != nil {
		s.parts.Observe(messageID, outcomes)
	}
}

// park puts what can never succeed where people find it, and only then lets it
// be acknowledged.
func (s *Suite) park(ctx context.Context, data []byte, why error) error {
	reason := why.Error()
	slog.Error("dead letter", "reason", reason, "bytes", len(data))
	_, err := s.dead.Publish(ctx, &pubsub.Message{Data: data, Attributes: map[string]string{"reason": reason[:min(len(reason), 1000)]}}).Get(ctx)
	if err != nil {
		return fmt.Errorf("dead letter: %w", err)
	}
	return nil
}
