package local

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"

	cloudevents "github.com/cloudevents/sdk-go/v2"
	"github.com/google/uuid"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/contraband-dev/contraband/functions/advance"
	"github.com/contraband-dev/contraband/functions/casebook"
	containfunc "github.com/contraband-dev/contraband/functions/contain"
	"github.com/contraband-dev/contraband/functions/interact"
	"github.com/contraband-dev/contraband/functions/raise"
	respondfunc "github.com/contraband-dev/contraband/functions/respond"
	sweepfunc "github.com/contraband-dev/contraband/functions/sweep"
	"github.com/contraband-dev/contraband/internal/contain"
	fakeslack "github.com/contraband-dev/contraband/internal/fake/slack"
	fakeworkflows "github.com/contraband-dev/contraband/internal/fake/workflows"
	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/internal/funcserver/casefunc"
	"github.com/contraband-dev/contraband/internal/web"
	"github.com/contraband-dev/contraband/internal/workflowlang"
	deployed "github.com/contraband-dev/contraband/workflows"
)

// startFunctions serves the functions on a loopback port of their own and returns their
// base address. In the cloud the caller's identity is checked; here the address contains
// a secret.
func (m *Machine) startFunctions(ctx context.Context) (base string, err error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("listen for the functions: %w", err)
	}
	secret := "/" + rand.Text()
	base = "http://" + listener.Addr().String() + secret
	err = m.startWorkflows(base)
	if err == nil {
		err = m.openFunctions(ctx, base)
	}
	if err != nil {
		return "", errors.Join(err, listener.Close())
	}
	m.functions = m.serve(listener, http.StripPrefix(secret, m.functionRoutes()))
	return base, nil
}

// functionRoutes routes the functions below the paths at which they are deployed.
func (m *Machine) functionRoutes() http.Handler {
	mux := http.NewServeMux()
	topics := "/projects/" + project + "/topics/"
	mux.Handle("POST "+topics+topicDetections, pushHandler(topicDetections, m.suite.Findings.Raise))
	mux.Handle("POST "+topics+topicFindings, pushHandler(topicFindings, m.suite.Respond))
	mux.HandleFunc("/Advance", advance.Function{Suite: m.suite}.Advance)
	mux.HandleFunc("/Contain", m.actor.Contain)
	mux.HandleFunc("/Sweep", sweepfunc.Function{Base: m.suite.Base}.Sweep)
	mux.HandleFunc("/Interact", m.interact.Interact)
	return mux
}

// startWorkflows starts the server that runs the deployed workflow.
func (m *Machine) startWorkflows(base string) error {
	definition, err := workflowlang.Parse(deployed.Case)
	if err != nil {
		return fmt.Errorf("workflows/case.yaml: %w", err)
	}
	m.workflows, err = fakeworkflows.Start(fakeworkflows.Config{
		Workflow: workflow, Definition: definition,
		Env: map[string]string{"ADVANCE_URL": base + "/Advance", "ADVANCE_AUDIENCE": base},
	})
	return err
}

