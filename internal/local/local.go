// Package local wires the whole pipeline into one process, for `contraband up`:
// the sensor on the real kernel, Pub/Sub, the function server, and a stand-in
// for each service that this machine does not have. Nothing that is deployed
// imports it.
//
// It owns a directory (one process at a time): the case log, the journal of
// what is published, the stand-ins' records, the sensor's state. After a kill
// -9 the next start on it goes on where the last one ended.
package local

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"cloud.google.com/go/pubsub/v2"
	"github.com/GoogleCloudPlatform/functions-framework-go/funcframework"
	"github.com/google/uuid"
	"golang.org/x/sys/unix"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/contraband-dev/contraband/functions"
	"github.com/contraband-dev/contraband/functions/act"
	"github.com/contraband-dev/contraband/functions/book"
	"github.com/contraband-dev/contraband/functions/front"
	"github.com/contraband-dev/contraband/functions/raise"
	"github.com/contraband-dev/contraband/internal/blobstore"
	"github.com/contraband-dev/contraband/internal/contain"
	"github.com/contraband-dev/contraband/internal/contain/cluster"
	fakescc "github.com/contraband-dev/contraband/internal/fake/scc"
	fakeslack "github.com/contraband-dev/contraband/internal/fake/slack"
	fakeworkflows "github.com/contraband-dev/contraband/internal/fake/workflows"
	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/internal/web"
	"github.com/contraband-dev/contraband/internal/workflowlang"
	"github.com/contraband-dev/contraband/sensor"
	deployed "github.com/contraband-dev/contraband/workflows"
)

const (
	source   = "organizations/1/sources/1/locations/global"
	workflow = "projects/" + project + "/locations/local/workflows/case"
	// filter is the one that the deployment gives SCC's notification config: it
	// leaves out our escalations, and only those, so that an analyst who closes one
	// of our findings is heard.
	filter = `NOT (category="` + finding.AddedMaliciousBinary + `" AND parent="` + source + `")`
)

// Config of a Machine.
type Config struct {
	// Dir is the machine's own directory. Required.
	Dir string
	// Listen is the loopback address of the pages and the API. Default 127.0.0.1:0.
	Listen string
	// Policy and Indicators are paths; empty: the built-in ones.
	Policy, Indicators string
	// Sensor watches this machine's containers; nil: none, findings come from
	// replay alone. Node, StateDir and Publish are filled in here.
	Sensor *sensor.Config
	// SlackToken and SlackChannel are real; empty: the stand-in shows the pages.
	SlackToken, SlackChannel string
	// VirusTotalKey is the user's own; empty: not asked.
	VirusTotalKey string
	// RuntimeFile is where the commands find this process; empty: nowhere.
	RuntimeFile string
	// Cluster is a Kubernetes cluster whose sensors publish here and whose pods are
	// contained; nil: this machine's containers alone.
	Cluster *Cluster
}

// Cluster that a Machine answers for. The identities that reach it are the
// cluster's to bound.
type Cluster struct {
	Place       finding.Place
	Reads, Acts cluster.Finder // with Respond's rights, with Contain's
}

// Machine is the pipeline, running.
type Machine struct {
	URL    string // of the pages and the API
	Token  string // bearer of the API, and the key of the pages
	cfg    Config
	lock   *os.File
	store  blobstore.Store
	broker *broker
	scc    *fakescc.Server
	slack  *fakeslack.Server
	// workflows drives cases with the file that is deployed.
	workflows *fakeworkflows.Server
	suite     *functions.Suite
	actor     *act.Actor
	book      *book.Book
	sensor    *sensor.Sensor
	web       *http.Server
	upload    uploads
	done      outcomes
	cancel    context.CancelFunc
	wg        sync.WaitGroup
	failed    chan error
}

// Start starts everything, or nothing.
func Start(ctx context.Context, cfg Config) (m *Machine, err error) {
	if cfg.Listen == "" {
		cfg.Listen = "127.0.0.1:0"
	}
	if host, _, err := net.SplitHostPort(cfg.Listen); err != nil || !isLoopback(host) {
		return nil, fmt.Errorf("listen on %q: a loopback address is wanted, 127.0.0.1:PORT: the pages can freeze and thaw containers", cfg.Listen)
	}
	m = &Machine{cfg: cfg, Token: rand.Text(), failed: make(chan error, 8)}
	ctx, m.cancel = context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		if err != nil {
			err = errors.Join(err, m.Close())
		}
	}()
	if m.lock, err = lockDir(cfg.Dir); err != nil {
		return m, err
	}
	listener, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return m, fmt.Errorf("listen on %q: %w", cfg.Listen, err)
	}
	m.URL = "http://" + listener.Addr().String()
	if err := m.startServices(ctx); err != nil {
		listener.Close()
		return m, err
	}
	m.web = &http.Server{Handler: m.handler(), ReadHeaderTimeout: 10 * time.Second}
	m.wg.Go(func() {
		if err := m.web.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			m.failed <- err
		}
	})
	base, err := m.serveFunctions(ctx)
	if err != nil {
		return m, err
	}
	for _, name := range []string{topicDetections, topicFindings} {
		m.background(func() error { return m.broker.push(ctx, name, base) })
	}
	n, err := m.broker.replay()
	if err != nil {
		return m, err
	}
	if n > 0 {
		slog.Info("going on with what was not delivered before", "messages", n)
	}
	m.background(func() error { return sweep(ctx, base) })
	if m.sensor != nil {
		m.background(func() error { return m.sensor.Run(ctx) })
	}
	return m, m.announce()
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func (m *Machine) background(f func() error) {
	m.wg.Go(func() {
		if err := f(); err != nil {
			m.failed <- err
		}
	})
}

