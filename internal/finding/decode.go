package finding

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/contraband-dev/contraband/internal/redact"
)

// Outcomes of decoding. Errors wrap one of them, say what was found instead and where, and
// never quote values, which may be secrets.
var (
	// ErrNoFinding means well-formed JSON without a finding in it.
	ErrNoFinding = errors.New("no finding")
	// ErrMalformed means that the message cannot be read.
	ErrMalformed = errors.New("malformed")
	// ErrNoProject means a finding that does not name its project.
	ErrNoProject = errors.New("no project")
)

// Bounds of what is decoded. Pub/Sub takes at most 10 MB a message.
const (
	MaxBytes    = 10 << 20
	maxString   = 4096 // bytes of one string
	maxArgs     = 64
	maxLabels   = 64
	maxMentions = 16 // others, connections, files, indicators: of each
	maxFindings = 1000
	maxValues   = 1 << 20
	maxDepth    = 64
)

// Decode returns the findings in a message, in whatever shape they arrive: a v1 or v2
// notification, the console's JSON tab, a bare finding, a list of results, a row of
// BigQuery; each also in a Pub/Sub message (pulled, pushed or as a background event), in a
// log entry, or one per line.
func Decode(data []byte) ([]Finding, error) {
	p := parsers.Get()
	defer parsers.Put(p)
	envelopes, err := unwrap(p, data)
	if err != nil {
		return nil, err
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

// decode returns the finding of an envelope.
func (e envelope) decode() (Finding, error) {
	f := Finding{
		Name: e.finding.get("name").str(), CanonicalName: e.finding.get("canonicalName").str(),
		Parent: e.finding.get("parent").str(), ResourceName: e.finding.get("resourceName").str(),
		Category: e.finding.get("category").str(), Class: e.finding.get("findingClass").enum(findingClasses),
		State: e.finding.get("state").enum(states), Mute: e.finding.get("mute").enum(mutes),
		Severity: e.finding.get("severity").enum(severities), Deleted: e.deleted,
		EventTime: e.finding.get("eventTime").time(), CreateTime: e.finding.get("createTime").time(),
		Description: e.finding.get("description").str(), NextSteps: e.finding.get("nextSteps").str(),
		ExternalURI: e.finding.get("externalUri").str(), Detector: e.finding.get("parentDisplayName").str(),
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
	e.decodeNetwork(&f)
	e.decodeFiles(&f)
	e.decodePeople(&f)
	e.decodeTechniques(&f)
	e.decodeSensor(&f)
	if f.Project == "" && f.ProjectNumber == "" && f.Kind() == ContainerThreat {
		return f, fmt.Errorf("finding %q: %w", f.Name, ErrNoProject)
	}
	return f, nil
}

func (e envelope) decodePlace(f *Finding) {
	if p, ok := parseCluster(f.ResourceName); ok {
		f.Project, f.Location, f.Cluster = p.Project, p.Location, p.Cluster
	}
	f.Service = parseService(f.ResourceName)
	if f.Service.Kind != "" {
		f.Location = part(f.ResourceName, "locations")
		f.Service.Revision = or(f.Service.Revision, e.properties.get("Revision_Name").str())
	}
	meta := e.resource.get("gcpMetadata")
	f.Project = or(f.Project, meta.get("projectDisplayName").str(), e.resource.get("projectDisplayName").str(),
		e.properties.get("ProjectId").str(), part(f.ResourceName, "projects"))
	for _, name := range []string{
		f.CanonicalName, meta.get("project").str(), e.resource.get("project").str(),
		e.resource.get("projectName").str(), e.resource.get("parent").str(),
	} {
		if p := part(name, "projects"); strings.Trim(p, "0123456789") == "" {
			f.ProjectNumber = or(f.ProjectNumber, p)
		}
	}
	f.Project = or(f.Project, f.ProjectNumber)
	f.Location = or(f.Location, e.resource.get("location").str())
	node := e.finding.get("kubernetes").get("nodes").index(0).get("name").str()
	f.Node = or(lastPart(node), e.properties.get("VM_Instance_Name").str())
}

var imageDigest = regexp.MustCompile(`sha256:[0-9a-f]{64}`)

// decodeWorkload decodes the pod and the container that the finding is about: those that
// the source properties name, else the first; the others are mentioned.
func (e envelope) decodeWorkload(f *Finding) {
	namespace, name := e.properties.get("Pod_Namespace").str(), e.properties.get("Pod_Name").str()
	pods := e.finding.get("kubernetes").get("pods").list()
	lead := leading(pods, func(p value) bool { return p.get("name").str() == name && podNamespace(p) == namespace })
	pod := at(pods, lead)
	f.Pod = Pod{
		Namespace: or(podNamespace(pod), namespace), Name: or(pod.get("name").str(), name),
		UID: e.properties.get("Pod_Uid").str(), Labels: pod.get("labels").labels(),
	}
	for i, p := range pods {
		if i != lead {
			f.mention("pod", strings.Trim(podNamespace(p)+"/"+p.get("name").str(), "/"), "")
		}
	}
	e.decodeContainer(f, pod)
}

func podNamespace(pod value) string { return or(pod.get("ns").str(), pod.get("namespace").str()) }

func (e envelope) decodeContainer(f *Finding, pod value) {
	name := e.properties.get("Container_Name").str()
	containers := e.finding.get("containers").list()
	if len(containers) == 0 {
		containers = pod.get("containers").list()
	}
	lead := leading(containers, func(c value) bool { return c.get("name").str() == name })
	c := at(containers, lead)
	f.Container = Container{
		ID:   e.properties.get("Container_Id").str(),
		Name: or(c.get("name").str(), name), Image: or(c.get("uri").str(), e.properties.get("Container_Image_Uri").str()),
		Labels: c.get("labels").labels(),
	}
	imageID := or(c.get("imageId").str(), e.properties.get("Container_Image_Id").str())
	f.Container.Digest = imageDigest.FindString(imageID)
	for i, other := range containers {
		if i != lead {
			f.mention("container", or(other.get("name").str(), other.get("uri").str()), "")
		}
	}
}

// leading returns the index of the first value that matches, else 0.
func leading(all []value, matches func(value) bool) int {
	for i, v := range all {
		if matches(v) {
			return i
		}
	}
	return 0
}

func at(all []value, i int) value {
	if i < len(all) {
		return all[i]
	}
	return value{}
}

// mention records something that the finding names beside its subject.
func (f *Finding) mention(kind, name, sha256 string) {
	if name == "" || len(f.Others) >= maxMentions {
		return
	}
	f.Others = append(f.Others, Mention{Kind: kind, Name: name, SHA256: sha256})
}

func (e envelope) decodeNetwork(f *Finding) {
	add := func(c Connection) {
		if c.DestinationIP == "" || len(f.Connections) >= maxMentions {
			return
		}
		for _, known := range f.Connections {
			if known.Remote() == c.Remote() {
				return
			}
		}
		f.Connections = append(f.Connections, c)
	}
	for _, c := range e.finding.get("connections").list() {
		add(Connection{
			Protocol:      c.get("protocol").enum(protocols),
			DestinationIP: c.get("destinationIp").str(), DestinationPort: c.get("destinationPort").integer(),
			SourceIP: c.get("sourceIp").str(), SourcePort: c.get("sourcePort").integer(),
		})
	}
	const redirected = "Reverse_Shell_Stdin_Redirection_"
	add(Connection{
		DestinationIP:   e.properties.get(redirected + "Dst_Ip").str(),
		DestinationPort: e.properties.get(redirected + "Dst_Port").integer(),
		SourceIP:        e.properties.get(redirected + "Src_Ip").str(),
		SourcePort:      e.properties.get(redirected + "Src_Port").integer(),
	})
}

func (e envelope) decodeFiles(f *Finding) {
	for _, file := range e.finding.get("files").list() {
		if path := or(file.get("path").str(), file.get("diskPath").get("relativePath").str()); path != "" && len(f.Files) < maxMentions {
			f.Files = append(f.Files, path)
		}
	}
	indicator := e.finding.get("indicator")
	for _, name := range []string{"ipAddresses", "domains", "uris"} {
		for _, s := range indicator.get(name).strings() {
			if hashInLink(s) == "" && len(f.Indicators) < maxMentions { // a link to VirusTotal is no indicator
				f.Indicators = append(f.Indicators, redact.Text(s))
			}
		}
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
}

func (e envelope) decodeTechniques(f *Finding) {
	m := e.finding.get("mitreAttack")
	f.MITRE = append(f.MITRE, nonEmpty(m.get("primaryTactic").technique(mitreTactics))...)
	for _, field := range []struct {
		name  string
		table map[int64]Technique
	}{
		{"primaryTechniques", mitreTechniques}, {"additionalTactics", mitreTactics}, {"additionalTechniques", mitreTechniques},
	} {
		for _, v := range m.get(field.name).list() {
			if len(f.MITRE) < maxArgs {
				f.MITRE = append(f.MITRE, nonEmpty(v.technique(field.table))...)
			}
		}
	}
}

func (e envelope) decodeSensor(f *Finding) {
	s := e.properties.get("Contraband")
	if !s.present() {
		return
	}
	f.Sensor = &Sensor{
		Route: s.get("Route").str(), SameAs: s.get("Same_As").str(), Unhashed: s.get("Unhashed").str(),
		Missed: s.get("Missed").str(), Unattributed: s.get("Unattributed").str(),
		Ancestors: s.get("Ancestors").strings(), User: s.get("User").integer(), Started: s.get("Started").time(),
		Repeats: s.get("Repeats").integer(), Executed: s.get("Executed").time(), Seen: s.get("Seen").time(),
		Hashed: s.get("Hashed").time(), Attributed: s.get("Attributed").time(), Raised: s.get("Raised").time(),
	}
}

// or returns the first string that is not empty.
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
