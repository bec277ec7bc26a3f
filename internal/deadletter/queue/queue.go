// Package queue lists dead letters in the subscription of a project and publishes them again.
package queue

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"github.com/contraband-dev/contraband/internal/deadletter"
	"google.golang.org/api/option"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Queue is the subscription in which dead letters are kept. Letters that were listed are
// held until Close, so that two people do not publish one at once.
type Queue struct {
	client       *pubsub.Client
	subscription string
	held         map[string]string // ack IDs by letter
	topics       map[string]string // by subscription
	project      string
	renewed      time.Time // when the letters were last held
}

// Open opens the subscription of a project.
func Open(ctx context.Context, project, subscription string, options ...option.ClientOption) (*Queue, error) {
	client, err := pubsub.NewClient(ctx, project, options...)
	if err != nil {
		return nil, fmt.Errorf("open Pub/Sub: %w", err)
	}
	return &Queue{client: client, subscription: "projects/" + project + "/subscriptions/" + subscription,
		held: map[string]string{}, topics: map[string]string{}, project: project}, nil
}

// Bounds of List.
const (
	perPull   = 100
	quiet     = 3 * time.Second // without a message: there are no more
	holdFor   = 600             // seconds, the longest
	perModify = 1000            // ack IDs of one request
	maxAgain  = 10              // replies in a row without anything new
	renewAt   = 4 * time.Minute
)

// List returns the letters, the oldest first, at most limit.
func (q *Queue) List(ctx context.Context, limit int) ([]deadletter.Letter, error) {
	var out []deadletter.Letter
	for again := 0; len(out) < limit && again < maxAgain; {
		more, received, err := q.pull(ctx, min(perPull, limit-len(out)))
		if err != nil {
			return nil, err
		}
		if received == 0 {
			break
		}
		if len(more) == 0 { // all are held already: Pub/Sub repeats itself
			again++
		}
		out = append(out, more...)
	}
	q.renewed = time.Now()
	slices.SortStableFunc(out, func(a, b deadletter.Letter) int { return a.At.Compare(b.At) })
	return out, nil
}

func (q *Queue) pull(ctx context.Context, n int) (out []deadletter.Letter, received int, err error) {
	wait, cancel := context.WithTimeout(ctx, quiet)
	defer cancel()
	reply, err := q.client.SubscriptionAdminClient.Pull(wait, &pubsubpb.PullRequest{Subscription: q.subscription, MaxMessages: int32(n)})
	if ctx.Err() == nil && (errors.Is(err, context.DeadlineExceeded) || status.Code(err) == codes.DeadlineExceeded) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("pull from %q: %w", q.subscription, err)
	}
	var acks []string
	for _, m := range reply.ReceivedMessages {
		l := deadletter.Decode(m.Message.MessageId, m.Message.Data, m.Message.Attributes, m.Message.PublishTime.AsTime())
		if from := deadletter.SourceSubscription(m.Message.Attributes); from != "" {
			if l.Topic, err = q.topicOf(ctx, from); err != nil {
				l.Reason += fmt.Sprintf(" (its topic is not known: %v)", err)
			}
		}
		if _, again := q.held[l.ID]; !again {
			out = append(out, l)
		}
		q.held[l.ID] = m.AckId
		acks = append(acks, m.AckId)
	}
	return out, len(acks), q.hold(ctx, acks, holdFor)
}

// topicOf returns the topic of a subscription.
func (q *Queue) topicOf(ctx context.Context, subscription string) (string, error) {
	if topic, ok := q.topics[subscription]; ok {
		return topic, nil
	}
	s, err := q.client.SubscriptionAdminClient.GetSubscription(ctx, &pubsubpb.GetSubscriptionRequest{Subscription: subscription})
	if err != nil {
		return "", err
	}
	q.topics[subscription] = s.Topic
	return s.Topic, nil
}

// hold keeps messages from others for so many seconds; 0 gives them back.
func (q *Queue) hold(ctx context.Context, acks []string, seconds int32) error {
	for part := range slices.Chunk(acks, perModify) {
		err := q.client.SubscriptionAdminClient.ModifyAckDeadline(ctx, &pubsubpb.ModifyAckDeadlineRequest{
			Subscription: q.subscription, AckIds: part, AckDeadlineSeconds: seconds})
		if err != nil {
			return fmt.Errorf("hold the messages of %q: %w", q.subscription, err)
		}
	}
	return nil
}

// Replay publishes a letter to its topic again, and then removes it. When it fails in
// between the letter stays, and is published twice: a finding that comes twice is handled
// once. Of a page nothing is published: it is sent by itself.
func (q *Queue) Replay(ctx context.Context, l deadletter.Letter) error {
	if err := q.renew(ctx); err != nil {
		return err
	}
	if l.Kind == deadletter.Message {
		if l.Topic == "" {
			return fmt.Errorf("letter %q: it is not known to which topic it was published", l.ID)
		}
		if !strings.HasPrefix(l.Topic, "projects/"+q.project+"/topics/") {
			return fmt.Errorf("letter %q: its topic %q is not of the project %q", l.ID, l.Topic, q.project)
		}
		p := q.client.Publisher(l.Topic)
		defer p.Stop()
		if _, err := p.Publish(ctx, &pubsub.Message{Data: l.Data, Attributes: l.Attributes}).Get(ctx); err != nil {
			return fmt.Errorf("publish letter %q to %q: %w", l.ID, l.Topic, err)
		}
	}
	err := q.client.SubscriptionAdminClient.Acknowledge(ctx, &pubsubpb.AcknowledgeRequest{Subscription: q.subscription, AckIds: []string{q.held[l.ID]}})
	if err != nil {
		return fmt.Errorf("remove letter %q: %w", l.ID, err)
	}
	delete(q.held, l.ID)
	return nil
}

// renew holds the letters for longer where that takes long: one that is no longer held
// cannot be removed.
func (q *Queue) renew(ctx context.Context) error {
	if time.Since(q.renewed) < renewAt {
		return nil
	}
	q.renewed = time.Now()
	return q.hold(ctx, slices.Collect(maps.Values(q.held)), holdFor)
}

// Close gives back what was not removed.
func (q *Queue) Close(ctx context.Context) error {
	return errors.Join(q.hold(ctx, slices.Collect(maps.Values(q.held)), 0), q.client.Close())
}
