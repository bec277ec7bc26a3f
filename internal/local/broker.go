package local

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"time"

	"cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"cloud.google.com/go/pubsub/v2/pstest"
	"github.com/contraband-dev/contraband/internal/boltfile"
	"github.com/contraband-dev/contraband/internal/deadletter"
	"github.com/contraband-dev/contraband/internal/sensorapi"
	"go.etcd.io/bbolt"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// Topics of one machine.
const (
	project         = "local"
	topicDetections = "detections"
	topicFindings   = "findings"
	topicDead       = "dead-letters"
)

// lanes are the subscriptions of a topic, as Terraform makes them: what is first does not
// wait behind a backlog of the rest.
var lanes = []struct{ suffix, filter string }{{"-first", sensorapi.FirstFilter}, {"-later", sensorapi.LaterFilter}}

// broker is Pub/Sub on one machine. pstest speaks the protocol; broker adds a journal on
// disk, written before a publish is acknowledged, and push delivery, which is retried until
// the function returns 2xx.
type broker struct {
	server *pstest.Server
	front  *grpc.Server // serves server's methods, for messages as large as Pub/Sub's
	addr   string
	client *pubsub.Client
	db     *bbolt.DB
}

// Pub/Sub's own limits: of a message, and of a request with several.
const (
	maxMessage = 10_000_000
	maxRequest = 20 << 20
)

// Buckets of the journal, keyed by sequence number. Entries are deleted when the message is
// delivered; messages to the dead-letter topic are kept.
var (
	bucketJournal = []byte("journal")
	bucketDead    = []byte("dead")
)

type entry struct {
	Topic      string            `json:"topic"`
	Data       []byte            `json:"data"`
	Attributes map[string]string `json:"attributes,omitempty"`
}

// journalled is the attribute with a message's sequence number in the journal; it is removed
// before delivery.
const journalled = "contraband-journal"

func startBroker(ctx context.Context, file string) (*broker, error) {
	db, damage, err := boltfile.Open(file)
	if err != nil {
		return nil, fmt.Errorf("open journal %q: %w", file, err)
	}
	if damage != nil {
		slog.Error("the journal of undelivered messages", "error", damage)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(bucketJournal)
		_, err2 := tx.CreateBucketIfNotExists(bucketDead)
		return errors.Join(err, err2)
	})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	b := &broker{db: db}
	b.server = pstest.NewServer(pstest.ServerReactorOption{FuncName: "Publish", Reactor: b})
	if err := b.serve(); err != nil {
		return nil, errors.Join(err, b.close())
	}
	if b.client, err = pubsub.NewClient(ctx, project, b.options()...); err != nil {
		return nil, errors.Join(err, b.close())
	}
	for _, name := range []string{topicDetections, topicFindings, topicDead} {
		topic := "projects/" + project + "/topics/" + name
		if _, err := b.client.TopicAdminClient.CreateTopic(ctx, &pubsubpb.Topic{Name: topic}); err != nil {
			return nil, errors.Join(err, b.close())
		}
		if name == topicDead {
			continue // dead letters are not delivered
		}
		for _, l := range lanes {
			if _, err := b.client.SubscriptionAdminClient.CreateSubscription(ctx, &pubsubpb.Subscription{
				Name: "projects/" + project + "/subscriptions/" + name + l.suffix, Topic: topic, AckDeadlineSeconds: 600, Filter: l.filter,
			}); err != nil {
				return nil, errors.Join(err, b.close())
			}
		}
	}
	return b, nil
}

func (b *broker) close() error {
	var errs []error
	if b.client != nil {
		errs = append(errs, b.client.Close())
	}
	if b.front != nil {
		b.front.Stop()
	}
	return errors.Join(append(errs, b.server.Close(), b.db.Close())...)
}

// serve listens on loopback: pstest's own listener refuses requests of more than 4 MiB, and
// a client tries those again and again.
func (b *broker) serve() error {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen for Pub/Sub: %w", err)
	}
	b.addr = l.Addr().String()
	b.front = grpc.NewServer(grpc.MaxRecvMsgSize(maxRequest), grpc.MaxSendMsgSize(maxRequest))
	pubsubpb.RegisterPublisherServer(b.front, &b.server.GServer)
	pubsubpb.RegisterSubscriberServer(b.front, &b.server.GServer)
	go b.front.Serve(l) // until Stop
	return nil
}

// options returns the options with which a Pub/Sub client connects to this broker.
func (b *broker) options() []option.ClientOption {
	return []option.ClientOption{
		option.WithEndpoint(b.addr), option.WithoutAuthentication(),
		option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())),
	}
}

// React journals published messages. A publish that cannot be journalled is refused, so every
// acknowledged message is on disk.
func (b *broker) React(request any) (handled bool, ret any, err error) {
	r, ok := request.(*pubsubpb.PublishRequest)
	if !ok {
		return false, nil, nil
	}
	err = b.db.Update(func(tx *bbolt.Tx) error {
		bucket := tx.Bucket(bucketJournal)
		if r.Topic == "projects/"+project+"/topics/"+topicDead {
			bucket = tx.Bucket(bucketDead)
		}
		for _, m := range r.Messages {
			if m.Attributes[journalled] != "" {
				continue // replayed from the journal
			}
			seq, err := bucket.NextSequence()
			if err != nil {
				return err
			}
			v, err := json.Marshal(entry{r.Topic, m.Data, m.Attributes})
			if err != nil {
				return err
			}
			if err := bucket.Put(key(seq), v); err != nil {
				return err
			}
			if m.Attributes == nil {
				m.Attributes = map[string]string{}
			}
			m.Attributes[journalled] = strconv.FormatUint(seq, 10)
		}
		return nil
	})
	return err != nil, &pubsubpb.PublishResponse{}, err
}

