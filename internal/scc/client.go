// Package escalate owns what we write to Security Command Center: our findings,
// by deterministic ids and exact masks, and the external system that shows the
// case. Marks are never touched.
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

// SCC is our source in Security Command Center.
type SCC struct {
	client *sccapi.Client
	// Source is its name: organizations/N/sources/M/locations/global.
	Source string
	// Scope is below which findings are listed: organizations/N, folders/N or
	// projects/P. Empty: the source's organization.
	Scope string
}

// Open connects to SCC; options replace the endpoint and credentials for a stand-in.
func Open(ctx context.Context, source string, opts ...option.ClientOption) (*SCC, error) {
	if source == "" {
		return nil, errors.New("scc: a source's name is required (organizations/N/sources/M/locations/global)")
	}
	client, err := sccapi.NewClient(ctx, opts...)
	if err != nil {
		return nil, fmt.Errorf("open SCC client: %w", err)
	}
	return &SCC{client: client, Source: source}, nil
}

// Close the connection.
func (s *SCC) Close() error { return s.client.Close() }

// Upsert writes a finding of ours: UpdateFinding creates what is missing, so the
// same write again changes nothing. The answer is what SCC now holds.
func (s *SCC) Upsert(ctx context.Context, f *pb.Finding) (*pb.Finding, error) {
	// An empty mask would replace everything, what others wrote included.
	paths := []string{"state", "severity", "event_time", "description", "external_uri", "next_steps", "mitre_attack", "processes", "containers", "kubernetes", "indicator"}
	for _, k := range slices.Sorted(maps.Keys(f.SourceProperties)) {
		paths = append(paths, "source_properties."+k)
	}
	out, err := s.client.UpdateFinding(ctx, &pb.UpdateFindingRequest{Finding: f, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths}})
	if err != nil {
		return nil, classify(fmt.Errorf("write finding %q: %w", f.Name, err))
	}
	return out, nil
}

// classify: what SCC will refuse for ever is permanent.
func classify(err error) error {
	switch status.Code(err) {
	case codes.InvalidArgument, codes.NotFound, codes.PermissionDenied, codes.Unauthenticated, codes.FailedPrecondition, codes.Unimplemented:
		return retry.Refused(err)
	}
	return err
}

// Escalate writes the second finding of a case, linked to the first.
func (s *SCC) Escalate(ctx context.Context, c cases.Case, at time.Time) (name string, err error) {
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

// Report shows the case's state on the original finding, as SCC's external system.
func (s *SCC) Report(ctx context.Context, c cases.Case, link string) error {
	name := c.Decided.Finding.CanonicalName
	if name == "" || !strings.Contains(name, "/findings/") {
		return retry.Refused(errors.New("the finding has no name to report to"))
	}
	x := &pb.ExternalSystem{
		Name: name + "/externalSystems/contraband", ExternalUid: c.ID, Status: c.Status(), CaseUri: link,
		CaseCreateTime: timestamppb.New(c.Opened),
	}
	paths := []string{"external_uid", "status", "case_uri", "case_create_time"}
	if c.Paged != nil && c.Paged.Link != "" {
		x.TicketInfo = &pb.ExternalSystem_TicketInfo{Id: c.Paged.Timestamp, Uri: c.Paged.Link, Description: "the Slack message of the case", Status: c.Status()}
		paths = append(paths, "ticket_info")
	}
	if c.Closed != nil {
		x.CaseCloseTime = timestamppb.New(c.Updated)
		paths = append(paths, "case_close_time")
	}
	_, err := s.client.UpdateExternalSystem(ctx, &pb.UpdateExternalSystemRequest{ExternalSystem: x, UpdateMask: &fieldmaskpb.FieldMask{Paths: paths}})
	if err != nil {
		return classify(fmt.Errorf("report to %q: %w", name, err))
	}
	return nil
}

// Deactivate makes our own findings of a case INACTIVE; those of other detectors
// are not ours to change.
func (s *SCC) Deactivate(ctx context.Context, c cases.Case) error {
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

// nearbyMax bounds how many findings are read to find the related ones.
const nearbyMax = 500

// List answers the findings about a resource in a time range, of every source.
func (s *SCC) List(ctx context.Context, resource string, from, to time.Time) ([]finding.Finding, error) {
	parent := s.Scope
	if parent == "" {
		var ok bool
		if parent, _, ok = strings.Cut(s.Source, "/sources/"); !ok {
			return nil, fmt.Errorf("source %q names no parent", s.Source)
		}
	}
	filter := fmt.Sprintf(`resource_name="%s" AND event_time>="%s" AND event_time<="%s"`,
		strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(resource), from.UTC().Format(time.RFC3339), to.UTC().Format(time.RFC3339))
	it := s.client.ListFindings(ctx, &pb.ListFindingsRequest{Parent: parent + "/sources/-", Filter: filter, PageSize: nearbyMax})
	var out []finding.Finding
	for len(out) < nearbyMax {
		r, err := it.Next()
		if errors.Is(err, iterator.Done) {
			break
		}
		if err != nil {
			return out, fmt.Errorf("list findings: %w", err)
		}
		raw, err := protojson.Marshal(r.GetFinding())
		if err != nil {
			return out, fmt.Errorf("list findings: %w", err)
		}
		if fs, err := finding.Decode(raw); err == nil {
			out = append(out, fs...)
		}
	}
	return out, nil
}
