// Package agent owns what a sensor's process needs around the sensor: its
// configuration, the publishing to Pub/Sub, metrics and health. The lean
// contraband-sensor and `contraband sensor` are both made of it.
package sensorproc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/contraband-dev/contraband/internal/sensorapi"
	"github.com/contraband-dev/contraband/internal/sensororders"
	"github.com/contraband-dev/contraband/sensor"
)

// Config of a sensor's process. Every flag can also be given in the environment:
// --state-dir is CONTRABAND_SENSOR_STATE_DIR.
type Config struct {
	Sensor sensor.Config
	// Topic takes the detections: projects/P/topics/T. Required.
	Topic string
	// Listen is where metrics and health are served. "": nowhere.
	Listen string
	// Pprof serves Go's profiles there too.
	Pprof bool
	// OrdersFrom is the API server that orders are taken from, with OrdersAccount the
	// directory of ca.crt and token. "": the cluster's own, where the process is in one.
	OrdersFrom, OrdersAccount string
}

// Command returns the command that runs a sensor until a signal ends it.
func Command() *cobra.Command {
	var (
		c     Config
		tiers string
		check bool
	)
	cmd := &cobra.Command{
		Use:   "sensor",
		Short: "Watch this node and publish what runs that is not of its image",
		Long: `Watches every container of this machine with eBPF and publishes a detection to
Pub/Sub for each program that runs and is not of the container's image. It loads
as many tiers as the kernel takes, says which, and tests itself at the start.

Detections are kept on disk until they are published; publishing is tried again
for ever. Rights: root, or the capabilities BPF, PERFMON, SYS_PTRACE, SYS_ADMIN,
SYS_CHROOT, SYS_RESOURCE, DAC_OVERRIDE and DAC_READ_SEARCH (docs/sensor.md says what
each is for), and the host's PID namespace.

Every flag can also be given in the environment, such as
CONTRABAND_SENSOR_TOPIC for --topic. PUBSUB_EMULATOR_HOST is obeyed.`,
		Example: `  contraband sensor --topic projects/shop/topics/detections-prod --node "$(hostname)"
  contraband sensor --check      load everything, test, say what is covered, and stop`,
		Args: cobra.NoArgs,
		PreRunE: func(cmd *cobra.Command, _ []string) error {
			return fromEnvironment(cmd.Flags(), os.LookupEnv)
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			var known bool
			if c.Sensor.Tier, known = sensor.Tiers[tiers]; !known {
				return fmt.Errorf("--tiers %q: want default, all or core", tiers)
			}
			if check {
				return checkOnly(cmd, c)
			}
			return Run(cmd.Context(), c)
		},
	}
	host, _ := os.Hostname() // "" is refused below, with the flag's name
	f := cmd.Flags()
	f.StringVar(&c.Topic, "topic", "", "where detections are published: projects/P/topics/T")
	f.StringVar(&c.Sensor.Node, "node", host, "this node's name, as findings shall show it")
	f.StringVar(&c.Sensor.StateDir, "state-dir", "/var/lib/contraband-sensor", "what must survive a restart: detections not yet published, what is frozen")
	f.StringSliceVar(&c.Sensor.CRI, "cri", sensor.CRISockets, "sockets of CRI runtimes; those that do not exist are skipped")
	f.StringSliceVar(&c.Sensor.Containerd, "containerd", []string{"/run/containerd/containerd.sock"}, "sockets of containerd, likewise")
	f.StringSliceVar(&c.Sensor.Docker, "docker", sensor.DockerSockets, "sockets of Docker and Podman, likewise")
	f.IntVar(&c.Sensor.SpoolMax, "spool-max", 10_000, "unpublished detections kept on disk; beyond it new ones are refused, counted, and told in the next")
	f.Int64Var(&c.Sensor.HashMax, "hash-max", 1<<30, "size of the largest file that is hashed, in bytes")
	f.Int64Var(&c.Sensor.KernelHashMax, "kernel-hash-max", 32<<20, "size of the largest file that the kernel hashes before it runs, in bytes: the process waits meanwhile")
	f.StringVar(&c.Sensor.Exceptions, "exceptions", "", "file of programs that may run although they are not of their image")
	f.BoolVar(&c.Sensor.PodNetwork, "pod-network", false, "the sensor is in a pod's network: connections towards isolated pods are tried from it")
	f.StringVar(&c.OrdersFrom, "orders-from", "", "API server to take containment orders from; default: the cluster's own, if in one")
	f.StringVar(&c.OrdersAccount, "orders-account", "/var/run/secrets/kubernetes.io/serviceaccount", "directory with ca.crt and token for it")
	f.StringVar(&c.Listen, "listen", "127.0.0.1:9465", "address of /metrics, /healthz and /readyz; empty for none")
	f.BoolVar(&c.Pprof, "pprof", false, "serve Go's profiles under /debug/pprof/ too")
	f.StringVar(&tiers, "tiers", "default", "default: what the kernel takes; all: also keep what unlinks itself, by fanotify, where the kernel hashes; core: what every kernel takes")
	f.BoolVar(&check, "check", false, "load, test, say what is covered, and stop; publishes nothing")
	return cmd
}

