package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/contraband-dev/contraband/internal/local"
	"github.com/contraband-dev/contraband/sensor"
)

// ownContainerd is the socket of the containerd that runs canary containers.
const ownContainerd = "/run/contraband/canary/containerd.sock"

// knownContainerd lists the sockets of the usual distributions.
var knownContainerd = []string{
	"/run/containerd/containerd.sock", "/run/docker/containerd/containerd.sock", "/run/k3s/containerd/containerd.sock",
	ownContainerd,
}

// upOptions are the flags of up.
type upOptions struct {
	dir, listen, policy, exceptions, indicators string
	containerd                                  []string
	noSensor                                    bool
}

func upCommand() *cobra.Command {
	var o upOptions
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Watch this machine's containers until stopped",
		Long: `Runs the whole pipeline in one process: the sensor on the real kernel, the
functions, and an in-process server for each service that this machine does not
have. Works with containers of containerd, Docker and Podman.

The built-in policy only pages: nothing is frozen unless --policy says so. Pages
go to Slack if SLACK_TOKEN and SLACK_CHANNEL are set, otherwise to a built-in
server whose page is printed. Set VT_API_KEY to query VirusTotal.

Programs listed in --exceptions may run: they are neither reported nor paged.
The sensor reloads the file when it changes; the rest reads it at the start.

All records are kept in --dir. After a crash, "up" on the same directory resumes
the work.`,
		Example: `  contraband up
  contraband up --policy policy.yaml --indicators bad.txt
  SLACK_TOKEN=xoxb-... SLACK_CHANNEL=C0123 contraband up`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := o.config()
			if err != nil {
				return err
			}
			return runUp(cmd.Context(), cmd.OutOrStdout(), cfg)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.dir, "dir", stateDir(), "`directory` of the records")
	f.StringVar(&o.listen, "listen", "127.0.0.1:8321", "loopback `address` of the casebook; port 0: any free port")
	f.StringVar(&o.policy, "policy", "", "policy `file` (default: built in, only pages)")
	f.StringVar(&o.exceptions, "exceptions", "", "`file` of programs that may run although they are not in their\nimage (default: the exceptions of the policy file)")
	f.StringVar(&o.indicators, "indicators", "", "indicator list `file`, lines of \"<sha256> <label>\"\n(default: built in, lists only the canary)")
	f.StringSliceVar(&o.containerd, "containerd", nil, "additional containerd `socket`, for container names and images")
	f.BoolVar(&o.noSensor, "no-sensor", false, "do not watch; only process replayed findings (no root)")
	return cmd
}

// config returns the pipeline's configuration, or an error for flags and environment
// variables that do not go together.
func (o upOptions) config() (local.Config, error) {
	dir, err := filepath.Abs(o.dir)
	if err != nil {
		return local.Config{}, err
	}
	cfg := local.Config{
		Dir: dir, Listen: o.listen, Policy: o.policy, Exceptions: o.exceptions, Indicators: o.indicators,
		RuntimeFile: local.RuntimeFile(),
		SlackToken:  os.Getenv("SLACK_TOKEN"), SlackChannel: os.Getenv("SLACK_CHANNEL"),
		VirusTotalKey: os.Getenv("VT_API_KEY"),
	}
	if cfg.SlackToken != "" && cfg.SlackChannel == "" {
		return cfg, fmt.Errorf("%w: SLACK_TOKEN is set but SLACK_CHANNEL is not; set it to the ID of the channel to page", errUsage)
	}
	if o.noSensor {
		return cfg, nil
	}
	if os.Geteuid() != 0 {
		return cfg, fmt.Errorf("the sensor needs root: run `sudo contraband up`, or use --no-sensor to process replayed findings only")
	}
	cfg.Sensor = &sensor.Config{Containerd: append(knownContainerd, o.containerd...), Exceptions: cmp.Or(o.exceptions, o.policy)}
	return cfg, nil
}

// runUp runs the pipeline until ctx is done or a part of it fails.
func runUp(ctx context.Context, out io.Writer, cfg local.Config) error {
	m, err := local.Start(ctx, cfg)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "casebook: %s\n", local.Client{URL: m.URL, Token: m.Token}.Key())
	if cfg.SlackToken == "" {
		fmt.Fprintf(out, "pages:    %s/slack/ (no SLACK_TOKEN: shown by a built-in server)\n", m.URL)
	}
	if cfg.Sensor != nil {
		fmt.Fprintln(out, "watching this machine's containers; press Ctrl-C to stop")
	}
	select {
	case <-ctx.Done():
	case err = <-m.Failed():
		err = fmt.Errorf("the pipeline stopped: %w", err)
	}
	if closed := m.Close(); err == nil {
		err = closed
	}
	return err
}
