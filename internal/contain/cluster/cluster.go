// Package cluster reaches the control plane of the GKE cluster that a finding
// names: it asks GKE for the cluster's description, chooses the way in, and
// returns a client. It decides nothing.
package cluster

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	container "cloud.google.com/go/container/apiv1"
	"cloud.google.com/go/container/apiv1/containerpb"
	gateway "cloud.google.com/go/gkeconnect/gateway/apiv1"
	"cloud.google.com/go/gkeconnect/gateway/apiv1/gatewaypb"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/google"
	"google.golang.org/api/option"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/internal/retry"
)

// Cluster is one that was reached.
type Cluster struct {
	Kube     *Kube
	Dynamic  dynamic.Interface
	Labels   map[string]string // GKE's resource labels
	Version  string            // of the control plane
	Way      string            // how it is reached, in words
	Enforces string            // what enforces NetworkPolicies there; "" when nothing does
}

// Finder reaches clusters.
type Finder interface {
	// Find returns a client of a cluster. An error that cannot pass is permanent.
	Find(ctx context.Context, p finding.Place) (*Cluster, error)
}

// The client's own limits: the default of five requests a second would contain
// little more than one pod a second. The server has fairness of its own.
const (
	queriesPerSecond = 500
	burst            = 1000
	requestTimeout   = 20 * time.Second
	described        = 10 * time.Minute // for how long a description is good
)

// scopes of the token for a control plane: without the address GKE knows a service
// account by its number alone, and no binding names it so.
var scopes = []string{"https://www.googleapis.com/auth/cloud-platform", "https://www.googleapis.com/auth/userinfo.email"}

// GKE finds clusters through the Kubernetes Engine API. Its zero value uses the
// application's default credentials.
type GKE struct {
	// Options of the Kubernetes Engine client.
	Options []option.ClientOption
	// GatewayOptions of the Connect gateway's client.
	GatewayOptions []option.ClientOption
	// Tokens for the control planes; nil: the application's default credentials.
	Tokens oauth2.TokenSource
	// Wrap, when set, wraps the transport to control planes: tests count calls.
	Wrap func(http.RoundTripper) http.RoundTripper

	mu      sync.Mutex
	entries map[finding.Place]*entry
	client  *container.ClusterManagerClient
}

// entry has a lock of its own: a cluster that is slow to reach keeps nobody from another.
type entry struct {
	mu      sync.Mutex
	cluster *Cluster
	until   time.Time
}

// Find returns a client of a cluster.
func (g *GKE) Find(ctx context.Context, p finding.Place) (*Cluster, error) {
	if p.Project == "" || p.Location == "" || p.Cluster == "" {
		return nil, retry.Refused(fmt.Errorf("reach cluster: project %q, location %q and name %q are all needed", p.Project, p.Location, p.Cluster))
	}
	g.mu.Lock()
	if g.entries == nil {
		g.entries = map[finding.Place]*entry{}
	}
	e := g.entries[p]
	if e == nil {
		e = &entry{}
		g.entries[p] = e
	}
	g.mu.Unlock()

	e.mu.Lock()
	defer e.mu.Unlock()
	if e.cluster != nil && time.Now().Before(e.until) {
		return e.cluster, nil
	}
	c, err := g.reach(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("reach cluster %q in %q of project %q: %w", p.Cluster, p.Location, p.Project, err)
	}
	e.cluster, e.until = c, time.Now().Add(described)
	return c, nil
}

// Close closes the client of the Kubernetes Engine API.
func (g *GKE) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.client == nil {
		return nil
	}
	return g.client.Close()
}

func (g *GKE) manager(ctx context.Context) (*container.ClusterManagerClient, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.client != nil {
		return g.client, nil
	}
	var err error
	g.client, err = container.NewClusterManagerClient(context.WithoutCancel(ctx), g.Options...)
	return g.client, err
}

func (g *GKE) reach(ctx context.Context, p finding.Place) (*Cluster, error) {
	manager, err := g.manager(ctx)
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("projects/%s/locations/%s/clusters/%s", p.Project, p.Location, p.Cluster)
	description, err := manager.GetCluster(ctx, &containerpb.GetClusterRequest{Name: name})
	switch status.Code(err) {
	case codes.OK:
	case codes.NotFound, codes.PermissionDenied, codes.InvalidArgument, codes.Unauthenticated:
		return nil, retry.Refused(err)
	default:
		return nil, err
	}
	config, way, err := g.wayIn(ctx, description)
	if err != nil {
		return nil, err
	}
	return g.connect(ctx, description, config, way)
}

