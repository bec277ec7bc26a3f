package respond

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"log/slog"

	cloudevents "github.com/cloudevents/sdk-go/v2"

	"github.com/contraband-dev/contraband/internal/blobstore"
	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/deadletter"
	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/internal/funcserver"
	"github.com/contraband-dev/contraband/internal/respond"
)

// Respond opens or joins the case of each finding in a notification, and takes the steps
// that are due.
func (s *Suite) Respond(ctx context.Context, e cloudevents.Event) error {
	ctx, cancel := context.WithTimeout(ctx, cases.FunctionTimeout)
	defer cancel()
	m, err := funcserver.ReadMessage(e)
	if err != nil {
		return funcserver.Safe(s.Findings.Park(ctx, deadletter.Letter{Topic: funcserver.TopicOf(e), Reason: err.Error(), Data: e.Data()}))
	}
	if err := s.keep(ctx, m.Data); err != nil {
		return funcserver.Safe(err)
	}
	findings, err := finding.Decode(m.Data)
	if errors.Is(err, finding.ErrNoFinding) {
		s.observe(m.MessageID, []respond.Result{{Acknowledged: "there is no finding in it"}})
		return nil
	}
	if err != nil { // malformed: redelivery would not help
		letter := deadletter.Letter{Topic: funcserver.TopicOf(e), Reason: err.Error(), Data: m.Data, Attributes: m.Attributes}
		if parked := s.Findings.Park(ctx, letter); parked != nil {
			return funcserver.Safe(parked)
		}
		s.observe(m.MessageID, []respond.Result{{DeadLettered: err.Error()}})
		return nil
	}
	var outcomes []respond.Result
	for _, f := range findings {
		o, err := s.Responder.Finding(ctx, f)
		if err != nil {
			return funcserver.Safe(err) // transient: Pub/Sub will redeliver it
		}
		outcomes = append(outcomes, o)
	}
	s.observe(m.MessageID, outcomes)
	return nil
}

// keep stores a notification unchanged, if that is configured.
func (s *Suite) keep(ctx context.Context, data []byte) error {
	if !s.Config.KeepNotifications {
		return nil
	}
	sum := sha256.Sum256(data)
	err := s.Base.Parts.Store.Create(ctx, "notifications/"+hex.EncodeToString(sum[:]), data)
	if errors.Is(err, blobstore.ErrExists) {
		return nil
	}
	return err
}

func (s *Suite) observe(messageID string, outcomes []respond.Result) {
	for _, o := range outcomes {
		slog.Info("notification", "message", messageID, "case", o.Case, "acknowledged", o.Acknowledged, "deadLettered", o.DeadLettered)
	}
	if s.Parts.Observe != nil {
		s.Parts.Observe(messageID, outcomes)
	}
}
