// Package local runs the whole pipeline in one process, for `contraband up`: the
// sensor on the real kernel, Pub/Sub, the functions, and an in-process server for
// each service that this machine does not have. Nothing deployed imports it.
//
// It owns a directory, locked by one process at a time: the case log, the journal
// of published messages, the records of the in-process servers, and the sensor's
// state. After a kill -9 the next start on the directory resumes the work.
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
	"sync"
	"time"

	"cloud.google.com/go/pubsub/v2"
	"golang.org/x/sys/unix"

	"github.com/contraband-dev/contraband/functions/casebook"
	containfunc "github.com/contraband-dev/contraband/functions/contain"
	"github.com/contraband-dev/contraband/functions/interact"
	respondfunc "github.com/contraband-dev/contraband/functions/respond"
	"github.com/contraband-dev/contraband/internal/blobstore"
	"github.com/contraband-dev/contraband/internal/contain/cluster"
	fakescc "github.com/contraband-dev/contraband/internal/fake/scc"
	fakeslack "github.com/contraband-dev/contraband/internal/fake/slack"
	fakeworkflows "github.com/contraband-dev/contraband/internal/fake/workflows"
	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/internal/scc"
	"github.com/contraband-dev/contraband/internal/sensorapi"
	"github.com/contraband-dev/contraband/sensor"
)

const (
	source   = "organizations/1/sources/1/locations/global"
	workflow = "projects/" + project + "/locations/local/workflows/case"
)

// Config configures a Machine.
type Config struct {
	// Dir is the directory of all records. Required.
	Dir string
	// Listen is the loopback address of the pages and the API. Default 127.0.0.1:0.
	Listen string
	// Policy and Indicators are paths of files; empty: the built-in ones.
	Policy, Indicators string
	// Exceptions is the path of a file of exceptions, for the sensor and for Respond; empty:
	// those of the policy file alone.
	Exceptions string
	// Sensor configures the sensor that watches this machine's containers; nil: no
	// sensor, findings come from replay only. Start sets Node, StateDir and Publish.
	Sensor *sensor.Config
	// SlackToken and SlackChannel name a real Slack channel; empty: pages go to the
	// in-process Slack server, which shows them.
	SlackToken, SlackChannel string
	// VirusTotalKey is the user's API key; empty: VirusTotal is not queried.
	VirusTotalKey string
	// RuntimeFile is the file through which commands find this process; empty: none.
	RuntimeFile string
	// Cluster is a Kubernetes cluster whose sensors publish here and whose pods can be
	// contained; nil: only this machine's containers.
	Cluster *Cluster
}

// Cluster is the cluster that a Machine responds for. Kubernetes RBAC limits what the
// two identities may do.
type Cluster struct {
	Place finding.Place
	Reads cluster.Finder // with the rights of Respond
	Acts  cluster.Finder // with the rights of Contain
}

// Machine is a running pipeline.
type Machine struct {
	URL    string // of the pages and the API
	Token  string // bearer token of the API, and the key of the pages
	cfg    Config
	lock   *os.File
	store  blobstore.Store
	broker *broker
	scc    *fakescc.Server
	slack  *fakeslack.Server
	// workflows runs the deployed workflow for each case that waits.
	workflows *fakeworkflows.Server
	suite     *respondfunc.Suite
	actor     *containfunc.Function
	book      *casebook.Function
	interact  *interact.Function
	sensor    *sensor.Sensor
	web       *http.Server
	functions *http.Server
	upload    uploads
	done      outcomes
	cancel    context.CancelFunc
	wg        sync.WaitGroup
	failed    chan error
}

// Start starts the pipeline. If a part cannot be started, the parts started before it are
// stopped again.
func Start(ctx context.Context, cfg Config) (m *Machine, err error) {
	if cfg.Listen == "" {
		cfg.Listen = "127.0.0.1:0"
	}
	if host, _, err := net.SplitHostPort(cfg.Listen); err != nil || !isLoopback(host) {
		return nil, fmt.Errorf("listen on %q: only a loopback address such as 127.0.0.1:8321 is allowed, because the pages can freeze containers", cfg.Listen)
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
	m.web = m.serve(listener, m.handler())
	base, err := m.startFunctions(ctx)
	if err != nil {
		return m, err
	}
	for _, topic := range []string{topicDetections, topicFindings} {
		for _, l := range lanes {
			m.background(func() error { return m.broker.push(ctx, topic, l.suffix, base) })
		}
	}
	n, err := m.broker.replay()
	if err != nil {
		return m, err
	}
	if n > 0 {
		slog.Info("delivering messages of an earlier run", "messages", n)
	}
	m.background(func() error { return sweep(ctx, base) })
	if m.sensor != nil {
		m.background(func() error { return m.sensor.Run(ctx) })
	}
	return m, m.announce()
}

// serve serves a handler until the returned server is closed.
func (m *Machine) serve(listener net.Listener, handler http.Handler) *http.Server {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	m.background(func() error {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	return server
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

// lockDir locks the directory for this process. The lock proves that the holders of an
// earlier process are dead, so their leases need not be waited for.
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
		return nil, fmt.Errorf("directory %q is in use by another `contraband up`: stop it, or choose another --dir", dir)
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
		File: in("scc.db"), Source: source, ProjectNumber: "1", Filter: scc.NotificationFilter(source),
		NotificationConfig: "organizations/1/locations/global/notificationConfigs/contraband",
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
	c.Publish = func(ctx context.Context, detection []byte, p sensorapi.Priority) error {
		_, err := detections.Publish(ctx, &pubsub.Message{Data: detection, Attributes: p.Attributes()}).Get(ctx)
		return err
	}
	m.sensor, err = sensor.New(c)
	return err
}

// sweep calls Sweep every five seconds, in place of Cloud Scheduler.
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

// announce writes the file through which commands find this process.
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

// PubSub returns where sensors of other machines publish: the server's address, for
// PUBSUB_EMULATOR_HOST, and the topic.
func (m *Machine) PubSub() (address, topic string) {
	return m.broker.server.Addr, "projects/" + project + "/topics/" + topicDetections
}

// Failed returns a channel that receives the error of a part that ended by itself.
func (m *Machine) Failed() <-chan error { return m.failed }

// Close stops all parts. Unfinished work is resumed by the next Start on the directory.
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
	for _, server := range []*http.Server{m.web, m.functions} {
		if server != nil {
			errs = append(errs, server.Close())
		}
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
