package functions

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"log/slog"

	cloudevents "github.com/cloudevents/sdk-go/v2"

	"github.com/contraband-dev/contraband/functions/serve"
	"github.com/contraband-dev/contraband/internal/blobstore"
	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/internal/respond"
)

// Respond takes a notification as far as it goes now.
func (s *Suite) Respond(ctx context.Context, e cloudevents.Event) error {
	ctx, cancel := context.WithTimeout(ctx, cases.FunctionTimeout)
	defer cancel()
	m, err := serve.ReadMessage(e)
	if err != nil {
		return serve.Safe(s.Park(ctx, e.Data(), err))
	}
	if err := s.keep(ctx, m.Data); err != nil {
		return serve.Safe(err)
	}
	findings, err := finding.Decode(m.Data)
	if errors.Is(err, finding.ErrNoFinding) {
		s.observe(m.MessageID, []respond.Result{{Acknowledged: "there is no finding in it"}})
		return nil
	}
	if err != nil { // malformed, or nobody's: it will never be anything else
		if parked := s.Park(ctx, m.Data, err); parked != nil {
			return serve.Safe(parked)
		}
		s.observe(m.MessageID, []respond.Result{{DeadLettered: err.Error()}})
		return nil
	}
	var outcomes []respond.Result
	for _, f := range findings {
		o, err := s.responder.Finding(ctx, f)
		if err != nil {
			return serve.Safe(err) // transient: Pub/Sub brings it again
		}
		outcomes = append(outcomes, o)
	}
	s.observe(m.MessageID, outcomes)
	return nil
}

// keep stores a notification as it came, if that is configured.
func (s *Suite) keep(ctx context.Context, data []byte) error {
	if !s.cfg.KeepNotifications {
		return nil
	}
	sum := sha256.Sum256(data)
	err := s.Front.Parts.Store.Create(ctx, "notifications/"+hex.EncodeToString(sum[:]), data)
	if errors.Is(err, blobstore.ErrExists) {
		return nil
	}
	return err
}

func (s *Suite) observe(messageID string, outcomes []respond.Result) {
	for _, o := range outcomes {
		slog.Info("notification", "message", messageID, "case", o.Case, "acknowledged", o.Acknowledged, "deadLettered", o.DeadLettered)
	}
	if s.parts.Observe != nil {
		s.parts.Observe(messageID, outcomes)
	}
}
