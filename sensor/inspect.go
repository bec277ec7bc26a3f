package sensor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/procfs"
	"golang.org/x/sys/unix"

	"github.com/contraband-dev/contraband/internal/redact"
	"github.com/contraband-dev/contraband/internal/sensorapi"
)

// Bounds of an inspection: it travels in the status of an order.
const (
	maxProcesses = 256
	maxSockets   = 512
	maxExe       = 1024

	maxProcessBytes = 160 << 10 // of all processes, encoded; sockets are short
)

// inspect returns what runs in a container, and its open sockets. It reads /proc,
// which works on what is frozen.
func (s *Sensor) inspect(h home) (*sensorapi.Inspection, error) {
	dir, err := s.freezer.dirOf(h)
	if err != nil {
		return nil, err
	}
	pids := processesOf(dir)
	if len(pids) == 0 {
		return nil, errGone
	}
	out := &sensorapi.Inspection{Processes: []sensorapi.ProcessInfo{}, Sockets: []sensorapi.Socket{}}
	fs, err := procfs.NewFS("/proc")
	if err != nil {
		return nil, err
	}
	holders := map[uint64]int{} // pid by socket inode
	size := 0
	for _, text := range pids {
		pid, err := strconv.Atoi(text)
		if err != nil {
			continue // 0: of another PID namespace
		}
		p, ok := process(fs, pid)
		if !ok {
			continue
		}
		encoded, err := json.Marshal(p)
		if err != nil {
			return nil, err
		}
		if size += len(encoded); len(out.Processes) == maxProcesses || size > maxProcessBytes {
			out.Cut = true
			break
		}
		out.Processes = append(out.Processes, p)
		socketsOf(pid, holders)
	}
	for _, text := range pids { // any of them: they share the network
		if readSockets(filepath.Join("/proc", text), holders, out) == nil {
			break
		}
	}
	return out, nil
}

func process(fs procfs.FS, pid int) (sensorapi.ProcessInfo, bool) {
	p, err := fs.Proc(pid)
	if err != nil {
		return sensorapi.ProcessInfo{}, false
	}
	stat, err := p.Stat()
	if err != nil {
		return sensorapi.ProcessInfo{}, false
	}
	info := sensorapi.ProcessInfo{PID: pid, ParentPID: stat.PPID}
	if started, err := stat.StartTime(); err == nil {
		info.Started = time.Unix(int64(started), 0).UTC()
	}
	if status, err := p.NewStatus(); err == nil {
		info.UID = int(status.UIDs[0])
	}
	// What cannot be read is left empty: the process may be ending.
	exe, _ := p.Executable()
	info.Exe = exe[:min(len(exe), maxExe)]
	args, _ := p.CmdLine()
	for i, a := range redact.Args(args) {
		if i == sensorapi.MaxArgs {
			break
		}
		info.Args = append(info.Args, a[:min(len(a), maxExe)])
	}
	return info, true
}

// socketsOf notes which sockets a process holds.
func socketsOf(pid int, holders map[uint64]int) {
	dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil {
			continue
		}
		var inode uint64
		if _, err := fmt.Sscanf(target, "socket:[%d]", &inode); err == nil {
			holders[inode] = pid
		}
	}
}

// tcpStates as the kernel numbers them.
var tcpStates = []string{"", "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2", "TIME_WAIT", "CLOSE", "CLOSE_WAIT", "LAST_ACK", "LISTEN", "CLOSING"}

func readSockets(dir string, holders map[uint64]int, out *sensorapi.Inspection) error {
	fs, err := procfs.NewFS(dir)
	if err != nil {
		return err
	}
	add := func(protocol string, local, remote net.IP, localPort, remotePort, state, inode uint64) {
		if len(out.Sockets) == maxSockets {
			out.Cut = true
			return
		}
		k := sensorapi.Socket{Protocol: protocol, Local: address(local, localPort), PID: holders[inode]}
		if remotePort != 0 {
			k.Remote = address(remote, remotePort)
		}
		if strings.HasPrefix(protocol, "tcp") && state < uint64(len(tcpStates)) {
			k.State = tcpStates[state]
		}
		out.Sockets = append(out.Sockets, k)
	}
	tcp, err := fs.NetTCP()
	if err != nil {
		return err
	}
	for _, l := range tcp {
		add("tcp", l.LocalAddr, l.RemAddr, l.LocalPort, l.RemPort, l.St, l.Inode)
	}
	tcp6, _ := fs.NetTCP6() // absent where IPv6 is
	for _, l := range tcp6 {
		add("tcp6", l.LocalAddr, l.RemAddr, l.LocalPort, l.RemPort, l.St, l.Inode)
	}
	udp, _ := fs.NetUDP()
	for _, l := range udp {
		add("udp", l.LocalAddr, l.RemAddr, l.LocalPort, l.RemPort, l.St, l.Inode)
	}
	udp6, _ := fs.NetUDP6()
	for _, l := range udp6 {
		add("udp6", l.LocalAddr, l.RemAddr, l.LocalPort, l.RemPort, l.St, l.Inode)
	}
	return nil
}

func address(ip net.IP, port uint64) string {
	return net.JoinHostPort(ip.String(), strconv.FormatUint(port, 10))
}

// probeTime bounds one connection that is tried: what is dropped never answers.
const probeTime = time.Second

// probe tries connections out of a container's network, and from the sensor's
// own towards it. A connection is closed as soon as it stands; nothing is sent.
func (s *Sensor) probe(ctx context.Context, h home, o sensorapi.Order) ([]sensorapi.Reached, error) {
	dir, err := s.freezer.dirOf(h)
	if err != nil {
		return nil, err
	}
	pids := processesOf(dir)
	if len(pids) == 0 {
		return nil, errGone
	}
	out := make([]sensorapi.Reached, len(o.Targets)+len(o.Towards))
	var wg sync.WaitGroup
	for i, target := range o.Targets {
		wg.Go(func() { out[i] = reached(target, dialFrom(ctx, pids[0], target)) })
	}
	for i, target := range o.Towards {
		wg.Go(func() {
			err := errNoNetwork
			if s.cfg.PodNetwork {
				err = dial(ctx, target)
			}
			r := reached(target, err)
			r.Inward = true
			out[len(o.Targets)+i] = r
		})
	}
	wg.Wait()
	return out, nil
}

var errNoNetwork = errors.New("not tried: the sensor is in its node's network, and a node may always reach its pods")

func reached(target string, err error) sensorapi.Reached {
	r := sensorapi.Reached{Target: target, OK: err == nil}
	if err != nil {
		r.Error = err.Error()
	}
	return r
}

func dial(ctx context.Context, target string) error {
	d := net.Dialer{Timeout: probeTime}
	c, err := d.DialContext(ctx, "tcp", target)
	if err != nil {
		return err
	}
	return c.Close()
}

// dialFrom dials in the network namespace of a process.
func dialFrom(ctx context.Context, pid, target string) error {
	f, err := os.Open(filepath.Join("/proc", pid, "ns/net"))
	if err != nil {
		return err
	}
	defer f.Close()
	result := make(chan error, 1)
	go func() {
		// The thread is never given back: it ends with the goroutine, and the
		// namespace that it is in with it.
		runtime.LockOSThread()
		if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
			result <- fmt.Errorf("enter the container's network: %w", err)
			return
		}
		result <- dial(ctx, target)
	}()
	return <-result
}
