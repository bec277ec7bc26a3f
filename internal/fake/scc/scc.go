// Package scc is a fake of Security Command Center's API v2: the real gRPC protocol, the
// documented rules for what is written, findings kept on disk, and notifications through
// the documented filter language. Nothing that is deployed imports it.
package scc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	pb "cloud.google.com/go/securitycenter/apiv2/securitycenterpb"
	"github.com/contraband-dev/contraband/internal/boltfile"
	"go.etcd.io/bbolt"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Config of a Server.
type Config struct {
	// File holds the findings. Required.
	File string
	// Address to listen on; 127.0.0.1:0 when empty.
	Address string
	// Source is the one source that exists. Required.
	Source string
	// ProjectNumber is of the resources, in canonical names. Required.
	ProjectNumber string
	// NotificationConfig is the name in notifications; Filter selects what is notified.
	NotificationConfig, Filter string
	// Notify publishes a notification durably. It is repeated until it succeeds. Required.
	Notify func(ctx context.Context, message []byte) error
	// Now is the clock; nil: time.Now.
	Now func() time.Time
	// Fault is called before and after each write takes effect; the call fails with the
	// error that it returns. nil: never.
	Fault func(method string, applied bool) error
}

// Server is a running fake.
type Server struct {
	pb.UnimplementedSecurityCenterServer
	Addr   string
	cfg    Config
	filter filter
	db     *bbolt.DB
	grpc   *grpc.Server
	news   chan struct{}
	stop   context.CancelFunc
	wg     sync.WaitGroup
}

var (
	bucketFindings = []byte("findings") // name -> Finding
	bucketOutbox   = []byte("outbox")   // sequence -> notification, until it is published
)

// Start serves until Close.
func Start(cfg Config) (*Server, error) {
	f, err := parseFilter(cfg.Filter, notificationFields)
	if err != nil {
		return nil, fmt.Errorf("fake SCC: notification filter: %w", err)
	}
	db, damage, err := boltfile.Open(cfg.File)
	if err != nil {
		return nil, fmt.Errorf("fake SCC: open %q: %w", cfg.File, err)
	}
	if damage != nil {
		slog.Error("the findings of the built-in Security Command Center", "error", damage)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(bucketFindings)
		_, err2 := tx.CreateBucketIfNotExists(bucketOutbox)
		return errors.Join(err, err2)
	})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Address == "" {
		cfg.Address = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", cfg.Address)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &Server{Addr: l.Addr().String(), cfg: cfg, filter: f, db: db, grpc: grpc.NewServer(), news: make(chan struct{}, 1), stop: cancel}
	pb.RegisterSecurityCenterServer(s.grpc, s)
	s.wg.Go(func() { s.grpc.Serve(l) })
	s.wg.Go(func() { s.publish(ctx) })
	return s, nil
}

// Close stops serving; pending notifications are sent after the next Start.
func (s *Server) Close() error {
	s.grpc.Stop()
	s.stop()
	s.wg.Wait()
	return s.db.Close()
}