// checkOnly loads everything and says what is covered.
func checkOnly(cmd *cobra.Command, c Config) error {
	dir, err := os.MkdirTemp("", "contraband-check-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	c.Sensor.StateDir = dir
	c.Sensor.Publish = func(context.Context, []byte, sensorapi.Priority) error {
		return errors.New("--check publishes nothing")
	}
	s, err := sensor.New(c.Sensor)
	if err != nil {
		return err
	}
	wrong, err := s.Check(15 * time.Second)
	coverage := s.Coverage()
	if err := errors.Join(err, s.Close()); err != nil {
		return err
	}
	if _, err := fmt.Fprint(cmd.OutOrStdout(), coverage.Table()); err != nil {
		return err
	}
	if wrong != "" {
		return fmt.Errorf("self-test: %s", wrong)
	}
	_, err = fmt.Fprintln(cmd.OutOrStdout(), "self-test passed")
	return err
}

// Run watches and publishes until ctx ends.
func Run(ctx context.Context, c Config) error {
	if c.Sensor.Log == nil {
		c.Sensor.Log = slog.Default()
	}
	publisher, err := openPublisher(ctx, c.Topic)
	if err != nil {
		return err
	}
	c.Sensor.Publish = publisher.publish
	s, err := sensor.New(c.Sensor)
	if err != nil {
		return errors.Join(err, publisher.close())
	}
	debug.FreeOSMemory() // what loading took is not needed again
	h := &health{sensor: s, publisher: publisher}
	listener, err := listen(c.Listen)
	if err != nil {
		return errors.Join(err, s.Close(), publisher.close())
	}
	watcher, err := openOrders(c, s)
	if err != nil {
		return errors.Join(err, s.Close(), publisher.close())
	}
	h.orders = watcher
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.Run(ctx) })
	if watcher != nil {
		g.Go(func() error { return watcher.Run(ctx) })
	}
	if listener != nil {
		server := &http.Server{Handler: h.mux(c.Pprof), ReadHeaderTimeout: 10 * time.Second}
		g.Go(func() error {
			if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serve metrics and health: %w", err)
			}
			return nil
		})
		g.Go(func() error {
			<-ctx.Done()
			return server.Close()
		})
		c.Sensor.Log.Info("metrics and health", "address", listener.Addr().String(), "version", version())
	}
	return errors.Join(g.Wait(), s.Close(), publisher.close())
}

// openOrders returns nil outside a cluster: orders then come to the local API alone.
func openOrders(c Config, s *sensor.Sensor) (w *sensororders.Watcher, err error) {
	if c.OrdersFrom != "" {
		w, err = sensororders.New(c.OrdersFrom, c.OrdersAccount, c.Sensor.Node, s.Take, c.Sensor.Log)
	} else {
		w, err = sensororders.InCluster(c.Sensor.Node, s.Take, c.Sensor.Log)
	}
	if w != nil {
		w.Frozen, w.Withdrawn = s.Frozen, s.Withdrawn
	}
	return w, err
}

func listen(address string) (net.Listener, error) {
	if address == "" {
		return nil, nil
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("serve metrics and health (--listen): %w", err)
	}
	return l, nil
}

func addPprof(mux *http.ServeMux) {
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}
