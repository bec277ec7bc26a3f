package testcluster_test

import (
	"testing"

	"github.com/contraband-dev/contraband/internal/testcluster"
)

func TestX(t *testing.T) {
	c := testcluster.Start(t)
	c.DryRun("manifests/sensor")
}
