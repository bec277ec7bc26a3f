package owner

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/contain/cluster"
	"github.com/contraband-dev/contraband/internal/finding"
)

// DefaultKeys are the labels and annotations that name an owner: plain ones, those that
// Kubernetes recommends, and Backstage's.
var DefaultKeys = []string{
	"contraband.dev/owner", "owner", "team", "app.kubernetes.io/managed-by-team", "app.kubernetes.io/owner",
	"backstage.io/owner", "backstage.io/kubernetes-owner",
}

// SlackKeys are those that name a Slack channel.
var SlackKeys = []string{"contraband.dev/slack-channel", "slack-channel", "slack"}

// Kubernetes reads the labels and annotations of the namespace, of the pod's root workload
// (the Deployment, not its ReplicaSet) and of the pod.
type Kubernetes struct {
	Clusters cluster.Finder // required
	Keys     []string       // tried before DefaultKeys
}

// Name returns what is asked.
func (Kubernetes) Name() string { return "the namespace, the workload and the pod" }

// Owners returns whom the namespace names, then whom the workload names, then the pod.
func (k Kubernetes) Owners(ctx context.Context, f finding.Finding) ([]cases.OwnerContact, error) {
	if f.Pod.Name == "" || f.Cluster == "" {
		return nil, nil
	}
	c, err := k.Clusters.Find(ctx, finding.Place{Project: f.Project, Location: f.Location, Cluster: f.Cluster})
	if err != nil {
		return nil, err
	}
	var out []cases.OwnerContact
	namespace, namespaceErr := c.Kube.Namespaces().Get(ctx, f.Pod.Namespace)
	if namespaceErr == nil {
		out = append(out, k.named("namespace "+f.Pod.Namespace, namespace.Annotations, namespace.Labels)...)
	}
	pod, err := c.Kube.Pods(f.Pod.Namespace).Get(ctx, f.Pod.Name)
	if err != nil || f.Pod.UID != "" && f.Pod.UID != string(pod.UID) {
		return out, wrap("namespace", namespaceErr)
	}
	root, rootErr := cluster.RootOwner(ctx, c.Kube, pod)
	if n := len(root.Objects); n > 0 {
		if object, ok := root.Objects[n-1].(metav1.Object); ok {
			out = append(out, k.named(root.Chain[n-1].Kind+" "+object.GetName(), object.GetAnnotations(), object.GetLabels())...)
		}
	}
	out = append(out, k.named("pod", pod.Annotations, pod.Labels)...)
	return out, errors.Join(wrap("namespace", namespaceErr), wrap("workload", rootErr))
}

func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

func (k Kubernetes) named(of string, annotations, labels map[string]string) []cases.OwnerContact {
	keys := slices.Concat(k.Keys, DefaultKeys)
	return append(namedBy(keys, of, false, annotations, labels), namedBy(SlackKeys, of, true, annotations, labels)...)
}

// slackChannel is what Slack allows as a channel's name.
var slackChannel = regexp.MustCompile(`^#?[a-z0-9][a-z0-9_-]{0,79}$`)

func namedBy(keys []string, of string, isChannel bool, annotations, labels map[string]string) []cases.OwnerContact {
	var out []cases.OwnerContact
	for _, key := range keys {
		for _, from := range []struct {
			kind   string
			values map[string]string
		}{{"annotation", annotations}, {"label", labels}} {
			value := strings.TrimSpace(from.values[key])
			if value == "" || isChannel && !slackChannel.MatchString(value) {
				continue
			}
			out = append(out, cases.OwnerContact{Name: value, Source: from.kind + " " + key + " of " + of, SlackChannel: isChannel})
		}
	}
	return out
}

// Labels reads the labels that the finding has of the pod, and the cluster's.
type Labels struct {
	Clusters cluster.Finder // nil: the finding's labels alone
	Keys     []string       // tried before DefaultKeys
}

// Name returns what is asked.
func (Labels) Name() string { return "the labels of the pod and the cluster" }

// Owners returns whom the labels name.
func (l Labels) Owners(ctx context.Context, f finding.Finding) ([]cases.OwnerContact, error) {
	k := Kubernetes{Keys: l.Keys}
	out := append(k.named("pod", nil, f.Pod.Labels), k.named("container", nil, f.Container.Labels)...)
	if l.Clusters == nil || f.Cluster == "" {
		return out, nil
	}
	c, err := l.Clusters.Find(ctx, finding.Place{Project: f.Project, Location: f.Location, Cluster: f.Cluster})
	if err != nil {
		return out, err
	}
	return append(out, k.named("cluster", nil, c.Labels)...), nil
}
