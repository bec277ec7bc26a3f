package scc

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	pb "cloud.google.com/go/securitycenter/apiv2/securitycenterpb"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/internal/sensorapi"
)

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// FromDetection is the finding "Added Binary Executed" for a detection, under a
// deterministic id: the same file in the same container is one finding, its
// event time that of the latest run. source is an SCC source's name.
func FromDetection(d sensorapi.Detection, p finding.Place, source string, now time.Time) (id string, f *pb.Finding, err error) {
	if d.Health != "" {
		id, f = blind(d, p, source, now)
		return id, f, nil
	}
	what := d.File.SHA256
	if what == "" {
		what = d.Process.Path
	}
	id = finding.ID(finding.AddedBinary, p.Project, p.Location, p.Cluster, d.Container.ID, what)
	at := d.Time
	if at.After(now) { // SCC refuses what has not happened yet
		at = now
	}
	severity := pb.Finding_MEDIUM
	if d.SameAs != "" { // a copy of what the image has
		severity = pb.Finding_LOW
	}
	properties, err := structpb.NewStruct(map[string]any{
		"Container_Id": d.Container.ID, "Container_Name": d.Container.Name, "Container_Image_Uri": d.Container.Image,
		"Container_Image_Id": d.Container.ImageDigest, "Pod_Namespace": d.Pod.Namespace, "Pod_Name": d.Pod.Name, "Pod_Uid": d.Pod.UID,
		"VM_Instance_Name": d.Node, "Process_Binary_Fullpath": d.Process.Path, "Process_Arguments": anys(d.Process.Args),
		"Pid": float64(d.Process.PID), "Parent_Pid": float64(d.Process.PPID), "Added_Binary_Kind": strings.ToUpper(string(d.Route[:1])) + string(d.Route[1:]),
		"contextUris": links(d.File.SHA256),
		"Contraband": map[string]any{
			"Route": string(d.Route), "Same_As": d.SameAs, "Unhashed": d.File.Unhashed, "Missed": gaps(d), "Unattributed": d.Container.Missing, "Repeats": float64(d.Repeats),
			"Ancestors": ancestors(d), "Started": stamp(d.Process.Started), "User": float64(d.Process.UID), "Group": float64(d.Process.GID), "Executed": stamp(d.Time), "Seen": stamp(d.Timing.Seen), "Hashed": stamp(d.Timing.Hashed), "Attributed": stamp(d.Timing.Attributed), "Raised": stamp(now),
		},
	})
	if err != nil {
		return "", nil, fmt.Errorf("finding of %q: %w", d.Process.Path, err)
	}
	return id, &pb.Finding{
		Name: source + "/findings/" + id, Parent: source, ResourceName: p.ResourceName(),
		State: pb.Finding_ACTIVE, Category: finding.AddedBinary, Severity: severity, FindingClass: pb.Finding_THREAT,
		EventTime: timestamppb.New(at), SourceProperties: properties.Fields,
		Description: fmt.Sprintf("A program that is not part of the container's image was executed (%s).", routeWords[d.Route]),
		NextSteps:   "Compare with the image's build; contain the pod if the program was not meant to be there. The case has the commands.",
		MitreAttack: mitre(), ExternalUri: fileLink(d.File.SHA256),
		Processes: []*pb.Process{{
			Name: d.Process.Comm, Binary: fileOf(d), Args: d.Process.Args, Pid: int64(d.Process.PID), ParentPid: int64(d.Process.PPID), UserId: int64(d.Process.UID),
		}},
		Containers: []*pb.Container{{Name: d.Container.Name, Uri: d.Container.Image, ImageId: d.Container.ImageDigest, Labels: labelsOf(d.Container.Labels)}},
		Kubernetes: kubernetesOf(d),
	}, nil
}

