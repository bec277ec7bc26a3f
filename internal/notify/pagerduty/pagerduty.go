// Package pagerduty notifies whoever is on call through PagerDuty's Events API v2: one
// alert a case, de-duplicated by the case's key, resolved when the case closes.
package pagerduty

import (
	"context"
	"errors"
	"fmt"

	"github.com/PagerDuty/go-pagerduty"

	"github.com/contraband-dev/contraband/internal/notify"
	"github.com/contraband-dev/contraband/internal/notify/httpcall"
)

// Service is one PagerDuty service. It implements notify.Channel.
type Service struct {
	client     *pagerduty.Client
	routingKey string
	name       string
}

// New returns the service with an integration's routing key. endpoint is the address
// of the Events API; empty: PagerDuty's.
func New(name, routingKey, endpoint string) *Service {
	var options []pagerduty.ClientOptions
	if endpoint != "" {
		options = append(options, pagerduty.WithV2EventsAPIEndpoint(endpoint))
	}
	client := pagerduty.NewClient("", options...)
	client.HTTPClient = httpcall.Client()
	return &Service{client: client, routingKey: routingKey, name: name}
}

// Limits of an event, in characters.
const (
	maxSummary  = 1024
	maxDetail   = 2000
	maxDedupKey = 255
)

var severities = map[notify.Severity]string{
	notify.Critical: "critical", notify.High: "error", notify.Medium: "warning", notify.Low: "info",
}

// Post triggers an alert. PagerDuty de-duplicates by key, so again needs no search.
func (s *Service) Post(ctx context.Context, m notify.Message, _ bool) (notify.Ref, error) {
	return s.send(ctx, "trigger", m)
}

// Update sends the current state, which is added to the same alert and notifies nobody.
func (s *Service) Update(ctx context.Context, _ notify.Ref, m notify.Message) (notify.Ref, error) {
	return s.send(ctx, "trigger", m)
}

// Resolve resolves the alert.
func (s *Service) Resolve(ctx context.Context, _ notify.Ref, m notify.Message) error {
	_, err := s.send(ctx, "resolve", m)
	return err
}

// Thread does nothing: Update has sent the state already.
func (s *Service) Thread(context.Context, notify.Ref, notify.Message, notify.Update) error {
	return nil
}

func (s *Service) send(ctx context.Context, action string, m notify.Message) (notify.Ref, error) {
	key := notify.Limit(m.Key, maxDedupKey)
	e := &pagerduty.V2Event{RoutingKey: s.routingKey, Action: action, DedupKey: key, Client: "Contraband", Payload: Payload(m)}
	for _, l := range m.Links {
		if u := notify.SafeURL(l.URL); u != "" {
			e.Links = append(e.Links, map[string]string{"href": u, "text": notify.Limit(notify.Plain(l.Label), 100)})
			if e.ClientURL == "" {
				e.ClientURL = u
			}
		}
	}
	_, err := s.client.ManageEventWithContext(ctx, e)
	var answer pagerduty.APIError
	if errors.As(err, &answer) {
		err = httpcall.Classify(answer.StatusCode, fmt.Errorf("HTTP status %d", answer.StatusCode))
	}
	if err != nil {
		return notify.Ref{}, fmt.Errorf("%s PagerDuty alert of service %q: %w", action, s.name, err)
	}
	return notify.Ref{Room: s.name, ID: key}, nil
}

// Payload returns what an alert shows.
func Payload(m notify.Message) *pagerduty.V2Payload {
	details := map[string]string{"State": text(m.Status)}
	for _, f := range m.Fields {
		details[text(f.Name)] = text(f.Text())
	}
	for title, lines := range map[string][]notify.Line{"Done": m.Done, "Next": m.Next} {
		for _, l := range lines {
			details[title] = text(details[title] + "- " + l.String() + "; ")
		}
	}
	if owners := m.OwnerLine(); owners != "" {
		details["Owners"] = text(owners)
	}
	return &pagerduty.V2Payload{Summary: notify.Limit(notify.Plain(m.Summary), maxSummary), Source: "contraband",
		Severity: severities[m.Severity], Class: text(m.Verdict), Component: text(m.Status), Details: details}
}

func text(s string) string { return notify.Limit(notify.Plain(s), maxDetail) }
