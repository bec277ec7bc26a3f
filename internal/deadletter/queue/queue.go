// Package queue lists dead letters in the subscription of a project and publishes them again.
package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
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
}

// Open opens the subscription of a project.
func Open(ctx context.Context, project, subscription string, options ...option.ClientOption) (*Queue, error) {
	client, err := pubsub.NewClient(ctx, project, options...)
	if err != nil {
		return nil, fmt.Errorf("open Pub/Sub: %w", err)
	}
	return &Queue{client: client, subscription: "projects/" + project + "/subscriptions/" + subscription,
		held: map[string]string{}, topics: map[string]string{}}, nil
}

// Bounds of List.
const (
	perPull   = 100
	quiet     = 3 * time.Second // without a message: there are no more
	holdFor   = 600             // seconds, the longest
	perModify = 1000            // ack IDs of one request
)

// List returns the letters, the oldest first, at most limit.
func (q *Queue) List(ctx context.Context, limit int) ([]deadletter.Letter, error) {
	var out []deadletter.Letter
	for len(out) < limit {
		more, err := q.pull(ctx, min(perPull, limit-len(out)))
		if err != nil {
			return nil, err
		}
		if len(more) == 0 {
			break
		}
		out = append(out, more...)
	}
	slices.SortStableFunc(out, func(a, b deadletter.Letter) int { return a.At.Compare(b.At) })
	return out, nil
}

func (q *Queue) pull(ctx context.Context, n int) (out []deadletter.Letter, err error) {
	wait, cancel := context.WithTimeout(ctx, quiet)
	defer cancel()
	reply, err := q.client.SubscriptionAdminClient.Pull(wait, &pubsubpb.PullRequest{Subscription: q.subscription, MaxMessages: int32(n)})
	if ctx.Err() == nil && (errors.Is(err, context.DeadlineExceeded) || status.Code(err) == codes.DeadlineExceeded) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("pull from %q: %w", q.subscription, err)
	}
	var acks []string
	for _, m := range reply.ReceivedMessages {
		l := deadletter.Decode(m.Message.MessageId, m.Message.Data, m.Message.Attributes, m.Message.PublishTime.AsTime())
		if from := deadletter.SourceSubscription(m.Message.Attributes); l.Topic == "" && from != "" {
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
	return out, q.hold(ctx, acks, holdFor)
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
	if l.Kind == deadletter.Message {
		if l.Topic == "" {
			return fmt.Errorf("letter %q: it is not known to which topic it was published", l.ID)
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

// Close gives back what was not removed.
func (q *Queue) Close(ctx context.Context) error {
	var acks []string
	for _, ack := range q.held {
		acks = append(acks, ack)
	}
	return errors.Join(q.hold(ctx, acks, 0), q.client.Close())
}
