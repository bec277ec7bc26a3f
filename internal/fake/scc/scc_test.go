package scc

import (
	"context"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	sccapi "cloud.google.com/go/securitycenter/apiv2"
	pb "cloud.google.com/go/securitycenter/apiv2/securitycenterpb"
	"google.golang.org/api/iterator"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const source = "organizations/1/sources/2/locations/global"

type notified struct {
	mu   sync.Mutex
	got  []string
	news chan struct{}
}

func (n *notified) add(_ context.Context, m []byte) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.got = append(n.got, string(m))
	n.news <- struct{}{}
	return nil
}

func start(t *testing.T, file, filter string) (*sccapi.Client, *notified, func()) {
	t.Helper()
	n := &notified{news: make(chan struct{}, 100)}
	s, err := Start(Config{File: file, Source: source, ProjectNumber: "77", NotificationConfig: "c", Filter: filter, Notify: n.add})
	if err != nil {
		t.Fatal(err)
	}
	c, err := sccapi.NewClient(t.Context(), option.WithEndpoint(s.Addr), option.WithoutAuthentication(), option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())))
	if err != nil {
		t.Fatal(err)
	}
	stop := sync.OnceFunc(func() {
		c.Close()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return c, n, stop
}

func aFinding(id string) *pb.Finding {
	return &pb.Finding{Name: source + "/findings/" + id, ResourceName: "//r", Category: "Added Binary Executed", State: pb.Finding_ACTIVE, EventTime: timestamppb.Now(),
		SourceProperties: map[string]*structpb.Value{"A": structpb.NewStringValue("1"), "B": structpb.NewStringValue("2")}}
}

func write(c *sccapi.Client, f *pb.Finding, mask ...string) (*pb.Finding, error) {
	return c.UpdateFinding(context.Background(), &pb.UpdateFindingRequest{Finding: f, UpdateMask: &fieldmaskpb.FieldMask{Paths: mask}})
}

func create(c *sccapi.Client, f *pb.Finding) (*pb.Finding, error) {
	parent, id, _ := strings.Cut(f.Name, "/findings/")
	return c.CreateFinding(context.Background(), &pb.CreateFindingRequest{Parent: parent, FindingId: id, Finding: f})
}

func TestRefusesWhatTheAPIDocumentsAsRefused(t *testing.T) {
	c, _, _ := start(t, filepath.Join(t.TempDir(), "scc.db"), "")
	f, err := create(c, aFinding("a1"))
	if err != nil || f.CanonicalName != "projects/77/sources/2/locations/global/findings/a1" || f.CreateTime == nil {
		t.Fatalf("create: %v, %v", f, err)
	}
	changed := aFinding("a1")
	changed.SourceProperties = map[string]*structpb.Value{"A": structpb.NewStringValue("9")}
	if f, err = write(c, changed, "source_properties.A"); err != nil || f.SourceProperties["A"].GetStringValue() != "9" || f.SourceProperties["B"].GetStringValue() != "2" {
		t.Errorf("a mask of one property: %v, %v", f.GetSourceProperties(), err)
	}
	for name, attempt := range map[string]func() error{
		"long ID":                 func() error { _, err := create(c, aFinding(strings.Repeat("a", 33))); return err },
		"ID with a dash":          func() error { _, err := create(c, aFinding("a-1")); return err },
		"empty mask on update":    func() error { _, err := write(c, aFinding("a1")); return err },
		"mask on creation":        func() error { _, err := write(c, aFinding("a3"), "state"); return err },
		"unknown field in a mask": func() error { _, err := write(c, aFinding("a1"), "create_time"); return err },
		"changed category":        func() error { g := aFinding("a1"); g.Category = "X"; _, err := write(c, g, "state"); return err },
		"event time in the future": func() error {
			g := aFinding("a2")
			g.EventTime = timestamppb.New(time.Now().Add(time.Hour))
			_, err := create(c, g)
			return err
		},
		"no resource": func() error { g := aFinding("a2"); g.ResourceName = ""; _, err := create(c, g); return err },
		"zonal cluster below locations": func() error {
			g := aFinding("a2")
			g.ResourceName = "//container.googleapis.com/projects/p/locations/europe-west1-b/clusters/c"
			_, err := create(c, g)
			return err
		},
		"invalid property key": func() error {
			g := aFinding("a2")
			g.SourceProperties["1 x"] = structpb.NewStringValue("")
			_, err := create(c, g)
			return err
		},
	} {
		if err := attempt(); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v, want InvalidArgument", name, err)
		}
	}
	if _, err := create(c, aFinding("a1")); status.Code(err) != codes.AlreadyExists {
		t.Errorf("created twice: %v", err)
	}
	g := aFinding("a1")
	g.Name = "organizations/1/sources/9/findings/a1"
	if _, err := create(c, g); status.Code(err) != codes.NotFound {
		t.Errorf("unknown source: %v", err)
	}
	zonal := aFinding("z1")
	zonal.ResourceName = "//container.googleapis.com/projects/p/zones/europe-west1-b/clusters/c"
	if _, err := create(c, zonal); err != nil {
		t.Errorf("zonal cluster: %v", err)
	}
}

