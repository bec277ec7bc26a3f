package testcluster

import (
	"path/filepath"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/restmapper"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"
)

// Apply builds a kustomization of the project as kubectl would, and applies it.
func (c *Cluster) Apply(dir string) { c.t.Helper(); c.apply(dir, nil) }

// DryRun has the API server look at a kustomization, and change nothing.
func (c *Cluster) DryRun(dir string) { c.t.Helper(); c.apply(dir, []string{metav1.DryRunAll}) }

func (c *Cluster) apply(dir string, dryRun []string) {
	c.t.Helper()
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), filepath.Join(moduleRoot(), dir))
	if err != nil {
		c.t.Fatalf("kustomize %s: %v", dir, err)
	}
	text, err := built.AsYaml()
	if err != nil {
		c.t.Fatal(err)
	}
	c.applyYAML(string(text), dryRun)
}

// ApplyYAML applies objects.
func (c *Cluster) ApplyYAML(text string) { c.t.Helper(); c.applyYAML(text, nil) }

func (c *Cluster) applyYAML(text string, dryRun []string) {
	c.t.Helper()
	for _, doc := range strings.Split(text, "\n---\n") {
		var object unstructured.Unstructured
		if err := yaml.Unmarshal([]byte(doc), &object.Object); err != nil {
			c.t.Fatalf("read manifest: %v\n%s", err, doc)
		}
		if len(object.Object) == 0 {
			continue
		}
		c.applyOne(&object, dryRun)
	}
}

func (c *Cluster) applyOne(object *unstructured.Unstructured, dryRun []string) {
	c.t.Helper()
	body, err := object.MarshalJSON()
	if err != nil {
		c.t.Fatal(err)
	}
	force := true
	for until := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		// A kind that was defined a moment ago is not served at once.
		groups, err := restmapper.GetAPIGroupResources(c.Admin.Discovery())
		if err == nil {
			var m *meta.RESTMapping
			gvk := object.GroupVersionKind()
			if m, err = restmapper.NewDiscoveryRESTMapper(groups).RESTMapping(gvk.GroupKind(), gvk.Version); err == nil {
				resource := c.Dynamic.Resource(m.Resource)
				client := resource.Namespace(object.GetNamespace())
				options := metav1.PatchOptions{FieldManager: "test", Force: &force, DryRun: dryRun}
				if m.Scope.Name() == meta.RESTScopeNameRoot {
					_, err = resource.Patch(c.ctx(), object.GetName(), types.ApplyPatchType, body, options)
				} else {
					_, err = client.Patch(c.ctx(), object.GetName(), types.ApplyPatchType, body, options)
				}
			}
		}
		if err == nil {
			return
		}
		if apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) || time.Now().After(until) {
			c.t.Fatalf("apply %s %s: %v", object.GetKind(), object.GetName(), err)
		}
	}
}
