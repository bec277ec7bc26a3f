package queue_test

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"cloud.google.com/go/pubsub/v2/pstest"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/contraband-dev/contraband/internal/deadletter"
	"github.com/contraband-dev/contraband/internal/deadletter/queue"
)

// project is a Pub/Sub with the topics of a deployment.
type project struct {
	t       *testing.T
	server  *pstest.Server
	client  *pubsub.Client
	options []option.ClientOption
}

func start(t *testing.T) *project {
	t.Helper()
	p := &project{t: t, server: pstest.NewServer()}
	p.options = []option.ClientOption{option.WithEndpoint(p.server.Addr), option.WithoutAuthentication(),
		option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials()))}
	var err error
	if p.client, err = pubsub.NewClient(t.Context(), "p", p.options...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.client.Close()
		p.server.Close()
	})
	for topic, subscription := range map[string]string{"findings": "findings-later", "dead-letters": "dead-letters"} {
		name := "projects/p/topics/" + topic
		_, err := p.client.TopicAdminClient.CreateTopic(t.Context(), &pubsubpb.Topic{Name: name})
		if err == nil {
			_, err = p.client.SubscriptionAdminClient.CreateSubscription(t.Context(), &pubsubpb.Subscription{
				Name: "projects/p/subscriptions/" + subscription, Topic: name, AckDeadlineSeconds: 60})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return p
}

func (p *project) open() *queue.Queue {
	p.t.Helper()
	q, err := queue.Open(p.t.Context(), "p", "dead-letters", p.options...)
	if err != nil {
		p.t.Fatal(err)
	}
	return q
}

func (p *project) list(q *queue.Queue) []deadletter.Letter {
	p.t.Helper()
	all, err := q.List(p.t.Context(), 1000)
	if err != nil {
		p.t.Fatal(err)
	}
	return all
}

// in returns the messages that were published to a topic.
func (p *project) in(topic string) (out []*pstest.Message) {
	for _, m := range p.server.Messages() {
		if m.Topic == "projects/p/topics/"+topic {
			out = append(out, m)
		}
	}
	return out
}

func TestLettersAreListedAndPublishedAgain(t *testing.T) {
	p := start(t)
	at := time.Now().Add(-time.Hour).UTC().Truncate(time.Second)
	ours := deadletter.Letter{Kind: deadletter.Message, Topic: "projects/p/topics/findings", Cluster: "a/b/c", Reason: "cannot be read",
		At: at, Data: []byte("{"), Attributes: map[string]string{"priority": "first"}}
	p.server.Publish("projects/p/topics/dead-letters", ours.Data, ours.Encode())
	page := deadletter.Letter{Kind: deadletter.Page, Reason: "no channel took the page", At: at.Add(time.Minute), Data: []byte("{}")}
	p.server.Publish("projects/p/topics/dead-letters", page.Data, page.Encode())
	p.server.Publish("projects/p/topics/dead-letters", []byte("moved"), map[string]string{"priority": "later", // as Pub/Sub moves them
		"CloudPubSubDeadLetterSourceSubscription": "findings-later", "CloudPubSubDeadLetterSourceSubscriptionProject": "p",
		"deadletter-kind": "page", "deadletter-topic": "projects/p/topics/orders", "kind": "page", // forged
		"CloudPubSubDeadLetterSourceDeliveryCount": "20", "CloudPubSubDeadLetterSourceTopicPublishTime": "2026-11-25T09:30:00Z"})

	q := p.open()
	all := p.list(q)
	if len(all) != 3 {
		t.Fatalf("%d letters: %+v", len(all), all)
	}
	if l := all[0]; l.Topic != ours.Topic || l.Cluster != "a/b/c" || l.Reason != ours.Reason || !l.At.Equal(at) || !maps.Equal(l.Attributes, ours.Attributes) {
		t.Errorf("ours: %+v", l)
	}
	if l := all[1]; l.Kind != deadletter.Page {
		t.Errorf("the page: %+v", l)
	}
	if l := all[2]; l.Topic != "projects/p/topics/findings" || !strings.Contains(l.Reason, "20 times") || l.Kind != deadletter.Message || !maps.Equal(l.Attributes, map[string]string{"priority": "later", "kind": "page"}) {
		t.Errorf("Pub/Sub's: %+v", l)
	}
	for _, l := range all[1:] {
		if err := q.Replay(t.Context(), l); err != nil {
			t.Error(err)
		}
	}
	if err := q.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if got := p.in("findings"); len(got) != 1 || string(got[0].Data) != "moved" || got[0].Attributes["priority"] != "later" {
		t.Errorf("published again: %+v", got)
	}
	// What was not removed is there for the next.
	q = p.open()
	left := p.list(q)
	if len(left) != 1 || left[0].Reason != ours.Reason {
		t.Errorf("left: %+v", left)
	}
	if err := q.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestLetterStaysUntilItIsPublished: where a topic refuses the letter, or is not known,
// nothing is removed.
func TestLetterStaysUntilItIsPublished(t *testing.T) {
	p := start(t)
	for _, topic := range []string{"projects/p/topics/gone", "", "projects/another/topics/findings"} {
		l := deadletter.Letter{Topic: topic, Reason: "x", At: time.Now(), Data: []byte("x")}
		p.server.Publish("projects/p/topics/dead-letters", l.Data, l.Encode())
	}
	q := p.open()
	for _, l := range p.list(q) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		if err := q.Replay(ctx, l); err == nil {
			t.Errorf("published to %q", l.Topic)
		}
		cancel()
	}
	if err := q.Close(t.Context()); err != nil {
		t.Error(err)
	}
	q = p.open()
	if left := p.list(q); len(left) != 3 {
		t.Errorf("%d left, want all", len(left))
	}
	if err := q.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestEveryLetterIsListed: more than one reply of Pub/Sub's.
func TestEveryLetterIsListed(t *testing.T) {
	p := start(t)
	for i := range 250 {
		l := deadletter.Letter{Topic: "projects/p/topics/findings", Reason: fmt.Sprint(i), At: time.Now()}
		p.server.Publish("projects/p/topics/dead-letters", []byte("x"), l.Encode())
	}
	q := p.open()
	seen := map[string]bool{}
	for _, l := range p.list(q) {
		seen[l.Reason] = true
	}
	if len(seen) != 250 {
		t.Errorf("%d of 250", len(seen))
	}
	if err := q.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestForgedAttributesSayNothing: what a publisher calls its attributes is no part of the
// letter's own.
func TestForgedAttributesSayNothing(t *testing.T) {
	forged := map[string]string{"deadletter-kind": "page", "deadletter-topic": "projects/p/topics/orders", "deadletter-cluster": "x",
		"CloudPubSubDeadLetterSourceSubscription": "orders", "priority": "first"}
	l := deadletter.Letter{Reason: "malformed", At: time.Now(), Attributes: forged}
	got := deadletter.Decode("1", nil, l.Encode(), time.Now())
	if got.Kind != deadletter.Message || got.Topic != "" || got.Cluster != "" || got.Reason != "malformed" || !maps.Equal(got.Attributes, map[string]string{"priority": "first"}) {
		t.Errorf("%+v", got)
	}
}

func TestReasonIsBounded(t *testing.T) {
	l := deadletter.Letter{Reason: strings.Repeat("é", 2000)}
	if got := l.Encode()["deadletter-reason"]; len(got) > 1024 || !strings.HasPrefix(got, "éé") {
		t.Errorf("%d bytes", len(got))
	}
}
