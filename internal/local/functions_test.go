package local

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"reflect"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2"
	"github.com/GoogleCloudPlatform/functions-framework-go/funcframework"
	cloudevents "github.com/cloudevents/sdk-go/v2"
)

// What a function receives here must be what functions-framework-go gives it in the cloud.
func TestPushDeliveryBecomesTheEventOfTheFramework(t *testing.T) {
	events := make(chan cloudevents.Event, 2)
	function := func(_ context.Context, e cloudevents.Event) error {
		events <- e
		return nil
	}
	const path = "/projects/" + project + "/topics/" + topicFindings
	mux := http.NewServeMux()
	mux.Handle("POST "+path, pushHandler(topicFindings, function))
	bases := []string{serveOnce(t, mux), serveFramework(t, path, function)}

	message := &pubsub.Message{ID: "17", Data: []byte(`{"finding": "100%"}`), Attributes: map[string]string{"reason": "test"},
		PublishTime: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	var got []cloudevents.Event
	for _, base := range bases {
		if err := deliver(t.Context(), base+path, topicFindings, message); err != nil {
			t.Fatal(err)
		}
		got = append(got, <-events)
	}
	ours, theirs := got[0], got[1]
	for name, pair := range map[string][2]any{
		"source": {ours.Source(), theirs.Source()}, "type": {ours.Type(), theirs.Type()}, "id": {ours.ID(), theirs.ID()},
		"time": {ours.Time().UTC(), theirs.Time().UTC()}, "content type": {ours.DataContentType(), theirs.DataContentType()},
		"message data": {messageOf(t, ours)["data"], messageOf(t, theirs)["data"]},
		"attributes":   {messageOf(t, ours)["attributes"], messageOf(t, theirs)["attributes"]},
	} {
		if !reflect.DeepEqual(pair[0], pair[1]) {
			t.Errorf("%s: %v, the framework has %v", name, pair[0], pair[1])
		}
	}
}

func TestFunctionThatFailsRefusesThePush(t *testing.T) {
	mux := http.NewServeMux()
	mux.Handle("POST /t", pushHandler(topicFindings, func(context.Context, cloudevents.Event) error { return context.Canceled }))
	base := serveOnce(t, mux)
	if err := deliver(t.Context(), base+"/t", topicFindings, &pubsub.Message{ID: "1", Data: []byte("{}")}); err == nil {
		t.Error("a delivery whose function failed was acknowledged")
	}
	for _, body := range []string{"", "[]", `{"message": {"data": "e30="}}`} {
		resp, err := http.Post(base+"/t", "application/json", bytes.NewReader([]byte(body)))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("push %q: status %d, want 400", body, resp.StatusCode)
		}
	}
}

func messageOf(t *testing.T, e cloudevents.Event) map[string]any {
	t.Helper()
	var data struct {
		Message map[string]any `json:"message"`
	}
	if err := json.Unmarshal(e.Data(), &data); err != nil {
		t.Fatal(err)
	}
	return data.Message
}

func serveOnce(t *testing.T, handler http.Handler) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Second}
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
	return "http://" + listener.Addr().String()
}

// serveFramework serves a function with the framework, whose server ends with the test binary.
func serveFramework(t *testing.T, path string, f func(context.Context, cloudevents.Event) error) string {
	t.Helper()
	if err := funcframework.RegisterCloudEventFunctionContext(t.Context(), path, f); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
	go funcframework.StartHostPort("127.0.0.1", port)
	for range 200 {
		if c, err := net.Dial("tcp", "127.0.0.1:"+port); err == nil {
			c.Close()
			return "http://127.0.0.1:" + port
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("the functions framework does not listen")
	return ""
}
