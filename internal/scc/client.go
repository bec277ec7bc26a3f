// Package scc writes to Security Command Center: our findings, under deterministic IDs and
// with exact masks, and the external system that shows a case's state. It also lists
// related findings. It never touches security marks.
package scc

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	sccapi "cloud.google.com/go/securitycenter/apiv2"
	pb "cloud.google.com/go/securitycenter/apiv2/securitycenterpb"
	"google.golang.org/api/iterator"
	"google.golang.org/api/option"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/internal/retry"
)

// Client writes to our source in Security Command Center.
type Client struct {
	client *sccapi.Client
	// Source is its name: organizations/N/sources/M/locations/global.
	Source string
	// Scope is what findings are listed of: organizations/N, folders/N or projects/P.
	// Empty: the source's organization.
	Scope string
}

// NewClient connects to SCC; options replace the endpoint and credentials in tests.
func NewClient(ctx context.Context, source string, opts ...option.ClientOption) (*Client, error) {
	if source == "" {
		return nil, errors.New("scc: a source name is required (organizations/N/sources/M/locations/global)")
	}
	client, err := sccapi.NewClient(ctx, opts...)
	if err != nil {
		return nil, fmt.Errorf("open SCC client: %w", err)
	}
	return &Client{client: client, Source: source}, nil
}

// Close closes the connection.
func (s *Client) Close() error { return s.client.Close() }

// Upsert writes a finding of ours and returns what SCC then has. It creates the finding
// without a mask, as SCC asks for, and updates one that exists with the mask of what we
// write: an empty mask would replace what others have written. The same write again changes
// nothing. Content that SCC refuses is written once more in its smallest form.
func (s *Client) Upsert(ctx context.Context, f *pb.Finding) (*pb.Finding, error) {
	out, err := s.upsert(ctx, f)
	if status.Code(err) == codes.InvalidArgument {
		if out, smallErr := s.upsert(ctx, smallest(f)); smallErr == nil {
			return out, nil
		}
	}
	if err != nil {
		return nil, classify(fmt.Errorf("write finding %q: %w", f.Name, err))
	}
	return out, nil
}

func (s *Client) upsert(ctx context.Context, f *pb.Finding) (*pb.Finding, error) {
	parent, id, _ := strings.Cut(f.Name, "/findings/")
	out, err := s.client.CreateFinding(ctx, &pb.CreateFindingRequest{Parent: parent, FindingId: id, Finding: f})
	if status.Code(err) != codes.AlreadyExists {
		return out, err
	}
	return s.client.UpdateFinding(ctx, &pb.UpdateFindingRequest{Finding: f, UpdateMask: maskOf(f)})
}

// maskOf names the fields that a finding of ours has.
func maskOf(f *pb.Finding) *fieldmaskpb.FieldMask {
	paths := []string{"state", "severity", "event_time"}
	for _, field := range []struct {
		path string
		set  bool
	}{
		{"description", f.Description != ""}, {"external_uri", f.ExternalUri != ""}, {"next_steps", f.NextSteps != ""},
		{"mitre_attack", f.MitreAttack != nil}, {"processes", len(f.Processes) > 0}, {"containers", len(f.Containers) > 0},
		{"kubernetes", f.Kubernetes != nil}, {"indicator", f.Indicator != nil},
	} {
		if field.set {
			paths = append(paths, field.path)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(f.SourceProperties)) {
		paths = append(paths, "source_properties."+k)
	}
	return &fieldmaskpb.FieldMask{Paths: paths}
}

// smallest returns a finding with only what SCC requires and what identifies its pod: none
// of it is text that a container chooses.
func smallest(f *pb.Finding) *pb.Finding {
	return &pb.Finding{
		Name: f.Name, Parent: f.Parent, ResourceName: f.ResourceName, State: f.State, Category: f.Category, Severity: f.Severity,
		FindingClass: f.FindingClass, EventTime: f.EventTime, NextSteps: f.NextSteps,
	}
}

// classify marks an error that repeating the same content cannot mend as refused, and one
// whose cause is a role, a source or a setting, which a person can mend, as misconfigured.
func classify(err error) error {
	switch status.Code(err) {
	case codes.InvalidArgument, codes.OutOfRange:
		return retry.Refused(err)
	case codes.NotFound, codes.PermissionDenied, codes.Unauthenticated, codes.FailedPrecondition, codes.Unimplemented:
		return retry.Misconfigured(err)
	}
	return err
}

// Escalate writes the second finding of a case, linked to the first, and returns its name.
func (s *Client) Escalate(ctx context.Context, c cases.Case, at time.Time) (name string, err error) {
	v := c.Decided.Verdict
	_, f, err := Escalation(c.ID, c.Decided.Finding, v.Source, v.Label, s.Source, at)
	if err != nil {
		return "", retry.Refused(err)
	}
	out, err := s.Upsert(ctx, f)
	if err != nil {
		return "", err
	}
	return out.Name, nil
}

// Report shows a case's state on the original finding, as SCC's external system.
func (s *Client) Report(ctx context.Context, c cases.Case, link string) error {
	name := c.Decided.Finding.CanonicalName
	if !strings.Contains(name, "/findings/") {
		return retry.Refused(fmt.Errorf("report case %q: its finding has no name in SCC", c.ID))
	}
	x := &pb.ExternalSystem{
		Name: name + "/externalSystems/contraband", ExternalUid: c.ID, Status: c.Status(), CaseUri: link,
		CaseCreateTime: timestamppb.New(c.Opened),
	}
	paths := []string{"external_uid", "status", "case_uri", "case_create_time"}
	if c.Paged != nil && c.Paged.Link != "" {
		x.TicketInfo = &pb.ExternalSystem_TicketInfo{Id: c.Paged.Timestamp, Uri: c.Paged.Link, Description: "Slack message about the case", Status: c.Status()}
		paths = append(paths, "ticket_info")
	}
	if c.Closed != nil {
		x.CaseCloseTime = timestamppb.New(c.Updated)
		paths = append(paths, "case_close_time")
	}
	_, err := s.client.UpdateExternalSystem(ctx, &pb.UpdateExternalSystemRequest{ExternalSystem: x, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths}})
	if status.Code(err) == codes.NotFound { // the finding was deleted, or SCC never had it
		return retry.Refused(fmt.Errorf("report to %q: %w", name, err))
	}
	if err != nil {
		return classify(fmt.Errorf("report to %q: %w", name, err))
	}
	return nil
}

