package finding

import (
	"regexp"
	"strconv"
	"strings"
)

// Workload is what people call one thing that runs: a Deployment, a CronJob, a
// Compose service. It is derived from the finding alone, so that a key never waits
// for a cluster's answer.
type Workload struct {
	Kind      string `json:"kind"` // one of the Kind* constants
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
}

// Kinds of workloads.
const (
	KindDeployment  = "Deployment"
	KindStatefulSet = "StatefulSet"
	KindDaemonSet   = "DaemonSet"
	KindJob         = "Job"
	KindCronJob     = "CronJob"
	KindGenerated   = "Generated" // a controller made the pod's name; which kind is not known
	KindApp         = "App"       // pods of one owner label
	KindImage       = "Image"     // pods or containers of one image repository
	KindPod         = "Pod"
	KindCompose     = "Compose"
	KindContainer   = "Container"
	KindNode        = "Node"     // the container could not be named
	KindDetector    = "Detector" // a detector's health
	KindFinding     = "Finding"  // nothing but the finding identifies it
	// The kinds of services are those of ServiceKind.
)

// String returns the workload as people write it: "payments/web (Deployment)".
func (w Workload) String() string {
	name := w.Name
	if w.Namespace != "" {
		name = w.Namespace + "/" + name
	}
	return name + " (" + w.Kind + ")"
}

// Workload returns the workload that the finding is about. A label counts only where
// the pod's name agrees with it: whoever makes a pod can give it any label.
func (f Finding) Workload() Workload {
	switch {
	case f.Kind() == DetectorHealth:
		return Workload{Kind: KindDetector, Name: f.Category + " " + f.Node}
	case f.Service.Kind != "":
		return Workload{Kind: string(f.Service.Kind), Name: f.Service.Name}
	case f.Pod.Name != "":
		w := podWorkload(f)
		w.Namespace = f.Pod.Namespace
		return w
	}
	return containerWorkload(f)
}

// Labels that controllers and people put on pods.
const (
	labelTemplateHash = "pod-template-hash"
	labelRevision     = "controller-revision-hash"
	labelStatefulPod  = "statefulset.kubernetes.io/pod-name"
	labelJob          = "job-name"
	labelBatchJob     = "batch.kubernetes.io/job-name"
)

// ownerLabels name the application of a pod, the most specific first.
var ownerLabels = []string{"app.kubernetes.io/instance", "app.kubernetes.io/name", "app", "k8s-app"}

func podWorkload(f Finding) Workload {
	name, labels := f.Pod.Name, f.Pod.Labels
	if base, ok := strings.CutSuffix(name, "-"+f.Node); ok && f.Node != "" { // a static pod
		return Workload{Kind: KindPod, Name: base}
	}
	if hash := labels[labelTemplateHash]; hash != "" {
		if base, rest, ok := cutLast(name, "-"+hash+"-"); ok && generated.MatchString(rest) {
			return Workload{Kind: KindDeployment, Name: base}
		}
	}
	if labels[labelStatefulPod] == name {
		if base, ok := cutOrdinal(name); ok {
			return Workload{Kind: KindStatefulSet, Name: base}
		}
	}
	for _, label := range []string{labelBatchJob, labelJob} {
		if job := labels[label]; job != "" && strings.HasPrefix(name, job+"-") {
			return jobWorkload(job)
		}
	}
	if labels[labelRevision] != "" {
		if base, ok := cutGenerated(name); ok {
			return Workload{Kind: KindDaemonSet, Name: base}
		}
	}
	if len(labels) == 0 {
		return namedWorkload(f)
	}
	return barePod(f)
}

// jobWorkload returns a CronJob for a Job whose name ends in the minute for which a
// CronJob made it, counted since 1970.
func jobWorkload(job string) Workload {
	if base, minute, ok := cutLast(job, "-"); ok && len(minute) == 8 {
		if n, err := strconv.Atoi(minute); err == nil && n >= firstMinute && n <= lastMinute {
			return Workload{Kind: KindCronJob, Name: base}
		}
	}
	return Workload{Kind: KindJob, Name: job}
}

// The minutes of the years 2005 to 2100, since 1970.
const (
	firstMinute = 18_408_960
	lastMinute  = 68_900_000
)

// namedWorkload goes by the pod's name, where the finding carries no labels.
func namedWorkload(f Finding) Workload {
	name := f.Pod.Name
	if base, ok := cutGenerated(name); ok {
		if job := jobWorkload(base); job.Kind == KindCronJob {
			return job
		}
		if deployment, hash, ok := cutLast(base, "-"); ok && templateHash.MatchString(hash) {
			return Workload{Kind: KindDeployment, Name: deployment}
		}
		return Workload{Kind: KindGenerated, Name: base}
	}
	if base, ok := cutOrdinal(name); ok {
		return Workload{Kind: KindStatefulSet, Name: base}
	}
	return barePod(f)
}

