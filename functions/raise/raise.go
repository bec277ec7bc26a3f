// Package raise owns the function that writes a sensor's detection as a finding of
// ours, and hands the same finding on at once, without waiting for SCC's notification:
//
//	Raise  Pub/Sub detections -> SCC finding, and the same finding on the findings topic
package raise

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"cloud.google.com/go/pubsub/v2"
	pb "cloud.google.com/go/securitycenter/apiv2/securitycenterpb"
	cloudevents "github.com/cloudevents/sdk-go/v2"
	"google.golang.org/api/option"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/deadletter"
	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/internal/funcserver"
	"github.com/contraband-dev/contraband/internal/retry"
	"github.com/contraband-dev/contraband/internal/scc"
	"github.com/contraband-dev/contraband/internal/sensorapi"
)

// Config is read from the environment.
type Config struct {
	// Project is the id of the project that holds the topics. Required.
	Project string `env:"GOOGLE_CLOUD_PROJECT, required"`
	// FindingsTopic takes the direct copy of what Raise has written.
	FindingsTopic string `env:"CONTRABAND_FINDINGS_TOPIC, default=findings"`
	// DeadLetterTopic takes what can never be understood, with the reason.
	DeadLetterTopic string `env:"CONTRABAND_DEAD_LETTER_TOPIC, default=dead-letters"`
	// Clusters says whose detections a topic carries; a node's own word does not
	// count. Form: TOPIC=PROJECT/LOCATION/CLUSTER[,...]
	Clusters map[string]string `env:"CONTRABAND_CLUSTERS, separator=="`
	// SCCSource is the name of our source. Empty: nothing is written to SCC, and
	// escalation lives in the case and on the page.
	SCCSource string `env:"CONTRABAND_SCC_SOURCE"`
	// SCCScope is below which findings nearby are looked for: organizations/N, folders/N
	// or projects/P. Empty: the source's organization.
	SCCScope string `env:"CONTRABAND_SCC_SCOPE"`
}

// Parts replace what only Google's cloud has, on one machine and in tests.
type Parts struct{ PubSub, SCC []option.ClientOption }

// Raiser has the topics, and SCC.
type Raiser struct {
	// SCC is nil without a source.
	SCC *scc.Client

	cfg      Config
	pubsub   *pubsub.Client
	findings *pubsub.Publisher
	dead     *pubsub.Publisher
}

// New opens the topics and SCC.
func New(ctx context.Context, cfg Config, parts Parts) (*Raiser, error) {
	r, err := NewWriter(ctx, cfg, parts)
	if err != nil {
		return nil, err
	}
	if r.pubsub, err = pubsub.NewClient(ctx, cfg.Project, parts.PubSub...); err != nil {
		return nil, errors.Join(fmt.Errorf("open Pub/Sub: %w", err), r.Close())
	}
	r.findings, r.dead = r.pubsub.Publisher(cfg.FindingsTopic), r.pubsub.Publisher(cfg.DeadLetterTopic)
	for _, p := range []*pubsub.Publisher{r.findings, r.dead} {
		p.PublishSettings.DelayThreshold = time.Millisecond // an alert does not wait for company
	}
	return r, nil
}

// NewWriter opens SCC alone, for whoever publishes nothing.
func NewWriter(ctx context.Context, cfg Config, parts Parts) (*Raiser, error) {
	r := &Raiser{cfg: cfg}
	if cfg.SCCSource == "" {
		return r, nil
	}
	var err error
	if r.SCC, err = scc.NewClient(ctx, cfg.SCCSource, parts.SCC...); err != nil {
		return nil, err
	}
	r.SCC.Scope = cfg.SCCScope
	return r, nil
}

// Register registers the function with the framework.
func Register() {
	p := funcserver.NewProgram(func(ctx context.Context, c Config) (*Raiser, error) { return New(ctx, c, Parts{}) })
	p.Event("Raise", (*Raiser).Raise)
}

