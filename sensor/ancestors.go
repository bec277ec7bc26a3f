package sensor

import (
	"fmt"
	"os"
	"strings"

	"github.com/prometheus/procfs"

	"github.com/contraband-dev/contraband/internal/sensorapi"
)

// ancestors returns the processes that one descends from, as far as they still exist, from its
// parent to the container's first: what lies beyond is the runtime.
func ancestors(parent uint32) (out []sensorapi.Ancestor) {
	fs, err := procfs.NewFS("/proc")
	if err != nil {
		return nil
	}
	inside := pidNamespace(parent)
	for pid := int(parent); pid > 1 && len(out) < sensorapi.MaxAncestors && pidNamespace(uint32(pid)) == inside; {
		p, err := fs.Proc(pid)
		if err != nil {
			break
		}
		stat, err := p.Stat()
		if err != nil {
			break
		}
		exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)) // a kernel thread has none
		out = append(out, sensorapi.Ancestor{PID: uint32(pid), Comm: cut(stat.Comm), Path: cut(strings.TrimSuffix(exe, " (deleted)"))})
		pid = stat.PPID
	}
	return out
}

// pidNamespace returns the link of a PID namespace; "" where the process is gone.
func pidNamespace(pid uint32) string {
	ns, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
	return ns
}