// barePod is a pod without a controller: by the label of its application, else by
// what it runs.
func barePod(f Finding) Workload {
	for _, label := range ownerLabels {
		if app := f.Pod.Labels[label]; app != "" {
			return Workload{Kind: KindApp, Name: app}
		}
	}
	if repository := Repository(f.Container.Image); repository != "" {
		return Workload{Kind: KindImage, Name: repository}
	}
	return Workload{Kind: KindPod, Name: f.Pod.Name}
}

// Labels that Compose puts on containers.
const (
	labelProject = "com.docker.compose.project"
	labelService = "com.docker.compose.service"
)

func containerWorkload(f Finding) Workload {
	project, service := f.Container.Labels[labelProject], f.Container.Labels[labelService]
	if service != "" {
		return Workload{Kind: KindCompose, Namespace: project, Name: service}
	}
	if repository := Repository(f.Container.Image); repository != "" {
		return Workload{Kind: KindImage, Name: repository}
	}
	if f.Container.ID != "" {
		return Workload{Kind: KindContainer, Name: f.Container.ID}
	}
	if f.Node != "" {
		return Workload{Kind: KindNode, Name: f.Node}
	}
	if f.Cluster != "" {
		return Workload{Kind: KindNode, Name: f.Process.Path}
	}
	return Workload{Kind: KindFinding, Name: f.CanonicalName}
}

// Repository returns the repository of an image reference, without tag and digest; ""
// for an image that is known by its id alone.
func Repository(image string) string {
	repository, _, _ := strings.Cut(image, "@")
	if slash := strings.LastIndexByte(repository, '/'); strings.LastIndexByte(repository, ':') > slash {
		repository = repository[:strings.LastIndexByte(repository, ':')]
	}
	if repository == "sha256" || isSHA256(repository) {
		return ""
	}
	return repository
}

// Kubernetes' generated names use letters and digits that form no words.
var (
	generated    = regexp.MustCompile(`^[bcdfghjklmnpqrstvwxz2456789]{5}$`)
	templateHash = regexp.MustCompile(`^[bcdfghjklmnpqrstvwxz2456789]{6,10}$`)
)

// cutGenerated removes the part of a pod's name that its controller generated.
func cutGenerated(name string) (base string, ok bool) {
	base, rest, ok := cutLast(name, "-")
	if !ok || !generated.MatchString(rest) {
		return name, false
	}
	return base, true
}

// cutOrdinal removes the ordinal of a StatefulSet's pod.
func cutOrdinal(name string) (base string, ok bool) {
	base, ordinal, ok := cutLast(name, "-")
	if !ok || len(ordinal) > 5 || ordinal != "0" && strings.HasPrefix(ordinal, "0") {
		return name, false
	}
	if _, err := strconv.ParseUint(ordinal, 10, 32); err != nil {
		return name, false
	}
	return base, true
}

// cutLast cuts around the last sep; both parts must be non-empty.
func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i <= 0 || i+len(sep) >= len(s) {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// keyParts begin every key: the resource, and that the finding's source is not trusted. Its
// findings have cases of their own, so that they neither change nor end another's.
func (f Finding) keyParts() []string {
	if f.ReportedBy.Trusted() {
		return f.resource()
	}
	return append(f.resource(), "reported by", f.source())
}

// resource identifies where the finding's workload runs, by what its name means and not by
// its spelling: two clusters, projects or services never share a key.
func (f Finding) resource() []string {
	switch {
	case f.Cluster != "":
		return []string{"cluster", f.Project, f.Location, f.Cluster}
	case f.Service.Kind != "":
		return []string{"service", f.Project, f.Location, string(f.Service.Kind), f.Service.Name}
	}
	return []string{"resource", f.Project, f.ResourceName}
}

// IncidentKey identifies the workload that people are notified about, 12 hexadecimal digits.
func (f Finding) IncidentKey() string {
	w := f.Workload()
	return digest(append(f.keyParts(), "incident", w.Kind, w.Namespace, w.Name)...)[:12]
}

// CaseKey identifies the container that the finding is about, 16 hexadecimal digits: by
// its name within its pod, so that a restarted container stays the same case.
func (f Finding) CaseKey() string {
	w := f.Workload()
	parts := append(f.keyParts(), "container", w.Kind, w.Namespace, w.Name, f.Pod.Name)
	if f.Pod.Name != "" {
		return digest(append(parts, f.Container.Name)...)[:16]
	}
	return digest(append(parts, f.Container.ID)...)[:16]
}

// EarlierCaseKey identifies the case that earlier versions opened for the finding: the
// same bytes in the same pod.
func (f Finding) EarlierCaseKey() string {
	what, where := f.Process.SHA256, f.Pod.Name
	if what == "" {
		what = f.Process.Path
	}
	if where == "" {
		where = f.Container.ID
	}
	if what == "" && where == "" {
		what = f.CanonicalName
	}
	return digest("case", f.Project, f.Location, f.Cluster, f.Pod.Namespace, where, what)[:16]
}