var (
	findingName = regexp.MustCompile(`^((?:organizations|folders|projects)/[^/]+/sources/[^/]+(?:/locations/[^/]+)?)/findings/([A-Za-z0-9]{1,32})$`)
	propertyKey = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_]{0,254}$`)
)

// masked are the fields that a mask of UpdateFinding may name, and how each is copied.
var masked = map[string]func(to, from *pb.Finding){
	"state":         func(to, from *pb.Finding) { to.State = from.State },
	"severity":      func(to, from *pb.Finding) { to.Severity = from.Severity },
	"event_time":    func(to, from *pb.Finding) { to.EventTime = from.EventTime },
	"external_uri":  func(to, from *pb.Finding) { to.ExternalUri = from.ExternalUri },
	"description":   func(to, from *pb.Finding) { to.Description = from.Description },
	"next_steps":    func(to, from *pb.Finding) { to.NextSteps = from.NextSteps },
	"mitre_attack":  func(to, from *pb.Finding) { to.MitreAttack = from.MitreAttack },
	"processes":     func(to, from *pb.Finding) { to.Processes = from.Processes },
	"containers":    func(to, from *pb.Finding) { to.Containers = from.Containers },
	"kubernetes":    func(to, from *pb.Finding) { to.Kubernetes = from.Kubernetes },
	"indicator":     func(to, from *pb.Finding) { to.Indicator = from.Indicator },
	"files":         func(to, from *pb.Finding) { to.Files = from.Files },
	"finding_class": func(to, from *pb.Finding) { to.FindingClass = from.FindingClass },
}

// UpdateFinding updates a finding, or creates it where it is missing. A mask is refused on
// creation, as the API documents.
func (s *Server) UpdateFinding(ctx context.Context, r *pb.UpdateFindingRequest) (*pb.Finding, error) {
	in := r.GetFinding()
	parts := findingName.FindStringSubmatch(in.GetName())
	switch {
	case parts == nil:
		return nil, status.Errorf(codes.InvalidArgument, "finding.name %q: an ID of 1 to 32 alphanumeric characters is required", in.GetName())
	case parts[1] != s.cfg.Source:
		return nil, status.Errorf(codes.NotFound, "source %q does not exist", parts[1])
	}
	return s.write(ctx, "UpdateFinding", in.Name, func(old *pb.Finding) (*pb.Finding, error) {
		if old == nil && len(r.GetUpdateMask().GetPaths()) > 0 {
			return nil, status.Errorf(codes.InvalidArgument, "finding %q does not exist: update_mask must not be set when a finding is created", in.Name)
		}
		if old == nil {
			return s.created(in, parts[1], parts[2])
		}
		return s.updated(old, in, r.GetUpdateMask().GetPaths())
	})
}

// CreateFinding creates a finding; one that exists is refused.
func (s *Server) CreateFinding(ctx context.Context, r *pb.CreateFindingRequest) (*pb.Finding, error) {
	in := proto.Clone(r.GetFinding()).(*pb.Finding)
	in.Name = r.GetParent() + "/findings/" + r.GetFindingId()
	parts := findingName.FindStringSubmatch(in.Name)
	switch {
	case parts == nil:
		return nil, status.Errorf(codes.InvalidArgument, "finding_id %q: 1 to 32 alphanumeric characters are required", r.GetFindingId())
	case parts[1] != s.cfg.Source:
		return nil, status.Errorf(codes.NotFound, "source %q does not exist", parts[1])
	}
	return s.write(ctx, "CreateFinding", in.Name, func(old *pb.Finding) (*pb.Finding, error) {
		if old != nil {
			return nil, status.Errorf(codes.AlreadyExists, "finding %q exists", in.Name)
		}
		return s.created(in, parts[1], parts[2])
	})
}

func (s *Server) created(in *pb.Finding, parent, id string) (*pb.Finding, error) {
	if in.Category == "" || len(in.Category) > 255 || in.ResourceName == "" {
		return nil, status.Error(codes.InvalidArgument, "a new finding needs a category of at most 255 characters and a resource_name")
	}
	f := proto.Clone(in).(*pb.Finding)
	f.Parent, f.CreateTime = parent, timestamppb.New(s.cfg.Now())
	f.CanonicalName = "projects/" + s.cfg.ProjectNumber + parent[strings.Index(parent, "/sources/"):] + "/findings/" + id
	f.Mute, f.SecurityMarks, f.ExternalSystems = pb.Finding_UNDEFINED, nil, nil // a provider cannot set them
	if err := validResource(f.ResourceName); err != nil {
		return nil, err
	}
	return f, s.valid(f)
}

// clusterName is how a cluster's resource name is spelled: zonal clusters are below zones,
// regional ones below locations.
var clusterName = regexp.MustCompile(`^//container\.googleapis\.com/projects/[^/]+/(zones/[a-z]+-[a-z]+[0-9]+-[a-z]|locations/[^/]+)/clusters/[^/]+$`)

// zonal is a location that is a zone.
var zonal = regexp.MustCompile(`/locations/[a-z]+-[a-z]+[0-9]+-[a-z]/clusters/`)

// validResource refuses a cluster's name that Cloud Asset Inventory does not know: SCC
// would not link the finding to its project, and nothing else would show it.
func validResource(name string) error {
	if !strings.HasPrefix(name, "//container.googleapis.com/") || clusterName.MatchString(name) && !zonal.MatchString(name) {
		return nil
	}
	return status.Errorf(codes.InvalidArgument, "resource_name %q: no such cluster (zonal clusters are below zones/)", name)
}

func (s *Server) updated(old, in *pb.Finding, mask []string) (*pb.Finding, error) {
	if in.Category != "" && in.Category != old.Category {
		return nil, status.Error(codes.InvalidArgument, "category is immutable")
	}
	if len(mask) == 0 {
		return nil, status.Error(codes.InvalidArgument, "update_mask is empty: it would replace every field")
	}
	f := proto.Clone(old).(*pb.Finding)
	for _, p := range mask {
		if key, ok := strings.CutPrefix(p, "source_properties."); ok {
			if f.SourceProperties == nil {
				f.SourceProperties = in.SourceProperties
			}
			f.SourceProperties[key] = in.SourceProperties[key]
			continue
		}
		set, ok := masked[p]
		if !ok {
			return nil, status.Errorf(codes.InvalidArgument, "update_mask: %q is not a field that can be updated", p)
		}
		set(f, in)
	}
	return f, s.valid(f)
}

func (s *Server) valid(f *pb.Finding) error {
	switch {
	case f.EventTime == nil:
		return status.Error(codes.InvalidArgument, "event_time is required")
	case f.EventTime.AsTime().After(s.cfg.Now().Add(time.Second)):
		return status.Errorf(codes.InvalidArgument, "event_time %s is in the future", f.EventTime.AsTime())
	case f.State == pb.Finding_STATE_UNSPECIFIED:
		return status.Error(codes.InvalidArgument, "state is required")
	}
	for k := range f.SourceProperties {
		if !propertyKey.MatchString(k) {
			return status.Errorf(codes.InvalidArgument, "source_properties: invalid key %q", k)
		}
	}
	return nil
}

// UpdateExternalSystem creates or updates an external system of a finding.
func (s *Server) UpdateExternalSystem(ctx context.Context, r *pb.UpdateExternalSystemRequest) (*pb.ExternalSystem, error) {
	in := r.GetExternalSystem()
	name, id, ok := strings.Cut(in.GetName(), "/externalSystems/")
	if !ok || id == "" {
		return nil, status.Errorf(codes.InvalidArgument, "external_system.name %q does not name an external system", in.GetName())
	}
	var out *pb.ExternalSystem
	_, err := s.write(ctx, "UpdateExternalSystem", name, func(old *pb.Finding) (*pb.Finding, error) {
		if old == nil {
			return nil, status.Errorf(codes.NotFound, "finding %q does not exist", name)
		}
		f := proto.Clone(old).(*pb.Finding)
		if f.ExternalSystems == nil {
			f.ExternalSystems = map[string]*pb.ExternalSystem{}
		}
		if out = f.ExternalSystems[id]; out == nil {
			out = &pb.ExternalSystem{Name: in.Name}
		}
		for _, p := range r.GetUpdateMask().GetPaths() {
			from := in.ProtoReflect().Descriptor().Fields().ByTextName(p)
			if from == nil {
				return nil, status.Errorf(codes.InvalidArgument, "update_mask: unknown field %q", p)
			}
			out.ProtoReflect().Set(from, in.ProtoReflect().Get(from))
		}
		out.ExternalSystemUpdateTime = timestamppb.New(s.cfg.Now())
		f.ExternalSystems[id] = out
		return f, nil
	})
	return out, err
}

// UpdateSecurityMarks sets the marks that the mask names.
func (s *Server) UpdateSecurityMarks(ctx context.Context, r *pb.UpdateSecurityMarksRequest) (*pb.SecurityMarks, error) {
	in := r.GetSecurityMarks()
	f, err := s.write(ctx, "UpdateSecurityMarks", strings.TrimSuffix(in.GetName(), "/securityMarks"), func(old *pb.Finding) (*pb.Finding, error) {
		if old == nil {
			return nil, status.Errorf(codes.NotFound, "%q does not exist", in.GetName())
		}
		f := proto.Clone(old).(*pb.Finding)
		if f.SecurityMarks == nil {
			f.SecurityMarks = &pb.SecurityMarks{Name: in.Name, Marks: map[string]string{}}
		}
		for _, p := range r.GetUpdateMask().GetPaths() {
			key, ok := strings.CutPrefix(p, "marks.")
			if !ok {
				return nil, status.Errorf(codes.InvalidArgument, "update_mask: %q is not of the form marks.KEY", p)
			}
			f.SecurityMarks.Marks[key] = in.Marks[key]
		}
		return f, nil
	})
	return f.GetSecurityMarks(), err
}

// SetFindingState is what an analyst does in the console.
func (s *Server) SetFindingState(ctx context.Context, r *pb.SetFindingStateRequest) (*pb.Finding, error) {
	return s.write(ctx, "SetFindingState", r.GetName(), func(old *pb.Finding) (*pb.Finding, error) {
		if old == nil {
			return nil, status.Errorf(codes.NotFound, "finding %q does not exist", r.GetName())
		}
		f := proto.Clone(old).(*pb.Finding)
		f.State = r.GetState()
		return f, nil
	})
}