// blind is the finding that a sensor of ours cannot be relied on: one for each
// node and reason. It is of the class in which SCC keeps its own detectors' errors.
func blind(d sensorapi.Detection, p finding.Place, source string, now time.Time) (id string, f *pb.Finding) {
	id = finding.ID(finding.SensorBlind, p.Project, p.Location, p.Cluster, d.Node, d.Health)
	at := d.Time
	if at.After(now) {
		at = now
	}
	what := "What runs in containers of this node is not reliably seen by any route: programs and libraries that were added, changed, on volumes, or only in memory."
	next := "Read the sensor's log on the node and run contraband doctor there: the case has the commands. Until this is mended, let no pods run there that matter."
	if strings.HasPrefix(d.Health, sensorapi.RecordDamaged) {
		what = "It watches again. Detections that had not been sent may be lost, and a container that it had frozen may stay frozen until it is released."
		next = "Look at the node's disk, and at the cases of containers on this node that are frozen: release what is to run. The sensor's log names the damaged file."
	}
	return id, &pb.Finding{
		Name: source + "/findings/" + id, Parent: source, ResourceName: p.ResourceName(),
		State: pb.Finding_ACTIVE, Category: finding.SensorBlind, Severity: pb.Finding_HIGH, FindingClass: pb.Finding_SCC_ERROR,
		EventTime: timestamppb.New(at), Description: fmt.Sprintf("Node %q: %s. %s", d.Node, d.Health, what),
		NextSteps:        next,
		SourceProperties: map[string]*structpb.Value{"VM_Instance_Name": structpb.NewStringValue(d.Node)},
		Kubernetes:       &pb.Kubernetes{Nodes: []*pb.Kubernetes_Node{{Name: d.Node}}},
	}
}

var routeWords = map[sensorapi.Route]string{
	sensorapi.Added: "added after the container started", sensorapi.Modified: "a file of the image whose bytes were changed",
	sensorapi.Volume: "on a volume", sensorapi.Memory: "from memory, without a file", sensorapi.Deleted: "from a file already deleted",
	sensorapi.Script: "a script", sensorapi.Loader: "given to the dynamic loader", sensorapi.Library: "a library, mapped by another program",
	sensorapi.Nested: "on an overlay that is not the container's own",
}

func fileOf(d sensorapi.Detection) *pb.File {
	f := &pb.File{Path: d.Process.Path, Size: d.File.Size, Sha256: d.File.SHA256}
	if d.File.SHA256 != "" {
		f.HashedSize = d.File.Size
	}
	return f
}

func kubernetesOf(d sensorapi.Detection) *pb.Kubernetes {
	k := &pb.Kubernetes{Nodes: []*pb.Kubernetes_Node{{Name: d.Node}}}
	if d.Pod.Name != "" {
		k.Pods = []*pb.Kubernetes_Pod{{Ns: d.Pod.Namespace, Name: d.Pod.Name, Labels: labelsOf(d.Pod.Labels)}}
	}
	return k
}

func labelsOf(labels map[string]string) []*pb.Label {
	var out []*pb.Label
	for _, k := range sortedKeys(labels) {
		out = append(out, &pb.Label{Name: k, Value: labels[k]})
	}
	return out
}

func gaps(d sensorapi.Detection) string {
	var parts []string
	add := func(n uint64, what string) {
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, what))
		}
	}
	add(d.Missed.Dropped, "events lost in the kernel")
	add(d.Missed.Unattributed, "programs whose container was not found")
	add(d.Missed.Overflowed, "detections refused by a full spool")
	add(d.Missed.Scripts, "scripts gone before they could be looked at")
	add(d.Missed.Unheld, "files that could not be held until they were hashed")
	add(d.Missed.Down, "seconds without a sensor before it started")
	return strings.Join(parts, ", ")
}