func TestListsByDocumentedFilter(t *testing.T) {
	c, _, _ := start(t, filepath.Join(t.TempDir(), "scc.db"), "")
	for i, category := range []string{"A", "B", "C"} {
		f := aFinding("f" + category)
		f.Category, f.EventTime = category, timestamppb.New(time.Date(2026, 1, 1, i, 0, 0, 0, time.UTC))
		if _, err := create(c, f); err != nil {
			t.Fatal(err)
		}
	}
	for filter, want := range map[string]string{
		``: "CBA", `category="A"`: "A", `-category="A"`: "CB", `category="A" OR category="B" AND event_time>="2026-01-01T01:00:00Z"`: "B", // OR binds tighter
		`event_time>="2026-01-01T01:00:00Z"`: "CB", `-category="C" AND state="ACTIVE"`: "BA", `resource_name:"//"`: "CBA", `event_time>=1767229200000`: "CB", `(category="A" OR category:"C") AND -state="INACTIVE"`: "CA", `state="INACTIVE"`: "",
	} {
		got := ""
		it := c.ListFindings(t.Context(), &pb.ListFindingsRequest{Parent: "organizations/1/sources/-", Filter: filter, PageSize: 2})
		for {
			r, err := it.Next()
			if err == iterator.Done {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", filter, err)
			}
			got += r.Finding.Category
		}
		if got != want {
			t.Errorf("%s: %q, want %q", filter, got, want)
		}
	}
	for _, refused := range []string{
		`kubernetes.pods.name="x"`, `finding_class="THREAT"`, `source_properties.A="1"`, `NOT category="A"`, `-(category="A" OR category="B")`,
		`category!="A"`, `category="A" category="B"`, `category=A`, `name:"x"`, `category>"A"`, `event_time>="yesterday"`, `category="A`,
		`(category="A"`, `category="A")`, `category`, `category=`, `"A"=category`, `category="A" AND`, `state="ACTIVE" and category="A"`,
	} {
		it := c.ListFindings(t.Context(), &pb.ListFindingsRequest{Parent: "organizations/1/sources/-", Filter: refused})
		if _, err := it.Next(); status.Code(err) != codes.InvalidArgument {
			t.Errorf("filter %s: %v, want it refused", refused, err)
		}
	}
}

func TestNotifiesWhatTheFilterSelects(t *testing.T) {
	file := filepath.Join(t.TempDir(), "scc.db")
	c, n, stop := start(t, file, `-category="Escalated" OR -parent="`+source+`"`)
	hidden := aFinding("h")
	hidden.Category = "Escalated"
	for _, f := range []*pb.Finding{hidden, aFinding("s")} {
		if _, err := create(c, f); err != nil {
			t.Fatal(err)
		}
	}
	<-n.news
	if _, err := c.UpdateExternalSystem(t.Context(), &pb.UpdateExternalSystemRequest{
		ExternalSystem: &pb.ExternalSystem{Name: "projects/77/sources/2/locations/global/findings/s/externalSystems/x", Status: "frozen"},
		UpdateMask:     &fieldmaskpb.FieldMask{Paths: []string{"status"}}}); err != nil {
		t.Fatal(err)
	}
	<-n.news
	stop()
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.got) != 2 || !strings.Contains(n.got[1], "frozen") {
		t.Fatalf("notified %q", n.got)
	}
	for _, m := range n.got {
		if strings.Contains(m, "Escalated") {
			t.Errorf("notified although the filter excludes it: %s", m)
		}
	}
}
