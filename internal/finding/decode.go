package finding

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/contraband-dev/contraband/internal/redact"
)

// ErrNoFinding means well-formed JSON in which there is no finding.
var ErrNoFinding = errors.New("no finding here")

// ErrMalformed means that the message cannot be read at all.
var ErrMalformed = errors.New("malformed")

// ErrNoProject means a finding that does not say whose it is.
var ErrNoProject = errors.New("no project here")

// Bounds of what is decoded. Pub/Sub takes at most 10 MB a message.
const (
	MaxBytes    = 10 << 20
	maxString   = 4096
	maxArgs     = 64
	maxLabels   = 64
	maxFindings = 1000
	maxValues   = 1 << 20
	maxDepth    = 64
)

// Decode reads a notification in any of the shapes in which findings arrive: a
// v1 or v2 envelope, the console's JSON tab, a bare finding, a list of results.
// Errors wrap ErrMalformed, ErrNoFinding or ErrNoProject and never quote the
// payload, which may hold secrets.
func Decode(data []byte) ([]Finding, error) {
	if len(data) > MaxBytes {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are taken", ErrMalformed, len(data), MaxBytes)
	}
	p := parsers.Get()
	defer parsers.Put(p)
	top, err := parse(p, bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")))
	if err != nil {
		return nil, err
	}
	envelopes := split(top)
	if len(envelopes) == 0 {
		return nil, ErrNoFinding
	}
	if len(envelopes) > maxFindings {
		return nil, fmt.Errorf("%w: %d findings in one message, at most %d are taken", ErrMalformed, len(envelopes), maxFindings)
	}
	var out []Finding
	for _, e := range envelopes {
		f, err := e.decode()
		if err != nil {
			return nil, err
		}
		out = append(out, f)
	}
	return out, nil
}

// envelope is a finding with what lies beside it.
type envelope struct {
	finding, resource, properties value
	deleted                       bool
}

func split(v value) []envelope {
	if v.isList() {
		var out []envelope
		for _, e := range v.list() {
			out = append(out, split(e)...)
		}
		return out
	}
	if r := v.get("listFindingsResults"); r.present() {
		return split(r)
	}
	var found value
	for _, name := range []string{"finding", "findings"} {
		if f := v.get(name); f.present() {
			if f.isList() {
				return split(f)
			}
			found = f
			break
		}
	}
	if !found.present() {
		if inner := v.get("jsonPayload"); inner.get("finding").present() || inner.get("category").present() {
			return split(inner) // Cloud Logging's export of a notification
		}
		found = v // perhaps a bare one
	}
	if found.get("name").str() == "" || found.get("category").str() == "" {
		return nil
	}
	e := envelope{finding: found, resource: v.get("resource"), properties: found.get("sourceProperties"), deleted: v.get("deletedFinding").boolean()}
	if !e.resource.present() {
		e.resource = found.get("resource")
	}
	if !e.properties.present() {
		e.properties = v.get("sourceProperties")
	}
	return []envelope{e}
}

func (e envelope) decode() (Finding, error) {
	f := Finding{
		Name: e.finding.get("name").str(), CanonicalName: e.finding.get("canonicalName").str(), Parent: e.finding.get("parent").str(),
		ResourceName: e.finding.get("resourceName").str(), Category: e.finding.get("category").str(), Class: e.finding.get("findingClass").str(),
		State: e.finding.get("state").str(), Mute: e.finding.get("mute").str(), Severity: e.finding.get("severity").str(), Deleted: e.deleted,
		EventTime: e.finding.get("eventTime").time(), CreateTime: e.finding.get("createTime").time(),
		Description: e.finding.get("description").str(), ExternalURI: e.finding.get("externalUri").str(), Detector: e.finding.get("parentDisplayName").str(),
	}
	if f.CanonicalName == "" {
		f.CanonicalName = f.Name
	}
	if f.ResourceName == "" {
		f.ResourceName = e.resource.get("name").str()
	}
	e.decodePlace(&f)
	e.decodeWorkload(&f)
	e.decodeProcess(&f)
	e.decodePeople(&f)
	e.decodeSensor(&f)
	if f.Project == "" && f.ProjectNumber == "" && f.Kind() == ContainerThreat {
		return f, fmt.Errorf("finding %q: %w", f.Name, ErrNoProject)
	}
	return f, nil
}

var (
	imageDigest = regexp.MustCompile(`sha256:[0-9a-f]{64}`)
)

func (e envelope) decodePlace(f *Finding) {
	if cluster := part(f.ResourceName, "clusters"); cluster != "" && strings.Contains(f.ResourceName, "container.googleapis.com/") {
		f.Project, f.Cluster = part(f.ResourceName, "projects"), cluster
		f.Location = or(part(f.ResourceName, "zones"), part(f.ResourceName, "regions"), part(f.ResourceName, "locations"))
	}
	first := func(where *string, candidates ...string) {
		for _, c := range candidates {
			if *where == "" {
				*where = c
			}
		}
	}
	meta := e.resource.get("gcpMetadata")
	first(&f.Project, meta.get("projectDisplayName").str(), e.resource.get("projectDisplayName").str(), e.properties.get("ProjectId").str())
	first(&f.Project, part(f.ResourceName, "projects"))
	for _, s := range []string{f.CanonicalName, meta.get("project").str(), e.resource.get("project").str(), e.resource.get("projectName").str(), e.resource.get("parent").str()} {
		if p := part(s, "projects"); strings.Trim(p, "0123456789") == "" {
			first(&f.ProjectNumber, p)
		}
	}
	first(&f.Project, f.ProjectNumber)
	first(&f.Location, e.resource.get("location").str())
	f.Node = lastPart(e.finding.get("kubernetes").get("nodes").index(0).get("name").str())
	first(&f.Node, e.properties.get("VM_Instance_Name").str())
}

func (e envelope) decodeWorkload(f *Finding) {
	pod := e.finding.get("kubernetes").get("pods").index(0)
	f.Pod = Pod{
		Namespace: or(pod.get("ns").str(), pod.get("namespace").str(), e.properties.get("Pod_Namespace").str()),
		Name:      or(pod.get("name").str(), e.properties.get("Pod_Name").str()),
		UID:       e.properties.get("Pod_Uid").str(), Labels: pod.get("labels").labels(),
	}
	box := e.finding.get("containers").index(0)
	if !box.present() {
		box = pod.get("containers").index(0)
	}
	f.Container = Container{
		ID:     e.properties.get("Container_Id").str(),
		Name:   or(box.get("name").str(), e.properties.get("Container_Name").str()),
		Image:  or(box.get("uri").str(), e.properties.get("Container_Image_Uri").str()),
		Labels: box.get("labels").labels(),
	}
	f.Container.Digest = imageDigest.FindString(or(box.get("imageId").str(), e.properties.get("Container_Image_Id").str()))
}

func (e envelope) decodeProcess(f *Finding) {
	p := e.finding.get("processes").index(0)
	file := p.get("binary")
	if s := p.get("script"); s.get("path").str() != "" {
		file = s // what is not of the image is the script
	}
	f.Process = Process{
		Path: or(file.get("path").str(), e.properties.get("Process_Binary_Fullpath").str()),
		Args: redact.Args(bounded(p.get("args").strings())), PID: p.get("pid").integer(), ParentPID: p.get("parentPid").integer(),
		Size: file.get("size").integer(),
	}
	if len(f.Process.Args) == 0 {
		f.Process.Args = redact.Args(bounded(e.properties.get("Process_Arguments").strings()))
	}
	if f.Process.PID == 0 {
		f.Process.PID = e.properties.get("Pid").integer()
	}
	if f.Process.ParentPID == 0 {
		f.Process.ParentPID = e.properties.get("Parent_Pid").integer()
	}
	sum := strings.ToLower(file.get("sha256").str())
	switch {
	case !isSHA256(sum):
	case file.get("partiallyHashed").boolean() || file.get("hashedSize").present() && file.get("hashedSize").integer() != f.Process.Size:
		f.Process.Partial = sum // of a prefix: a look-up of it would speak of another file
	default:
		f.Process.SHA256 = sum
	}
	if f.Process.SHA256 == "" && f.Process.Partial == "" {
		f.Process.SHA256 = e.properties.get("contextUris").linkedHash(8)
	}
}

func (e envelope) decodePeople(f *Finding) {
	for _, kind := range e.finding.get("contacts").members() {
		for _, c := range kind.get("contacts").list() {
			if email := c.get("email").str(); email != "" && len(f.Contacts) < maxLabels {
				f.Contacts = append(f.Contacts, Contact{strings.ToLower(kind.name), email})
			}
		}
	}
	attributes := e.resource.get("application").get("attributes")
	for _, group := range []string{"developerOwners", "operatorOwners", "businessOwners"} {
		for _, o := range attributes.get(group).list() {
			if email := o.get("email").str(); email != "" && len(f.Owners) < maxLabels {
				f.Owners = append(f.Owners, email)
			}
		}
	}
	m := e.finding.get("mitreAttack")
	f.MITRE = append(f.MITRE, nonEmpty(m.get("primaryTactic").str())...)
	for _, name := range []string{"primaryTechniques", "additionalTactics", "additionalTechniques"} {
		f.MITRE = append(f.MITRE, bounded(m.get(name).strings())...)
	}
}

func (e envelope) decodeSensor(f *Finding) {
	s := e.properties.get("Contraband")
	if !s.present() {
		return
	}
	f.Sensor = &Sensor{
		Route: s.get("Route").str(), SameAs: s.get("Same_As").str(), Unhashed: s.get("Unhashed").str(), Missed: s.get("Missed").str(), Unattributed: s.get("Unattributed").str(),
		Ancestors: bounded(s.get("Ancestors").strings()), User: s.get("User").integer(), Started: s.get("Started").time(),
		Repeats: s.get("Repeats").integer(), Executed: s.get("Executed").time(), Seen: s.get("Seen").time(),
		Hashed: s.get("Hashed").time(), Attributed: s.get("Attributed").time(), Raised: s.get("Raised").time(),
	}
}

func or(s ...string) string {
	for _, c := range s {
		if c != "" {
			return c
		}
	}
	return ""
}

func nonEmpty(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

func bounded(s []string) []string { return s[:min(len(s), maxArgs)] }

// part is what follows a collection in a resource's name: ".../clusters/<this>/...".
func part(name, collection string) string {
	for rest := name; ; {
		i := strings.Index(rest, collection+"/")
		if i < 0 {
			return ""
		}
		after := rest[i+len(collection)+1:]
		if i == 0 || rest[i-1] == '/' {
			value, _, _ := strings.Cut(after, "/")
			return value
		}
		rest = after
	}
}

func lastPart(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }
