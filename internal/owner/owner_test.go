package owner_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/contain/cluster"
	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/internal/owner"
	"github.com/contraband-dev/contraband/internal/testenv/samplecases"
)

type source struct {
	name   string
	owners []cases.OwnerContact
	err    error
	hang   bool
}

func (s source) Name() string { return s.name }

func (s source) Owners(context.Context, finding.Finding) ([]cases.OwnerContact, error) {
	if s.hang {
		select {} // also ignores the context
	}
	return s.owners, s.err
}

func named(names ...string) []cases.OwnerContact {
	var out []cases.OwnerContact
	for _, n := range names {
		out = append(out, cases.OwnerContact{Name: n, Source: "test"})
	}
	return out
}

func names(owners []cases.OwnerContact) string {
	var out []string
	for _, o := range owners {
		out = append(out, o.Name)
	}
	return strings.Join(out, " ")
}

func TestSourcesFailAloneAndTheMostTrustedIsFirst(t *testing.T) {
	f := owner.Finder{Deadline: 50 * time.Millisecond, Sources: []owner.Source{
		source{name: "slow", hang: true}, source{name: "first", owners: named("ann", "bob")},
		source{name: "broken", err: errors.New("permission denied\x1b[31m")}, source{name: "last", owners: named("bob", "eve")},
	}}
	began := time.Now()
	owners, missing, late := f.Owners(t.Context(), finding.Finding{})
	if !late || names(owners) != "ann bob eve" || time.Since(began) > time.Second {
		t.Errorf("owners %q after %s", names(owners), time.Since(began))
	}
	if len(missing) != 2 || !strings.Contains(missing[0], "slow") || !strings.Contains(missing[1], "broken: permission denied[31m") {
		t.Errorf("missing: %q", missing)
	}
}

func TestOneSourceAddsAFewShortNamesAtMost(t *testing.T) {
	many := named(slices.Repeat([]string{strings.Repeat("x", 5000)}, 100)...)
	for i := range many {
		many[i].Name = string(rune('a'+i%26)) + many[i].Name
	}
	owners, _, _ := owner.Finder{Sources: []owner.Source{source{owners: many}}}.Owners(t.Context(), finding.Finding{})
	if len(owners) > 5 || len([]rune(owners[0].Name)) > 200 {
		t.Errorf("%d owners, the first of %d characters", len(owners), len([]rune(owners[0].Name)))
	}
}

func TestFindingNamesItsContacts(t *testing.T) {
	f := finding.Finding{Owners: []string{"dev@example.com"}, Contacts: []finding.Contact{
		{Kind: "billing", Email: "bill@example.com"}, {Kind: "technical", Email: "tech@example.com"}, {Kind: "security", Email: "sec@example.com"}}}
	owners, err := owner.FromFinding{}.Owners(t.Context(), f)
	if err != nil || names(owners) != "dev@example.com sec@example.com tech@example.com bill@example.com" {
		t.Errorf("%q, %v", names(owners), err)
	}
}

// oneCluster serves one namespace and one pod as the Kubernetes API does.
type oneCluster struct{ kube *cluster.Kube }

func (c oneCluster) Find(context.Context, finding.Place) (*cluster.Cluster, error) {
	return &cluster.Cluster{Kube: c.kube, Labels: map[string]string{"team": "platform"}}, nil
}