// lockDir makes sure that one process at a time has the directory: it is what
// lets a new process take over the cases of a dead one at once.
func lockDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("%q is in use by another `contraband up`: stop that one, or choose another --dir", dir)
	}
	return f, nil
}

func (m *Machine) startServices(ctx context.Context) (err error) {
	in := func(name string) string { return filepath.Join(m.cfg.Dir, name) }
	if m.store, err = blobstore.Open(ctx, "dir://"+in("cases")); err != nil {
		return err
	}
	if m.broker, err = startBroker(ctx, in("journal.db")); err != nil {
		return err
	}
	findings := m.broker.client.Publisher(topicFindings)
	findings.PublishSettings.DelayThreshold = time.Millisecond
	m.scc, err = fakescc.Start(fakescc.Config{
		File: in("scc.db"), Source: source, ProjectNumber: "1", NotificationConfig: "organizations/1/locations/global/notificationConfigs/contraband", Filter: filter,
		Notify: func(ctx context.Context, message []byte) error {
			_, err := findings.Publish(ctx, &pubsub.Message{Data: message}).Get(ctx)
			return err
		},
	})
	if err != nil {
		return err
	}
	if m.cfg.SlackToken == "" {
		if m.slack, err = fakeslack.Open(in("slack.db")); err != nil {
			return err
		}
		m.slack.Token, m.slack.URL = m.Token, m.URL+"/slack/"
	}
	if err := m.startSensor(); err != nil {
		return err
	}
	m.upload = uploads{key: []byte(rand.Text()), base: m.URL + "/upload/", store: m.store}
	return nil
}

func hostname() string {
	if name, err := os.Hostname(); err == nil && name != "" {
		return name
	}
	return "localhost"
}

func (m *Machine) startSensor() (err error) {
	if m.cfg.Sensor == nil {
		return nil
	}
	detections := m.broker.client.Publisher(topicDetections)
	detections.PublishSettings.DelayThreshold = time.Millisecond
	c := *m.cfg.Sensor
	c.Node, c.StateDir = hostname(), filepath.Join(m.cfg.Dir, "sensor")
	c.Publish = func(ctx context.Context, detection []byte) error {
		_, err := detections.Publish(ctx, &pubsub.Message{Data: detection}).Get(ctx)
		return err
	}
	m.sensor, err = sensor.New(c)
	return err
}

