package testcluster_test

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/contraband-dev/contraband/internal/testenv/testcluster"
)

// TestManifests: a real API server takes manifests/cluster (Start applies it) and,
// as a dry run, the sensor's DaemonSet.
func TestManifests(t *testing.T) {
	c := testcluster.Start(t)
	c.DryRun("manifests/sensor")
	for _, role := range []string{"contraband-contain", "contraband-respond"} {
		if _, err := c.Admin.RbacV1().ClusterRoles().Get(t.Context(), role, metav1.GetOptions{}); err != nil {
			t.Error(err)
		}
	}
}
