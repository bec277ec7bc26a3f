package cluster

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/container/apiv1/containerpb"
	"golang.org/x/oauth2"
	"google.golang.org/api/option"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/contraband-dev/contraband/internal/fake/gke"
	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/internal/retry"
)

// TestWaysIn: the DNS endpoint where its flag allows it, the Connect gateway of a fleet,
// the public address, the private one; and what cannot be used is said.
func TestWaysIn(t *testing.T) {
	connects := true
	connect := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !connects || r.Method != http.MethodGet || r.URL.Path != "/v1/projects/p/locations/global/memberships/m:generateCredentials" {
			http.Error(w, `{"error": {"code": 403, "message": "no", "status": "PERMISSION_DENIED"}}`, http.StatusForbidden)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(map[string]string{"endpoint": "https://connect.example/v1/m"})
	}))
	defer connect.Close()
	g := &GKE{GatewayOptions: []option.ClientOption{option.WithEndpoint(connect.URL), option.WithoutAuthentication()}}
	authority := &containerpb.MasterAuth{ClusterCaCertificate: base64.StdEncoding.EncodeToString([]byte("a certificate"))}
	dns := func(external bool) *containerpb.ControlPlaneEndpointsConfig {
		return &containerpb.ControlPlaneEndpointsConfig{DnsEndpointConfig: &containerpb.ControlPlaneEndpointsConfig_DNSEndpointConfig{Endpoint: "gke-1.example", AllowExternalTraffic: &external}}
	}
	fleet := &containerpb.Fleet{Membership: "//gkehub.googleapis.com/projects/p/locations/global/memberships/m"}
	private := &containerpb.PrivateClusterConfig{EnablePrivateEndpoint: true, PrivateEndpoint: "10.0.0.2"}
	for name, c := range map[string]struct {
		cluster *containerpb.Cluster
		fleetIs bool // reachable
		host    string
		way     string
		fails   string
	}{
		"DNS, allowed":               {&containerpb.Cluster{ControlPlaneEndpointsConfig: dns(true), Endpoint: "203.0.113.1", MasterAuth: authority, Fleet: fleet}, true, "https://gke-1.example", "DNS endpoint", ""},
		"DNS, not allowed":           {&containerpb.Cluster{ControlPlaneEndpointsConfig: dns(false), Endpoint: "203.0.113.1", MasterAuth: authority}, true, "https://203.0.113.1", "public address", ""},
		"a fleet":                    {&containerpb.Cluster{Fleet: fleet, Endpoint: "203.0.113.1", MasterAuth: authority}, true, "https://connect.example/v1/m", "Connect gateway", ""},
		"a fleet that is not served": {&containerpb.Cluster{Fleet: fleet, Endpoint: "203.0.113.1", MasterAuth: authority}, false, "https://203.0.113.1", "public address", ""},
		"that and nothing else":      {&containerpb.Cluster{Fleet: fleet}, false, "", "", "connect gateway"},
		"private alone":              {&containerpb.Cluster{PrivateClusterConfig: private, Endpoint: "10.0.0.2", MasterAuth: authority}, true, "https://10.0.0.2", "private address", ""},
		"no certificate":             {&containerpb.Cluster{Endpoint: "203.0.113.1"}, true, "", "", "certificate authority"},
		"nothing":                    {&containerpb.Cluster{}, true, "", "", "no endpoint that can be used"},
	} {
		connects = c.fleetIs
		config, way, err := g.wayIn(t.Context(), c.cluster)
		if c.fails != "" {
			if err == nil || !strings.Contains(err.Error(), c.fails) {
				t.Errorf("%s: %v, want an error that says %q", name, err, c.fails)
			}
			continue
		}
		if err != nil || config.Host != c.host || way != c.way {
			t.Errorf("%s: %+v, %q, %v", name, config, way, err)
			continue
		}
		if public := strings.HasSuffix(config.Host, ".example") || strings.Contains(config.Host, ".example/"); public == (len(config.CAData) > 0) {
			t.Errorf("%s: certificate authority %q", name, config.CAData)
		}
	}
}

// TestSlowCluster: one cluster that is slow to describe keeps nobody from another; each is
// described once; a refusal is for good, and an absence of an answer is not.
func TestSlowCluster(t *testing.T) {
	server, err := gke.Start()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	const slow, quick = "projects/p/locations/l/clusters/slow", "projects/p/locations/l/clusters/quick"
	ca := base64.StdEncoding.EncodeToString([]byte(certificate))
	for _, name := range []string{slow, quick} {
		server.Put(name, &containerpb.Cluster{Endpoint: "127.0.0.1:9", MasterAuth: &containerpb.MasterAuth{ClusterCaCertificate: ca}})
	}
	asked := make(chan struct{})
	server.Fail(func(ctx context.Context, name string) error {
		if name != slow {
			return nil
		}
		close(asked)
		<-ctx.Done() // it never answers
		return ctx.Err()
	})
	g := &GKE{Options: server.Options(), Tokens: oauth2.StaticTokenSource(&oauth2.Token{AccessToken: "x"})}
	defer g.Close()
	place := func(name string) finding.Place {
		return finding.Place{Project: "p", Location: "l", Cluster: name}
	}
	ctx, cancel := context.WithCancel(t.Context())
	waits := make(chan error, 1)
	go func() {
		_, err := g.Find(ctx, place("slow"))
		waits <- err
	}()
	<-asked // and it holds its lock
	for range 2 {
		if _, err := g.Find(t.Context(), place("quick")); err != nil {
			t.Fatal(err)
		}
	}
	if n := server.Calls(); n != 2 {
		t.Errorf("%d calls, want one for each cluster", n)
	}
	select {
	case err := <-waits:
		t.Fatalf("the slow one has answered: %v", err)
	default:
	}
	cancel()
	if err := <-waits; err == nil || retry.IsRefused(err) {
		t.Errorf("no answer: %v, want an error that may pass", err)
	}
	for code, forGood := range map[codes.Code]bool{codes.Unavailable: false, codes.Internal: false, codes.PermissionDenied: true} {
		server.Fail(func(context.Context, string) error { return status.Error(code, "no") })
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond) // the client tries again by itself
		if _, err := g.Find(ctx, place("slow")); err == nil || retry.IsRefused(err) != forGood {
			t.Errorf("%s: %v, for good %v", code, err, retry.IsRefused(err))
		}
		cancel()
	}
	if _, err := g.Find(t.Context(), finding.Place{Project: "p"}); !retry.IsRefused(err) || errors.Is(err, context.Canceled) {
		t.Errorf("half a place: %v", err)
	}
}

// certificate is any that can be read: nothing is dialled here.
var certificate = func() string {
	s := httptest.NewTLSServer(http.NotFoundHandler())
	defer s.Close()
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
}()
