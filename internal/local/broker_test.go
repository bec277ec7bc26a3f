package local

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2"

	"github.com/contraband-dev/contraband/internal/sensorapi"
)

// TestBacklogDelaysNoFirstMessage has a function hold every delivery of the lesser messages,
// as one does that is slow or failing, and expects the one of priority all the same.
func TestBacklogDelaysNoFirstMessage(t *testing.T) {
	b, err := startBroker(t.Context(), filepath.Join(t.TempDir(), "journal.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.close() })
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan string, 10)
	function := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var push struct {
			Message struct {
				Data       []byte
				Attributes map[string]string
			}
		}
		if err := json.NewDecoder(r.Body).Decode(&push); err != nil {
			t.Error(err)
		}
		if push.Message.Attributes[sensorapi.PriorityAttribute] == string(sensorapi.First) {
			first <- string(push.Message.Data)
			return
		}
		<-ctx.Done()
	}))
	t.Cleanup(function.Close)
	var pushes sync.WaitGroup
	t.Cleanup(pushes.Wait)
	t.Cleanup(cancel)
	for _, l := range lanes {
		pushes.Go(func() {
			if err := b.push(ctx, topicFindings, l.suffix, function.URL); err != nil {
				t.Error(err)
			}
		})
	}
	p := b.client.Publisher(topicFindings)
	publish := func(data string, attributes map[string]string) {
		t.Helper()
		if _, err := p.Publish(ctx, &pubsub.Message{Data: []byte(data), Attributes: attributes}).Get(ctx); err != nil {
			t.Fatal(err)
		}
	}
	for range 30 {
		publish("flood", sensorapi.Later.Attributes())
		publish("from SCC", nil)
	}
	publish("malware", sensorapi.First.Attributes())
	select {
	case got := <-first:
		if got != "malware" {
			t.Errorf("delivered %q", got)
		}
	case <-time.After(30 * time.Second):
		t.Error("the message of priority waits behind the others")
	}
	if waiting, _, err := b.counts(); err != nil || waiting < 60 {
		t.Errorf("%d wait, want the 60 that the function holds: %v", waiting, err)
	}
}