// serveFunctions serves them under functions-framework-go. Its server cannot be
// stopped: it ends with the process.
func (m *Machine) serveFunctions(ctx context.Context) (base string, err error) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	_, port, _ := net.SplitHostPort(free.Addr().String())
	free.Close()
	// The framework knows no authentication: the paths cannot be guessed.
	secret := "/" + rand.Text()
	base = "http://127.0.0.1:" + port + secret

	incarnation := uuid.NewString()
	token, channel, slackAPI, signing := m.cfg.SlackToken, m.cfg.SlackChannel, "", ""
	if m.slack != nil {
		token, channel, slackAPI, signing = m.Token, fakeslack.Channel, m.URL+"/slack-api/api/", rand.Text()
		m.slack.Interact = fakeslack.Interactivity{URL: base + "/Interact", SigningSecret: signing}
	}
	parts := functions.Parts{
		SlackAPI: slackAPI, Incarnation: incarnation, Observe: m.done.put,
		// The directory is locked: whoever held a case in an earlier process is dead.
		Front: front.Parts{HTTP: http.DefaultClient, Store: m.store, Alive: func(holder string) bool { return strings.HasPrefix(holder, incarnation+"/") }},
		Raise: raise.Parts{PubSub: m.broker.options(), SCC: []option.ClientOption{option.WithEndpoint(m.scc.Addr), option.WithoutAuthentication(),
			option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials()))}},
	}
	definition, err := workflowlang.Parse(deployed.Case)
	if err != nil {
		return "", fmt.Errorf("workflows/case.yaml: %w", err)
	}
	m.workflows, err = fakeworkflows.Start(fakeworkflows.Config{
		Workflow: workflow, Definition: definition, Env: map[string]string{"ADVANCE_URL": base + "/Advance", "ADVANCE_AUDIENCE": base},
	})
	if err != nil {
		return "", err
	}
	parts.Executions, parts.Front.Callbacks = m.workflows.Options(), m.workflows.CallbackClient()
	acts := act.Parts{Front: parts.Front, Upload: m.upload.sign}
	place := finding.Place{Project: "local", Location: "local", Cluster: hostname()}
	if m.cfg.Cluster != nil {
		place, parts.Reads, acts.Clusters = m.cfg.Cluster.Place, m.cfg.Cluster.Reads, m.cfg.Cluster.Acts
	}
	if m.sensor != nil {
		acts.Orders = contain.HTTPOrders{URL: m.URL, Token: m.Token, Client: http.DefaultClient}
	}
	m.suite, err = functions.New(ctx, functions.Config{
		Front: front.Config{Store: "dir://", SlackSigningSecret: signing, AdvanceURL: base + "/Advance"},
		Raise: raise.Config{Project: project, FindingsTopic: topicFindings, DeadLetterTopic: topicDead, SCCSource: source,
			Clusters: map[string]string{"projects/" + project + "/topics/" + topicDetections: place.Project + "/" + place.Location + "/" + place.Cluster}},
		Policy: m.cfg.Policy, Indicators: m.cfg.Indicators, VirusTotalKey: m.cfg.VirusTotalKey, SlackToken: token, SlackChannel: channel,
		Workflow: workflow, CallbackPrefix: m.workflows.CallbackPrefix(),
		ContainURL: base + "/Contain", CasebookURL: m.URL,
	}, parts)
	if err != nil {
		return "", err
	}
	if m.actor, err = act.New(ctx, act.Config{Policy: m.cfg.Policy}, acts); err != nil {
		return "", err
	}
	m.book = book.On(m.suite.Front, web.Visitors{May: m.suite.IsApprover})
	topics := secret + "/projects/" + project + "/topics/"
	err = errors.Join(
		funcframework.RegisterCloudEventFunctionContext(ctx, topics+topicDetections, m.suite.Raise),
		funcframework.RegisterCloudEventFunctionContext(ctx, topics+topicFindings, m.suite.Respond),
		funcframework.RegisterHTTPFunctionContext(ctx, secret+"/Advance", m.suite.Advance),
		funcframework.RegisterHTTPFunctionContext(ctx, secret+"/Contain", m.actor.Contain),
		funcframework.RegisterHTTPFunctionContext(ctx, secret+"/Sweep", m.suite.Sweep),
		funcframework.RegisterHTTPFunctionContext(ctx, secret+"/Interact", m.suite.Interact),
	)
	if err != nil {
		return "", fmt.Errorf("register functions: %w", err)
	}
	// The framework announces each function on standard output, which is the commands'.
	if os.Stdout, err = os.OpenFile(os.DevNull, os.O_WRONLY, 0); err != nil {
		return "", err
	}
	go func() { m.failed <- funcframework.StartHostPort("127.0.0.1", port) }()
	return base, waitForPort(ctx, "127.0.0.1:"+port)
}

func waitForPort(ctx context.Context, address string) error {
	for range 500 {
		if c, err := net.Dial("tcp", address); err == nil {
			return c.Close()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
	return fmt.Errorf("the function server does not listen on %s", address)
}

// sweep is Cloud Scheduler's part.
func sweep(ctx context.Context, base string) error {
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/Sweep", http.NoBody)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			continue // the next tick
		}
		resp.Body.Close()
	}
}

// announce lets the commands find this process.
func (m *Machine) announce() error {
	if m.cfg.RuntimeFile == "" {
		return nil
	}
	body, err := json.Marshal(Client{URL: m.URL, Token: m.Token})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(m.cfg.RuntimeFile), 0o700); err != nil {
		return err
	}
	tmp := m.cfg.RuntimeFile + ".new"
	if err := os.WriteFile(tmp, body, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, m.cfg.RuntimeFile)
}

// PubSub answers where sensors of other machines publish: the server's address,
// for PUBSUB_EMULATOR_HOST, and the topic.
func (m *Machine) PubSub() (address, topic string) {
	return m.broker.server.Addr, "projects/" + project + "/topics/" + topicDetections
}

// Failed answers when a part has ended by itself.
func (m *Machine) Failed() <-chan error { return m.failed }

// Close stops everything; what is under way goes on after the next Start.
func (m *Machine) Close() error {
	var errs []error
	if m.cfg.RuntimeFile != "" {
		if c, err := Find(m.cfg.RuntimeFile); err == nil && c.Token == m.Token {
			os.Remove(m.cfg.RuntimeFile)
		}
	}
	m.cancel()
	if m.workflows != nil {
		errs = append(errs, m.workflows.Close())
	}
	if m.web != nil {
		errs = append(errs, m.web.Close())
	}
	if m.scc != nil {
		errs = append(errs, m.scc.Close())
	}
	m.wg.Wait()
	if m.sensor != nil {
		errs = append(errs, m.sensor.Close())
	}
	if m.suite != nil {
		errs = append(errs, m.suite.Close())
	}
	if m.broker != nil {
		errs = append(errs, m.broker.close())
	}
	if m.slack != nil {
		errs = append(errs, m.slack.Close())
	}
	if m.lock != nil {
		errs = append(errs, m.lock.Close())
	}
	return errors.Join(errs...)
}
