package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/contraband-dev/contraband/internal/local"
	"github.com/contraband-dev/contraband/internal/sensorapi"
	"github.com/contraband-dev/contraband/internal/testenv/containers"
	"github.com/contraband-dev/contraband/sensor"
)

// check is the result of one check.
type check struct {
	Name   string `json:"name"`
	State  string `json:"state"` // ok, warn (something optional is missing), fail
	What   string `json:"what"`
	Advice string `json:"advice,omitempty"`
}

func doctorCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check this machine and suggest fixes",
		Long: `Checks the kernel, the container runtimes, the privileges, and the configuration
of "contraband up" on this machine. What the kernel supports is found out by
loading the sensor's programs. Exits with status 1 if "contraband up" cannot
watch this machine.`,
		Example: `  sudo contraband doctor
  sudo contraband doctor --json | jq '.[] | select(.state != "ok")'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			checks := runChecks(cmd.Context())
			if err := printChecks(cmd.OutOrStdout(), checks, asJSON); err != nil {
				return err
			}
			for _, c := range checks {
				if c.State == "fail" {
					return fmt.Errorf("cannot watch this machine: check %q failed", c.Name)
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printChecks(out io.Writer, checks []check, asJSON bool) error {
	if asJSON {
		return json.NewEncoder(out).Encode(checks)
	}
	for _, c := range checks {
		if _, err := fmt.Fprintf(out, "%-4s  %-22s %s\n", c.State, c.Name, c.What); err != nil {
			return err
		}
		if c.Advice != "" {
			fmt.Fprintf(out, "%-4s  %-22s -> %s\n", "", "", c.Advice)
		}
	}
	return nil
}

func runChecks(ctx context.Context) []check {
	return slices.Concat([]check{privileges(), kernel()}, programs(), []check{cgroups()}, runtimes(),
		[]check{demoCheck(), running(ctx), slackCheck(), virusTotal()})
}

func ok(name, what string) check { return check{Name: name, State: "ok", What: what} }
func warn(name, what, advice string) check {
	return check{Name: name, State: "warn", What: what, Advice: advice}
}
func fail(name, what, advice string) check {
	return check{Name: name, State: "fail", What: what, Advice: advice}
}

func privileges() check {
	if os.Geteuid() != 0 {
		return fail("privileges", fmt.Sprintf("running as user %d", os.Geteuid()),
			"run as root: the sensor loads BPF programs and opens files of other processes")
	}
	return ok("privileges", "root")
}

func kernel() check {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return fail("kernel", err.Error(), "")
	}
	release := unix.ByteSliceToString(u.Release[:])
	if _, err := os.Stat("/sys/kernel/btf/vmlinux"); err != nil {
		return fail("kernel", release+", without BTF",
			"use a kernel with CONFIG_DEBUG_INFO_BTF (Debian 12, Ubuntu 22.04, COS 97 and later have it)")
	}
	return ok("kernel", release+", with BTF")
}

// programs loads the BPF programs and runs the sensor's self-test.
func programs() []check {
	dir, err := os.MkdirTemp("", "contraband-doctor-")
	if err != nil {
		return []check{fail("bpf programs", err.Error(), "")}
	}
	defer os.RemoveAll(dir)
	publish := func(context.Context, []byte, sensorapi.Priority) error { return errors.New("doctor publishes nothing") }
	s, err := sensor.New(sensor.Config{
		Node: "doctor", StateDir: dir, Publish: publish, CRI: []string{}, Containerd: []string{}, Docker: []string{},
		Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return []check{fail("bpf programs", strings.ReplaceAll(err.Error(), "\n", "; "),
			"run as root (or with CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE) on Linux 5.12 or later with BTF")}
	}
	wrong, err := s.Check(10 * time.Second)
	if err := errors.Join(err, s.Close()); err != nil {
		return []check{fail("bpf programs", err.Error(), "please report this with your kernel version")}
	}
	out := []check{ok("bpf programs", "loaded and attached: "+s.Coverage().Tiers())}
	if wrong != "" {
		out = append(out, fail("self-test", wrong, "please report this with your kernel version"))
	} else {
		out = append(out, ok("self-test", "the origin of overlay files is recognized correctly"))
	}
	return append(out, coverage(s.Coverage()))
}

// coverage reports which routes are detected on this kernel.
func coverage(c sensor.Coverage) check {
	var seen, unseen []string
	for _, r := range sensor.AllRoutes {
		if c.Routes()[r] != "" {
			seen = append(seen, string(r))
		} else {
			unseen = append(unseen, string(r))
		}
	}
	what := "detected: " + strings.Join(seen, ", ") + "; never detected: `sh script`, code without a file"
	if len(unseen) == 0 {
		return ok("coverage", what)
	}
	return warn("coverage", what+"; NOT detected on this kernel: "+strings.Join(unseen, ", "), strings.Join(c.Missing, "; "))
}

func cgroups() check {
	var s unix.Statfs_t
	for _, dir := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
		if unix.Statfs(dir, &s) == nil && s.Type == unix.CGROUP2_SUPER_MAGIC {
			return ok("cgroups", "version 2, mounted at "+dir+": containers can be frozen")
		}
	}
	if _, err := os.Stat("/sys/fs/cgroup/freezer"); err == nil {
		return ok("cgroups", "version 1 with a freezer: containers can be frozen")
	}
	return fail("cgroups", "no cgroup hierarchy that can freeze is mounted", "mount -t cgroup2 none /sys/fs/cgroup")
}

func runtimes() []check {
	var out []check
	for _, address := range append(append([]string{}, knownContainerd[:3]...), sensor.DockerSockets...) {
		if _, err := os.Stat(address); err == nil {
			out = append(out, ok("runtime", address))
		}
	}
	if len(out) == 0 {
		out = append(out, warn("runtime", "no containerd, Docker or Podman socket found in the usual places",
			"programs are still detected, but without the container's name, image and labels; set --containerd"))
	}
	return out
}

func demoCheck() check {
	if err := containers.Missing(); err != nil {
		return warn("demo and canary", err.Error(), "needed only by `contraband demo` and by `contraband canary` without --in")
	}
	return ok("demo and canary", "containerd, runc and busybox are installed")
}

func running(ctx context.Context) check {
	c, err := local.Find(local.RuntimeFile())
	if err == nil {
		var s local.Status
		if s, err = c.Status(ctx); err == nil {
			state := ok("contraband up",
				fmt.Sprintf("running at %s: %d findings, %d undelivered messages, %d dead letters", c.URL, s.Findings, s.Waiting, s.Dead))
			if s.Dead > 0 {
				state = warn("contraband up", state.What, "contraband deadletter list; the reasons: "+oneLine(strings.Join(s.DeadReasons, "; ")))
			}
			return state
		}
	}
	return warn("contraband up", "not running", "start it with `sudo contraband up`")
}

func slackCheck() check {
	switch token, channel := os.Getenv("SLACK_TOKEN"), os.Getenv("SLACK_CHANNEL"); {
	case token != "" && channel != "":
		return ok("slack", "pages go to channel "+channel)
	case token != "":
		return warn("slack", "SLACK_TOKEN is set but SLACK_CHANNEL is not", "set SLACK_CHANNEL to the ID of the channel to page")
	}
	return warn("slack", "no SLACK_TOKEN: pages are only shown by a built-in server",
		"set SLACK_TOKEN (chat:write, channels:history) and SLACK_CHANNEL")
}

func virusTotal() check {
	if os.Getenv("VT_API_KEY") != "" {
		return ok("virustotal", "hashes are looked up; nothing is uploaded")
	}
	return warn("virustotal", "no VT_API_KEY: only the local indicator list is used",
		"set VT_API_KEY to a key whose terms allow business workflows, or set --indicators")
}