// Close ends connections; what was published is on its way or was refused.
func (r *Raiser) Close() error {
	var errs []error
	if r.pubsub != nil {
		r.findings.Stop()
		r.dead.Stop()
		errs = append(errs, r.pubsub.Close())
	}
	if r.SCC != nil {
		errs = append(errs, r.SCC.Close())
	}
	return errors.Join(errs...)
}

// Raise takes a detection that the sensor has published.
func (r *Raiser) Raise(ctx context.Context, e cloudevents.Event) error {
	ctx, cancel := context.WithTimeout(ctx, cases.FunctionTimeout)
	defer cancel()
	topic := funcserver.TopicOf(e)
	m, err := funcserver.ReadMessage(e)
	if err != nil { // no repetition makes it readable
		return funcserver.Safe(r.Park(ctx, deadletter.Letter{Topic: topic, Cluster: r.cfg.Clusters[topic], Reason: err.Error(), Data: e.Data()}))
	}
	err = r.raise(ctx, topic, m)
	if retry.IsRefused(err) {
		return funcserver.Safe(r.Park(ctx, deadletter.Letter{Topic: topic, Cluster: r.cfg.Clusters[topic], Reason: err.Error(), Data: m.Data, Attributes: m.Attributes}))
	}
	return funcserver.Safe(err)
}

func (r *Raiser) raise(ctx context.Context, topic string, m funcserver.Message) error {
	d, err := sensorapi.ParseDetection(m.Data)
	if err != nil {
		return retry.Refused(err)
	}
	place, err := r.cfg.place(topic)
	if err != nil {
		return err // a configuration that will be mended: nothing is lost meanwhile
	}
	source := r.cfg.SCCSource
	if source == "" {
		source = "projects/" + place.Project + "/sources/contraband/locations/global"
	}
	_, f, err := scc.FromDetection(d, place, source, time.Now())
	if err != nil {
		return retry.Refused(err)
	}
	var unwritten error
	if r.SCC != nil {
		written, err := r.SCC.Upsert(ctx, f)
		switch {
		case err == nil:
			f = written
		case retry.IsRefused(err):
			// SCC will never accept it: people are notified all the same.
			slog.Error("the finding is not in SCC", "error", err.Error())
			f.CanonicalName = f.Name
		default: // people are notified all the same; the message is delivered again, for SCC
			f.CanonicalName, unwritten = f.Name, err
		}
	}
	body, err := scc.Notification("", f, &pb.Resource{Name: f.ResourceName})
	if err != nil {
		return retry.Refused(err)
	}
	_, err = r.findings.Publish(ctx, &pubsub.Message{Data: body, Attributes: priorityOf(m).Attributes()}).Get(ctx)
	return errors.Join(unwritten, err)
}

// priorityOf returns the priority of the finding that is made of a detection: the sensor's.
func priorityOf(m funcserver.Message) sensorapi.Priority {
	if sensorapi.Priority(m.Attributes[sensorapi.PriorityAttribute]) == sensorapi.First {
		return sensorapi.First
	}
	return sensorapi.Later
}

// place returns whose detections a topic carries.
func (c Config) place(topic string) (finding.Place, error) {
	parts := strings.Split(c.Clusters[topic], "/")
	if len(parts) != 3 {
		return finding.Place{}, fmt.Errorf("topic %q: CONTRABAND_CLUSTERS does not say whose detections it carries (TOPIC=PROJECT/LOCATION/CLUSTER)", topic)
	}
	return finding.Place{Project: parts[0], Location: parts[1], Cluster: parts[2]}, nil
}

// Park puts what can never succeed where people find it, and only then lets it
// be acknowledged.
func (r *Raiser) Park(ctx context.Context, l deadletter.Letter) error {
	l.At = time.Now()
	slog.Error("dead letter", "reason", l.Reason, "kind", l.Kind, "topic", l.Topic, "cluster", l.Cluster, "bytes", len(l.Data))
	_, err := r.dead.Publish(ctx, &pubsub.Message{Data: l.Data, Attributes: l.Encode()}).Get(ctx)
	if err != nil {
		return fmt.Errorf("dead letter: %w", err)
	}
	return nil
}
