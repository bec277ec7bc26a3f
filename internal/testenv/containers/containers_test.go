package containers

import (
	"os"
	"strings"
	"testing"
)

// TestStartRefusesALongDirectory: containerd exits when a socket's path is too long, and
// ctr would then wait for a socket that never comes.
func TestStartRefusesALongDirectory(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a real container needs root")
	}
	_, err := Start(t.Context(), t.TempDir()+"/"+strings.Repeat("d", maxSocketPath))
	if err == nil || !strings.Contains(err.Error(), "too long for containerd's sockets") {
		t.Errorf("error %v, want one that says the directory is too long", err)
	}
}