// ancestors in words: "sh (7) /bin/sh", the parent first.
func ancestors(d sensorapi.Detection) (out []any) {
	for _, a := range d.Process.Ancestors {
		out = append(out, strings.TrimSpace(fmt.Sprintf("%s (%d) %s", a.Comm, a.PID, a.Path)))
	}
	return out
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

func anys(s []string) []any {
	out := make([]any, len(s))
	for i, v := range s {
		out[i] = v
	}
	return out
}

// Notification is the message that SCC publishes for a finding.
func Notification(config string, f *pb.Finding, r *pb.Resource) ([]byte, error) {
	return protojson.Marshal(&pb.NotificationMessage{
		NotificationConfigName: config, Event: &pb.NotificationMessage_Finding{Finding: f}, Resource: r,
	})
}

// Escalation is our second finding: a known bad program ran. It names the
// first one, whose category and severity SCC lets nobody change. Its event time is that of the
// first, which SCC has accepted: it refuses what is ahead of its own clock, and an instance's
// can be.
func Escalation(caseID string, f finding.Finding, indicator, label, source string, at time.Time) (id string, out *pb.Finding, err error) {
	id = finding.ID(finding.AddedMaliciousBinary, caseID)
	properties, err := structpb.NewStruct(map[string]any{
		"Original_Finding": f.CanonicalName, "Contraband_Case": caseID, "Indicator_Source": indicator, "Indicator_Label": label,
		"Container_Id": f.Container.ID, "Container_Name": f.Container.Name, "Container_Image_Uri": f.Container.Image,
		"Pod_Namespace": f.Pod.Namespace, "Pod_Name": f.Pod.Name, "Pod_Uid": f.Pod.UID, "VM_Instance_Name": f.Node, "Process_Binary_Fullpath": f.Process.Path,
		"Container_Image_Id": f.Container.Digest, "contextUris": links(f.Process.SHA256),
	})
	if err != nil {
		return "", nil, fmt.Errorf("escalation of %q: %w", f.Name, err)
	}
	if !f.EventTime.IsZero() && f.EventTime.Before(at) {
		at = f.EventTime
	}
	return id, &pb.Finding{
		Name: source + "/findings/" + id, Parent: source, ResourceName: f.ResourceName,
		State: pb.Finding_ACTIVE, Category: finding.AddedMaliciousBinary, Severity: pb.Finding_CRITICAL, FindingClass: pb.Finding_THREAT,
		EventTime: timestamppb.New(at), SourceProperties: properties.Fields,
		Description: fmt.Sprintf("A program that is not part of the container's image was executed, and an indicator source knows it: %s (%s).", label, indicator),
		NextSteps:   "Follow the case: it holds the evidence, what was contained and how, and the commands to look further. Then rebuild the workload from its image and find how the program came in.",
		MitreAttack: mitre(), ExternalUri: fileLink(f.Process.SHA256),
		Indicator: indicatorOf(f.Process.SHA256),
		Kubernetes: &pb.Kubernetes{
			Nodes: []*pb.Kubernetes_Node{{Name: f.Node}},
			Pods:  []*pb.Kubernetes_Pod{{Ns: f.Pod.Namespace, Name: f.Pod.Name, Labels: labelsOf(f.Pod.Labels)}},
		},
		Processes:  []*pb.Process{{Binary: &pb.File{Path: f.Process.Path, Sha256: f.Process.SHA256, Size: f.Process.Size, HashedSize: f.Process.Size}, Args: f.Process.Args, Pid: f.Process.PID, ParentPid: f.Process.ParentPID}},
		Containers: []*pb.Container{{Name: f.Container.Name, Uri: f.Container.Image, ImageId: f.Container.Digest, Labels: labelsOf(f.Container.Labels)}},
	}, nil
}

// mitre are the tactics and techniques that Container Threat Detection gives for
// an added program: T1105, Ingress Tool Transfer, and T1106, Native API.
func mitre() *pb.MitreAttack {
	return &pb.MitreAttack{
		PrimaryTactic: pb.MitreAttack_COMMAND_AND_CONTROL, PrimaryTechniques: []pb.MitreAttack_Technique{pb.MitreAttack_INGRESS_TOOL_TRANSFER},
		AdditionalTactics: []pb.MitreAttack_Tactic{pb.MitreAttack_EXECUTION}, AdditionalTechniques: []pb.MitreAttack_Technique{pb.MitreAttack_NATIVE_API},
	}
}

// fileLink is VirusTotal's page about a file.
func fileLink(sha256 string) string {
	if sha256 == "" {
		return ""
	}
	return "https://www.virustotal.com/gui/file/" + sha256 + "/detection"
}

// links are the source property in which Container Threat Detection keeps them.
func links(sha256 string) map[string]any {
	out := map[string]any{"mitreUri": map[string]any{"displayName": "MITRE Link", "url": "https://attack.mitre.org/techniques/T1105/"}}
	if link := fileLink(sha256); link != "" {
		out["virustotalIndicatorQueryUri"] = []any{map[string]any{"displayName": "VirusTotal File Link", "url": link}}
	}
	return out
}

// indicatorOf says that the file matched by its hash; SCC has no field for the
// hash but the process's own, and a link.
func indicatorOf(sha256 string) *pb.Indicator {
	i := &pb.Indicator{Signatures: []*pb.Indicator_ProcessSignature{{SignatureType: pb.Indicator_ProcessSignature_SIGNATURE_TYPE_FILE}}}
	if link := fileLink(sha256); link != "" {
		i.Uris = []string{link}
	}
	return i
}