// openFunctions opens each function with the configuration that Terraform would give it.
func (m *Machine) openFunctions(ctx context.Context, base string) (err error) {
	incarnation := uuid.NewString()
	pages := m.slackConfig(base)
	shared := casefunc.Parts{HTTP: http.DefaultClient, Store: m.store, Callbacks: m.workflows.CallbackClient(),
		// The directory is locked: a holder of an earlier process is dead.
		Alive: func(holder string) bool { return strings.HasPrefix(holder, incarnation+"/") }}
	parts := respondfunc.Parts{
		Executions: m.workflows.Options(), SlackAPI: pages.api, Incarnation: incarnation, Observe: m.done.put, Cases: shared,
		Raise: raise.Parts{PubSub: m.broker.options(), SCC: m.sccOptions()},
	}
	place := finding.Place{Project: "local", Location: "local", Cluster: hostname()}
	acts := containfunc.Parts{Cases: shared, Upload: m.upload.sign}
	if c := m.cfg.Cluster; c != nil {
		place, parts.Reads, acts.Clusters = c.Place, c.Reads, c.Acts
	}
	if m.sensor != nil {
		acts.Orders = contain.HTTPOrders{URL: m.URL, Token: m.Token, Client: http.DefaultClient}
	}
	cfg := respondfunc.Config{
		Cases: casefunc.Config{Store: "dir://", AdvanceURL: base + "/Advance"},
		Raise: raise.Config{Project: project, FindingsTopic: topicFindings, DeadLetterTopic: topicDead, SCCSource: source,
			Clusters: map[string]string{
				"projects/" + project + "/topics/" + topicDetections: place.Project + "/" + place.Location + "/" + place.Cluster}},
		Policy: m.cfg.Policy, Exceptions: m.cfg.Exceptions, Indicators: m.cfg.Indicators, VirusTotalKey: m.cfg.VirusTotalKey,
		SlackToken: pages.token, SlackChannel: pages.channel, Buttons: pages.signingSecret != "", Workflow: workflow, CallbackPrefix: m.workflows.CallbackPrefix(),
		ContainURL: base + "/Contain", CasebookURL: m.URL,
	}
	if m.suite, err = respondfunc.New(ctx, cfg, parts); err != nil {
		return err
	}
	if m.actor, err = containfunc.New(ctx, containfunc.Config{Policy: m.cfg.Policy}, acts); err != nil {
		return err
	}
	m.interact = interact.On(m.suite.Base, pages.signingSecret).RepliesTo(m.URL + "/slack-api/")
	m.book = casebook.On(m.suite.Base, web.Visitors{May: m.suite.IsApprover})
	return nil
}

// slackConfig is how Slack is reached, and how it proves that a click came from it.
type slackConfig struct {
	token, channel, api, signingSecret string
}

func (m *Machine) slackConfig(base string) slackConfig {
	if m.slack == nil {
		return slackConfig{token: m.cfg.SlackToken, channel: m.cfg.SlackChannel}
	}
	c := slackConfig{token: m.Token, channel: fakeslack.Channel, api: m.URL + "/slack-api/api/", signingSecret: rand.Text()}
	m.slack.Interact = fakeslack.Interactivity{URL: base + "/Interact", SigningSecret: c.signingSecret, Replies: m.URL + "/slack-api"}
	return c
}

func (m *Machine) sccOptions() []option.ClientOption {
	return []option.ClientOption{
		option.WithEndpoint(m.scc.Addr), option.WithoutAuthentication(),
		option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())),
	}
}

// maxPush bounds the body of a push delivery: Pub/Sub's limit is 10 MB, in base64.
const maxPush = 16 << 20

// pushHandler calls a function with the CloudEvent that functions-framework-go makes of a
// push delivery to a path that ends in the topic's name. The framework itself is not used
// here: its server cannot be stopped, and it prints to standard output.
func pushHandler(topic string, f func(context.Context, cloudevents.Event) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxPush))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		event, err := pushedEvent("projects/"+project+"/topics/"+topic, body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if err := f(r.Context(), event); err != nil {
			slog.Debug("function failed; the message will be delivered again", "topic", topic, "error", err.Error())
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	})
}

// pushedEvent returns the CloudEvent of a push delivery.
func pushedEvent(topic string, body []byte) (cloudevents.Event, error) {
	e := cloudevents.NewEvent()
	var push struct {
		Message struct {
			ID          string                `json:"messageId"`
			Data        json.RawMessage       `json:"data"`
			Attributes  map[string]string     `json:"attributes"`
			PublishTime cloudevents.Timestamp `json:"publishTime"`
		} `json:"message"`
	}
	if err := json.Unmarshal(body, &push); err != nil {
		return e, fmt.Errorf("decode push delivery: %w", err)
	}
	m := push.Message
	if m.ID == "" {
		return e, errors.New("push delivery has no message ID")
	}
	e.SetID(m.ID)
	e.SetType("google.cloud.pubsub.topic.v1.messagePublished")
	e.SetSource("//pubsub.googleapis.com/" + topic)
	e.SetTime(m.PublishTime.Time)
	err := e.SetData(cloudevents.ApplicationJSON, map[string]any{
		"message": map[string]any{"data": m.Data, "attributes": m.Attributes, "messageId": m.ID, "publishTime": m.PublishTime},
	})
	return e, err
}