func serveCluster(t *testing.T, objects map[string]string) oneCluster {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		body := objects[r.URL.Path]
		if body == "" {
			w.WriteHeader(http.StatusForbidden)
			body = `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","code":403}`
		}
		_, _ = w.Write([]byte(body))
	}))
	t.Cleanup(srv.Close)
	kube, err := cluster.NewKube(&rest.Config{Host: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	return oneCluster{kube}
}

const namespacePath, podPath = "/api/v1/namespaces/payments", "/api/v1/namespaces/payments/pods/web-7d9f6c4b5-x2x9k"

func TestNamespaceAndPodNameOwnersAndSlackChannels(t *testing.T) {
	c := serveCluster(t, map[string]string{
		namespacePath: `{"kind":"Namespace","apiVersion":"v1","metadata":{"name":"payments","annotations":{"contraband.dev/owner":"payments@example.com"}}}`,
		podPath: `{"kind":"Pod","apiVersion":"v1","metadata":{"name":"web-7d9f6c4b5-x2x9k","uid":"0b7c2a52-9f0e-4a57-8d59-0c4a7ad1e001",
			"labels":{"team":"web"},"annotations":{"slack-channel":"#web-alerts","slack":"<!channel>"}}}`,
	})
	owners, err := owner.Kubernetes{Clusters: c}.Owners(t.Context(), samplecases.Finding())
	if err != nil || names(owners) != "payments@example.com web #web-alerts" {
		t.Fatalf("%q, %v", names(owners), err)
	}
	if target, ok := owner.Target(owners[2]); !ok || target.String() != "slack:#web-alerts" {
		t.Errorf("the channel is %v, %v", target, ok)
	}
	if owner.Email(owners) != "payments@example.com" {
		t.Errorf("the mention is %q", owner.Email(owners))
	}
}

func TestDeploymentNamesTheOwnerByAKeyOfTheOperators(t *testing.T) {
	const controlled = `"ownerReferences":[{"apiVersion":"apps/v1","kind":"%s","name":"%s","uid":"%s","controller":true}]`
	replicaSet, deployment := "/apis/apps/v1/namespaces/payments/replicasets/web-7d9f6c4b5", "/apis/apps/v1/namespaces/payments/deployments/web"
	objects := map[string]string{
		namespacePath: `{"kind":"Namespace","apiVersion":"v1","metadata":{"name":"payments","labels":{"team":"payments"}}}`,
		podPath: `{"kind":"Pod","apiVersion":"v1","metadata":{"name":"web-7d9f6c4b5-x2x9k","namespace":"payments","uid":"0b7c2a52-9f0e-4a57-8d59-0c4a7ad1e001","labels":{"team":"pod"},` +
			fmt.Sprintf(controlled, "ReplicaSet", "web-7d9f6c4b5", "u1") + `}}`,
		replicaSet: `{"kind":"ReplicaSet","apiVersion":"apps/v1","metadata":{"name":"web-7d9f6c4b5","uid":"u1","labels":{"team":"replicaset"},` +
			fmt.Sprintf(controlled, "Deployment", "web", "u2") + `}}`,
		deployment: `{"kind":"Deployment","apiVersion":"apps/v1","metadata":{"name":"web","uid":"u2","annotations":{"example.com/on-call":"oncall@example.com","slack-channel":"web"}}}`,
	}
	k := owner.Kubernetes{Clusters: serveCluster(t, objects), Keys: []string{"example.com/on-call"}}
	owners, err := k.Owners(t.Context(), samplecases.Finding())
	if err != nil || names(owners) != "payments oncall@example.com web pod" {
		t.Fatalf("%q, %v", names(owners), err)
	}
	if owners[1].Source != "annotation example.com/on-call of Deployment web" {
		t.Errorf("the source is %q", owners[1].Source)
	}
	delete(objects, deployment) // forbidden: the others are named all the same
	if owners, err = k.Owners(t.Context(), samplecases.Finding()); err == nil || !strings.Contains(err.Error(), "workload: ") || names(owners) != "payments replicaset pod" {
		t.Errorf("%q, %v", names(owners), err)
	}
}

func TestForbiddenNamespaceIsReportedAndThePodStillRead(t *testing.T) {
	c := serveCluster(t, map[string]string{podPath: `{"kind":"Pod","apiVersion":"v1","metadata":{"name":"web-7d9f6c4b5-x2x9k","uid":"0b7c2a52-9f0e-4a57-8d59-0c4a7ad1e001","labels":{"owner":"web"}}}`})
	owners, missing, _ := owner.Finder{Sources: []owner.Source{owner.Kubernetes{Clusters: c}}}.Owners(t.Context(), samplecases.Finding())
	if names(owners) != "web" || len(missing) != 1 || !strings.Contains(missing[0], "namespace") {
		t.Errorf("owners %q, missing %q", names(owners), missing)
	}
}

func TestSuccessorOfThePodNamesNobody(t *testing.T) {
	c := serveCluster(t, map[string]string{
		namespacePath: `{"kind":"Namespace","apiVersion":"v1","metadata":{"name":"payments"}}`,
		podPath:       `{"kind":"Pod","apiVersion":"v1","metadata":{"name":"web-7d9f6c4b5-x2x9k","uid":"another","labels":{"owner":"eve"}}}`,
	})
	if owners, err := (owner.Kubernetes{Clusters: c}).Owners(t.Context(), samplecases.Finding()); err != nil || len(owners) != 0 {
		t.Errorf("%q, %v", names(owners), err)
	}
}

func TestClusterLabelsNameTheTeam(t *testing.T) {
	owners, err := owner.Labels{Clusters: serveCluster(t, nil)}.Owners(t.Context(), samplecases.Finding())
	if err != nil || names(owners) != "platform" {
		t.Errorf("%q, %v", names(owners), err)
	}
}