// Deactivate makes our own findings of a case INACTIVE; other detectors' are left as they
// are.
func (s *Client) Deactivate(ctx context.Context, c cases.Case) error {
	var names []string
	if c.Decided.Finding.In(s.Source) {
		names = append(names, c.Decided.Finding.Name)
	}
	if c.Escalated != nil && c.Escalated.Finding != "" {
		names = append(names, c.Escalated.Finding)
	}
	for _, name := range names {
		_, err := s.client.UpdateFinding(ctx, &pb.UpdateFindingRequest{
			Finding: &pb.Finding{Name: name, State: pb.Finding_INACTIVE}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"state"}},
		})
		if err != nil {
			return classify(fmt.Errorf("deactivate finding %q: %w", name, err))
		}
	}
	return nil
}

// maxNearby bounds how many findings are read to find the related ones: one page.
const maxNearby = 200

// Nearby returns the findings of every source about the same resource as a finding, and
// about its pod or container as far as they name one, within a time range. It reads one
// page, the newest first. SCC has no filter on pods: they are compared before anything is
// decoded.
func (s *Client) Nearby(ctx context.Context, f finding.Finding, from, to time.Time) ([]finding.Finding, error) {
	parent := s.Scope
	if parent == "" {
		var ok bool
		if parent, _, ok = strings.Cut(s.Source, "/sources/"); !ok {
			return nil, fmt.Errorf("source %q has no parent", s.Source)
		}
	}
	it := s.client.ListFindings(ctx, &pb.ListFindingsRequest{
		Parent: parent + "/sources/-", Filter: nearbyFilter(f, from, to), OrderBy: "event_time desc", PageSize: maxNearby,
	})
	var out []finding.Finding
	for range maxNearby {
		r, err := it.Next()
		if errors.Is(err, iterator.Done) {
			break
		}
		if err != nil {
			return out, fmt.Errorf("list findings: %w", err)
		}
		if !mayBeOfPod(r.GetFinding(), f.Pod) {
			continue
		}
		if near, err := decode(r.GetFinding()); err == nil { // what cannot be decoded is not related
			out = append(out, near...)
		}
	}
	return out, nil
}

// nearbyFilter selects by resource, under each name that it may have, and by time.
func nearbyFilter(f finding.Finding, from, to time.Time) string {
	var names []string
	for _, name := range f.ResourceNames() {
		names = append(names, "resource_name="+quote(name))
	}
	return fmt.Sprintf("(%s) AND event_time>=%s AND event_time<=%s", strings.Join(names, " OR "),
		quote(from.UTC().Format(time.RFC3339)), quote(to.UTC().Format(time.RFC3339)))
}

// mayBeOfPod reports whether a finding names a pod, or names none that could be another.
func mayBeOfPod(f *pb.Finding, pod finding.Pod) bool {
	pods := f.GetKubernetes().GetPods()
	if pod.Name == "" || len(pods) == 0 {
		return true
	}
	return slices.ContainsFunc(pods, func(p *pb.Kubernetes_Pod) bool { return p.Name == pod.Name && p.Ns == pod.Namespace })
}

func decode(f *pb.Finding) ([]finding.Finding, error) {
	raw, err := protojson.Marshal(f)
	if err != nil {
		return nil, err
	}
	return finding.Decode(raw)
}

// quote returns a string literal of SCC's filter language.
func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// NotificationFilter selects what is pushed to Respond: findings of threats and of
// detectors' errors, without our own escalations. Any other finding of ours is wanted: an
// analyst may close it. source is "" where none is configured.
func NotificationFilter(source string) string {
	classes := `(finding_class="` + finding.ClassThreat + `" OR finding_class="` + finding.ClassError + `")`
	if source == "" {
		return classes
	}
	source = strings.TrimSuffix(source, globalLocation)
	return fmt.Sprintf(`%s AND (-category=%s OR (-parent=%s AND -parent=%s))`, classes,
		quote(finding.AddedMaliciousBinary), quote(source), quote(source+globalLocation))
}

const globalLocation = "/locations/global"
