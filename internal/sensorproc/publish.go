package sensorproc

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"sync"
	"time"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"golang.org/x/oauth2/google"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/credentials/oauth"

	"github.com/contraband-dev/contraband/internal/sensorapi"
)

// publisher calls Pub/Sub's Publish for one message at a time: the client library
// would bring batching, flow control and tracing that a few detections a day do
// not need, and ten megabytes of them.
type publisher struct {
	topic  string
	conn   *grpc.ClientConn
	client pubsubpb.PublisherClient

	mu      sync.Mutex
	lastErr error
	since   time.Time // of the first failure after a success
	failed  uint64
	sent    uint64
}

var topicForm = regexp.MustCompile(`^projects/[^/]+/topics/[^/]+$`)

const (
	endpoint     = "pubsub.googleapis.com:443"
	scope        = "https://www.googleapis.com/auth/pubsub"
	publishLimit = 30 * time.Second
)

// openPublisher connects lazily: a network that is away at the start is no reason
// not to watch.
func openPublisher(ctx context.Context, topic string) (*publisher, error) {
	if !topicForm.MatchString(topic) {
		return nil, fmt.Errorf("--topic %q is not of the form projects/P/topics/T", topic)
	}
	address, options := endpoint, []grpc.DialOption(nil)
	if emulator := os.Getenv("PUBSUB_EMULATOR_HOST"); emulator != "" {
		address, options = emulator, append(options, grpc.WithTransportCredentials(insecure.NewCredentials()))
	} else {
		tokens, err := google.DefaultTokenSource(ctx, scope)
		if err != nil {
			return nil, fmt.Errorf("find credentials for Pub/Sub (Workload Identity, or GOOGLE_APPLICATION_CREDENTIALS): %w", err)
		}
		options = append(options, grpc.WithTransportCredentials(credentials.NewTLS(nil)), grpc.WithPerRPCCredentials(oauth.TokenSource{TokenSource: tokens}))
	}
	conn, err := grpc.NewClient(address, options...)
	if err != nil {
		return nil, fmt.Errorf("connect to Pub/Sub at %q: %w", address, err)
	}
	return &publisher{topic: topic, conn: conn, client: pubsubpb.NewPublisherClient(conn)}, nil
}

func (p *publisher) publish(ctx context.Context, detection []byte, priority sensorapi.Priority) error {
	ctx, cancel := context.WithTimeout(ctx, publishLimit)
	defer cancel()
	_, err := p.client.Publish(ctx, &pubsubpb.PublishRequest{Topic: p.topic, Messages: []*pubsubpb.PubsubMessage{{Data: detection, Attributes: priority.Attributes()}}})
	if err != nil {
		err = fmt.Errorf("publish to %q: %w", p.topic, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case err == nil:
		p.sent++
		p.lastErr = nil
	case p.lastErr == nil:
		p.since = time.Now()
		fallthrough
	default:
		p.failed++
		p.lastErr = err
	}
	return err
}

// state returns the counts, and for how long publishing has been failing and why.
func (p *publisher) state() (sent, failed uint64, failing time.Duration, why error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lastErr != nil {
		failing = time.Since(p.since)
	}
	return p.sent, p.failed, failing, p.lastErr
}

func (p *publisher) close() error { return p.conn.Close() }
