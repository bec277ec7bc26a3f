// Package gke plays the Kubernetes Engine API over its own gRPC: GetCluster of
// clusters that were put. It enforces the form of names, and fails on demand.
package gke

import (
	"context"
	"net"
	"regexp"
	"sync"

	"cloud.google.com/go/container/apiv1/containerpb"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// Server is the Kubernetes Engine API.
type Server struct {
	containerpb.UnimplementedClusterManagerServer

	server   *grpc.Server
	address  string
	mu       sync.Mutex
	clusters map[string]*containerpb.Cluster
	fail     func(ctx context.Context, name string) error
	calls    int
}

// Start serves on loopback.
func Start() (*Server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &Server{server: grpc.NewServer(), address: l.Addr().String(), clusters: map[string]*containerpb.Cluster{}}
	containerpb.RegisterClusterManagerServer(s.server, s)
	go s.server.Serve(l)
	return s, nil
}

// Close ends it.
func (s *Server) Close() { s.server.Stop() }

// Options of a client that is to reach it.
func (s *Server) Options() []option.ClientOption {
	return []option.ClientOption{option.WithEndpoint(s.address), option.WithoutAuthentication(),
		option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials()))}
}

// Put adds a cluster by its full name.
func (s *Server) Put(name string, c *containerpb.Cluster) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clusters[name] = c
}

// Change changes a cluster that was put.
func (s *Server) Change(name string, change func(*containerpb.Cluster)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s.clusters[name])
}

// Fail makes calls fail, or be slow: fail is called before each is answered. nil mends it.
func (s *Server) Fail(fail func(ctx context.Context, name string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = fail
}

// Calls counts those answered.
func (s *Server) Calls() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls
}

var nameForm = regexp.MustCompile(`^projects/[a-z0-9:.-]+/locations/[a-z0-9-]+/clusters/[a-z0-9-]+$`)

// GetCluster returns a copy of a cluster that was added.
func (s *Server) GetCluster(ctx context.Context, r *containerpb.GetClusterRequest) (*containerpb.Cluster, error) {
	s.mu.Lock()
	s.calls++
	fail, known := s.fail, s.clusters[r.GetName()]
	s.mu.Unlock()
	if fail != nil {
		if err := fail(ctx, r.GetName()); err != nil {
			return nil, err
		}
	}
	if !nameForm.MatchString(r.GetName()) {
		return nil, status.Errorf(codes.InvalidArgument, "name %q is not of the form projects/*/locations/*/clusters/*", r.GetName())
	}
	if known == nil {
		return nil, status.Errorf(codes.NotFound, "not found: %s", r.GetName())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return proto.Clone(known).(*containerpb.Cluster), nil
}