func (g *GKE) connect(ctx context.Context, description *containerpb.Cluster, config *rest.Config, way string) (*Cluster, error) {
	tokens := g.Tokens
	if tokens == nil {
		var err error
		if tokens, err = google.DefaultTokenSource(context.WithoutCancel(ctx), scopes...); err != nil {
			return nil, err
		}
	}
	config.QPS, config.Burst, config.Timeout, config.UserAgent = queriesPerSecond, burst, requestTimeout, "contraband"
	config.Wrap(func(base http.RoundTripper) http.RoundTripper { return &oauth2.Transport{Source: tokens, Base: base} })
	if g.Wrap != nil {
		config.Wrap(g.Wrap)
	}
	kube, err := NewKube(config)
	if err != nil {
		return nil, err
	}
	dyn, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	return &Cluster{
		Kube: kube, Dynamic: dyn, Way: way, Labels: description.GetResourceLabels(),
		Version: description.GetCurrentMasterVersion(), Enforces: enforces(description),
	}, nil
}

// wayIn chooses how the control plane is reached: by its DNS name, whose flag
// must allow it; through the Connect gateway; by its public address; by its
// private one, which needs egress into the network.
func (g *GKE) wayIn(ctx context.Context, c *containerpb.Cluster) (*rest.Config, string, error) {
	if dns := c.GetControlPlaneEndpointsConfig().GetDnsEndpointConfig(); dns.GetEndpoint() != "" && dns.GetAllowExternalTraffic() {
		return &rest.Config{Host: "https://" + dns.GetEndpoint()}, "DNS endpoint", nil // its certificate is a public one
	}
	if membership := strings.TrimPrefix(c.GetFleet().GetMembership(), "//gkehub.googleapis.com/"); membership != "" {
		endpoint, err := g.throughGateway(ctx, membership)
		if err == nil {
			return &rest.Config{Host: endpoint}, "Connect gateway", nil
		}
		if c.GetEndpoint() == "" {
			return nil, "", err
		}
	}
	address, way := c.GetControlPlaneEndpointsConfig().GetIpEndpointsConfig().GetPublicEndpoint(), "public address"
	if address == "" && !c.GetPrivateClusterConfig().GetEnablePrivateEndpoint() {
		address = c.GetEndpoint()
	}
	if address == "" {
		way = "private address"
		if address = c.GetControlPlaneEndpointsConfig().GetIpEndpointsConfig().GetPrivateEndpoint(); address == "" {
			address = c.GetPrivateClusterConfig().GetPrivateEndpoint()
		}
	}
	if address == "" {
		return nil, "", retry.Refused(errors.New("its description names no endpoint that can be used: allow external traffic on the DNS endpoint"))
	}
	ca, err := base64.StdEncoding.DecodeString(c.GetMasterAuth().GetClusterCaCertificate())
	if err != nil || len(ca) == 0 {
		return nil, "", retry.Refused(errors.New("its description has no readable certificate authority"))
	}
	return &rest.Config{Host: "https://" + address, TLSClientConfig: rest.TLSClientConfig{CAData: ca}}, way, nil
}

func (g *GKE) throughGateway(ctx context.Context, membership string) (string, error) {
	client, err := gateway.NewGatewayControlRESTClient(ctx, g.GatewayOptions...)
	if err != nil {
		return "", err
	}
	defer client.Close()
	answer, err := client.GenerateCredentials(ctx, &gatewaypb.GenerateCredentialsRequest{Name: membership})
	if err != nil {
		return "", fmt.Errorf("connect gateway for %q: %w", membership, err)
	}
	if answer.GetEndpoint() == "" {
		return "", fmt.Errorf("connect gateway for %q: the answer names no endpoint", membership)
	}
	return answer.GetEndpoint(), nil
}

// enforces returns what makes NetworkPolicies true in a cluster, by its description.
func enforces(c *containerpb.Cluster) string {
	switch {
	case c.GetNetworkConfig().GetDatapathProvider() == containerpb.DatapathProvider_ADVANCED_DATAPATH, c.GetAutopilot().GetEnabled():
		return "Dataplane V2"
	case c.GetNetworkPolicy().GetEnabled():
		return "Calico"
	}
	return ""
}