func key(seq uint64) []byte { return binary.BigEndian.AppendUint64(nil, seq) }

// replay publishes the messages that were not delivered before the process ended, and returns
// their number.
func (b *broker) replay() (int, error) {
	type left struct {
		seq uint64
		entry
	}
	var all []left
	err := b.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketJournal).ForEach(func(k, v []byte) error {
			l := left{seq: binary.BigEndian.Uint64(k)}
			err := json.Unmarshal(v, &l.entry)
			all = append(all, l)
			return err
		})
	})
	for _, l := range all {
		if l.Attributes == nil {
			l.Attributes = map[string]string{}
		}
		l.Attributes[journalled] = strconv.FormatUint(l.seq, 10)
		b.server.Publish(l.Topic, l.Data, l.Attributes)
	}
	return len(all), err
}

// push delivers the messages of one of a topic's lanes to a function as Pub/Sub does: a POST of
// {message, subscription} to a path that ends in the topic's name. A message is acknowledged on 2xx, else
// delivered again after a growing pause.
func (b *broker) push(ctx context.Context, topic, lane, base string) error {
	sub := b.client.Subscriber(topic + lane)
	sub.ReceiveSettings.MaxOutstandingMessages = 1000 // a failing message must not block others
	// The journal remembers undelivered messages, so shutdown does not wait for the subscription.
	sub.ReceiveSettings.ShutdownOptions = &pubsub.ShutdownOptions{
		Behavior: pubsub.ShutdownBehaviorNackImmediately, Timeout: time.Second,
	}
	url := base + "/projects/" + project + "/topics/" + topic
	atOnce := make(chan struct{}, 8)
	return sub.Receive(ctx, func(ctx context.Context, m *pubsub.Message) {
		for pause := 250 * time.Millisecond; ; pause = min(2*pause, 30*time.Second) {
			atOnce <- struct{}{}
			err := deliver(ctx, url, topic+lane, m)
			<-atOnce
			if err == nil {
				break
			}
			slog.Warn("delivery failed; will retry", "topic", topic, "message", m.ID, "error", err.Error(), "pause", pause)
			select {
			case <-ctx.Done():
				m.Nack() // it remains in the journal
				return
			case <-time.After(pause):
			}
		}
		if seq, err := strconv.ParseUint(m.Attributes[journalled], 10, 64); err == nil {
			err := b.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketJournal).Delete(key(seq)) })
			if err != nil {
				slog.Error("failed to update the journal; the message will be delivered again after a restart", "error", err)
			}
		}
		m.Ack()
	})
}

func deliver(ctx context.Context, url, subscription string, m *pubsub.Message) error {
	attributes := map[string]string{}
	for k, v := range m.Attributes {
		if k != journalled {
			attributes[k] = v
		}
	}
	published := m.PublishTime.UTC().Format(time.RFC3339Nano)
	body, err := json.Marshal(map[string]any{
		"message": map[string]any{
			"data": m.Data, "attributes": attributes, "messageId": m.ID, "message_id": m.ID,
			"publishTime": published, "publish_time": published,
		},
		"subscription": "projects/" + project + "/subscriptions/" + subscription,
	})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		why, _ := io.ReadAll(io.LimitReader(resp.Body, 512))
		return fmt.Errorf("%s: %s", resp.Status, bytes.TrimSpace(why))
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// counts returns the numbers of undelivered messages and of dead letters.
func (b *broker) counts() (waiting, dead int, err error) {
	err = b.db.View(func(tx *bbolt.Tx) error {
		waiting, dead = tx.Bucket(bucketJournal).Stats().KeyN, tx.Bucket(bucketDead).Stats().KeyN
		return nil
	})
	return waiting, dead, err
}

// deadLetters returns the messages that were given up on, newest last.
func (b *broker) deadLetters() ([]deadletter.Letter, error) {
	out := []deadletter.Letter{}
	err := b.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketDead).ForEach(func(k, v []byte) error {
			var e entry
			if err := json.Unmarshal(v, &e); err != nil { // it must not hide the others
				e = entry{Data: v, Attributes: map[string]string{"reason": "the journal's record of it is damaged: " + err.Error()}}
			}
			out = append(out, deadletter.Decode(strconv.FormatUint(binary.BigEndian.Uint64(k), 10), e.Data, e.Attributes, time.Time{}))
			return nil
		})
	})
	return out, err
}

var errNoLetter = errors.New("there is no such dead letter")

// replayDead publishes a dead letter to its topic again, and then removes it. Of a page
// nothing is published: it is sent by itself.
func (b *broker) replayDead(ctx context.Context, id string) error {
	all, err := b.deadLetters()
	if err != nil {
		return err
	}
	i := slices.IndexFunc(all, func(l deadletter.Letter) bool { return l.ID == id })
	if i < 0 {
		return errNoLetter
	}
	seq, err := strconv.ParseUint(id, 10, 64)
	if err != nil {
		return err
	}
	if l := all[i]; l.Kind == deadletter.Message {
		if l.Topic == "" {
			return fmt.Errorf("letter %s: it is not known to which topic it was published", id)
		}
		p := b.client.Publisher(l.Topic)
		defer p.Stop()
		if _, err := p.Publish(ctx, &pubsub.Message{Data: l.Data, Attributes: l.Attributes}).Get(ctx); err != nil {
			return fmt.Errorf("publish letter %s to %q: %w", id, l.Topic, err)
		}
	}
	return b.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketDead).Delete(key(seq)) })
}
