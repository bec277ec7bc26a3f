package owner_test

import (
	"context"
	"net"
	"sync/atomic"
	"testing"

	"cloud.google.com/go/essentialcontacts/apiv1/essentialcontactspb"
	"cloud.google.com/go/iam/apiv1/iampb"
	"cloud.google.com/go/resourcemanager/apiv3/resourcemanagerpb"
	"google.golang.org/api/option"
	"google.golang.org/genproto/googleapis/type/expr"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/internal/owner"
)

// google serves Essential Contacts and Resource Manager for one project.
type google struct {
	essentialcontactspb.UnimplementedEssentialContactsServiceServer
	resourcemanagerpb.UnimplementedProjectsServer
	calls atomic.Int64
}

func (g *google) ComputeContacts(_ context.Context, r *essentialcontactspb.ComputeContactsRequest) (*essentialcontactspb.ComputeContactsResponse, error) {
	g.calls.Add(1)
	if r.GetParent() != "projects/shop" {
		return nil, status.Error(codes.PermissionDenied, "no access to "+r.GetParent())
	}
	email := map[essentialcontactspb.NotificationCategory]string{
		essentialcontactspb.NotificationCategory_SECURITY: "sec@example.com", essentialcontactspb.NotificationCategory_TECHNICAL: "tech@example.com",
	}[r.GetNotificationCategories()[0]]
	return &essentialcontactspb.ComputeContactsResponse{Contacts: []*essentialcontactspb.Contact{{Email: email}}}, nil
}

func (g *google) GetIamPolicy(_ context.Context, r *iampb.GetIamPolicyRequest) (*iampb.Policy, error) {
	if r.GetOptions().GetRequestedPolicyVersion() != 3 {
		return nil, status.Error(codes.InvalidArgument, "conditions need version 3")
	}
	return &iampb.Policy{Bindings: []*iampb.Binding{
		{Role: "roles/editor", Members: []string{"user:editor@example.com"}},
		{Role: "roles/owner", Members: []string{"user:zoe@example.com", "serviceAccount:ci@shop.iam", "group:owners@example.com"}},
		{Role: "roles/owner", Members: []string{"user:temporary@example.com"}, Condition: &expr.Expr{Expression: "false"}},
	}}, nil
}

func serveGoogle(t *testing.T) (*google, []option.ClientOption) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g, srv := &google{}, grpc.NewServer()
	essentialcontactspb.RegisterEssentialContactsServiceServer(srv, g)
	resourcemanagerpb.RegisterProjectsServer(srv, g)
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(srv.Stop)
	return g, []option.ClientOption{option.WithEndpoint(l.Addr().String()), option.WithoutAuthentication(),
		option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials()))}
}

func TestEssentialContactsAreAskedOnceForAProject(t *testing.T) {
	g, options := serveGoogle(t)
	contacts, err := owner.NewEssentialContacts(t.Context(), options...)
	if err != nil {
		t.Fatal(err)
	}
	defer contacts.Close()
	for range 3 {
		owners, err := contacts.Owners(t.Context(), finding.Finding{Project: "shop"})
		if err != nil || names(owners) != "sec@example.com tech@example.com" {
			t.Fatalf("%q, %v", names(owners), err)
		}
	}
	if g.calls.Load() != 2 {
		t.Errorf("%d calls, want one for each category", g.calls.Load())
	}
	if _, err := contacts.Owners(t.Context(), finding.Finding{Project: "other"}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("another project: %v", err)
	}
}

func TestProjectOwnersArePeopleAndGroupsWithoutConditions(t *testing.T) {
	_, options := serveGoogle(t)
	members, err := owner.NewProjectOwners(t.Context(), options...)
	if err != nil {
		t.Fatal(err)
	}
	defer members.Close()
	owners, err := members.Owners(t.Context(), finding.Finding{Project: "shop"})
	if err != nil || names(owners) != "owners@example.com zoe@example.com" {
		t.Errorf("%q, %v", names(owners), err)
	}
}