// write changes one finding, under its name or its canonical one, and queues its
// notification in the same transaction.
func (s *Server) write(_ context.Context, method, name string, change func(old *pb.Finding) (*pb.Finding, error)) (*pb.Finding, error) {
	if err := s.fault(method, false); err != nil {
		return nil, err
	}
	if i := strings.Index(name, "/sources/"); i >= 0 { // names differ only in their scope
		name = s.cfg.Source[:strings.Index(s.cfg.Source, "/sources/")] + name[i:]
	}
	var out *pb.Finding
	err := s.db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketFindings)
		var old *pb.Finding
		if raw := b.Get([]byte(name)); raw != nil {
			old = &pb.Finding{}
			if err := proto.Unmarshal(raw, old); err != nil {
				return err
			}
		}
		f, err := change(old)
		if err != nil {
			return err
		}
		raw, err := proto.Marshal(f)
		if err != nil {
			return err
		}
		if err := b.Put([]byte(name), raw); err != nil {
			return err
		}
		out = f
		return s.enqueue(tx, f)
	})
	if err != nil {
		return nil, err
	}
	s.wake()
	return out, s.fault(method, true)
}

func (s *Server) fault(method string, applied bool) error {
	if s.cfg.Fault == nil {
		return nil
	}
	return s.cfg.Fault(method, applied)
}

func (s *Server) enqueue(tx *bbolt.Tx, f *pb.Finding) error {
	if s.filter != nil && !s.filter(f) {
		return nil
	}
	message, err := protojson.Marshal(&pb.NotificationMessage{
		NotificationConfigName: s.cfg.NotificationConfig, Event: &pb.NotificationMessage_Finding{Finding: f},
		Resource: &pb.Resource{Name: f.ResourceName},
	})
	if err != nil {
		return err
	}
	b := tx.Bucket(bucketOutbox)
	n, err := b.NextSequence()
	if err != nil {
		return err
	}
	return b.Put(binary.BigEndian.AppendUint64(nil, n), message)
}

func (s *Server) wake() {
	select {
	case s.news <- struct{}{}:
	default:
	}
}

func (s *Server) publish(ctx context.Context) {
	for s.wake(); ; {
		select {
		case <-ctx.Done():
			return
		case <-s.news:
		case <-time.After(time.Second):
		}
		if err := s.drain(ctx); err != nil && ctx.Err() == nil {
			slog.Warn("fake SCC: notification is retried", "error", err)
		}
	}
}

func (s *Server) drain(ctx context.Context) error {
	for {
		var key, message []byte
		err := s.db.View(func(tx *bbolt.Tx) error {
			k, v := tx.Bucket(bucketOutbox).Cursor().First()
			key, message = slices.Clone(k), slices.Clone(v)
			return nil
		})
		if err != nil || key == nil {
			return err
		}
		if err := s.cfg.Notify(ctx, message); err != nil {
			return err
		}
		if err := s.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketOutbox).Delete(key) }); err != nil {
			return err
		}
	}
}

// ListFindings returns the newest first.
func (s *Server) ListFindings(_ context.Context, r *pb.ListFindingsRequest) (*pb.ListFindingsResponse, error) {
	match, err := parseFilter(r.GetFilter(), listFields)
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "filter: %v", err)
	}
	if r.GetPageSize() < 0 || r.GetPageSize() > 1000 {
		return nil, status.Error(codes.InvalidArgument, "page_size must be 1 to 1000")
	}
	all, err := s.Findings()
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(f *pb.Finding) bool { return match != nil && !match(f) })
	slices.SortStableFunc(all, func(a, b *pb.Finding) int { return b.EventTime.AsTime().Compare(a.EventTime.AsTime()) })
	size, from := int(r.GetPageSize()), 0
	if size == 0 {
		size = 10
	}
	if r.GetPageToken() != "" {
		if from, err = strconv.Atoi(r.GetPageToken()); err != nil || from < 0 || from > len(all) {
			return nil, status.Error(codes.InvalidArgument, "invalid page_token")
		}
	}
	out := &pb.ListFindingsResponse{TotalSize: int32(len(all))}
	for _, f := range all[from:min(from+size, len(all))] {
		out.ListFindingsResults = append(out.ListFindingsResults, &pb.ListFindingsResponse_ListFindingsResult{Finding: f})
	}
	if from+size < len(all) {
		out.NextPageToken = strconv.Itoa(from + size)
	}
	return out, nil
}

// Findings returns all findings.
func (s *Server) Findings() ([]*pb.Finding, error) {
	var all []*pb.Finding
	err := s.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketFindings).ForEach(func(_, raw []byte) error {
			f := &pb.Finding{}
			all = append(all, f)
			return proto.Unmarshal(raw, f)
		})
	})
	return all, err
}
