package main

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/contraband-dev/contraband/internal/local"
	"github.com/contraband-dev/contraband/sensor"
)

// ownContainerd is where canary and demo containers of this program live.
const ownContainerd = "/run/contraband/canary/containerd.sock"

// knownContainerd are the sockets of the usual distributions.
var knownContainerd = []string{"/run/containerd/containerd.sock", "/run/docker/containerd/containerd.sock", "/run/k3s/containerd/containerd.sock", ownContainerd}

func upCommand() *cobra.Command {
	var dir, listen, policy, exceptions, indicators string
	var containerd []string
	var noSensor bool
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Watch this machine's containers until stopped",
		Long: `Runs the whole pipeline in this process: the sensor on the real kernel, the
functions, and a stand-in for each service that this machine does not have. It
works with containers of containerd, Docker and Podman.

The built-in policy only pages: nothing is frozen unless --policy says so.
A page goes to Slack when SLACK_TOKEN and SLACK_CHANNEL are set, else to a
stand-in that the casebook links to. VT_API_KEY has VirusTotal asked as well.

--exceptions names programs that may run: they are neither reported nor paged.
The file is read again when it changes by the sensor, and at the start by the rest.

Records are kept in --dir. A killed "up" goes on where it ended when it is
started again on the same directory.`,
		Example: `  contraband up
  contraband up --policy policy.yaml --indicators bad.txt
  SLACK_TOKEN=xoxb-... SLACK_CHANNEL=C0123 contraband up`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			stdout := cmd.OutOrStdout()
			abs, err := filepath.Abs(dir)
			if err != nil {
				return err
			}
			cfg := local.Config{
				Dir: abs, Listen: listen, Policy: policy, Exceptions: exceptions, Indicators: indicators, RuntimeFile: local.RuntimeFile(),
				SlackToken: os.Getenv("SLACK_TOKEN"), SlackChannel: os.Getenv("SLACK_CHANNEL"), VirusTotalKey: os.Getenv("VT_API_KEY"),
			}
			if cfg.SlackToken != "" && cfg.SlackChannel == "" {
				return fmt.Errorf("SLACK_TOKEN is set and SLACK_CHANNEL is not: set it to the id of the channel that is to be paged")
			}
			if !noSensor {
				if os.Geteuid() != 0 {
					return fmt.Errorf("the sensor needs root: try `sudo contraband up`, or --no-sensor to take replayed findings only")
				}
				cfg.Sensor = &sensor.Config{Containerd: append(knownContainerd, containerd...), Exceptions: cmp.Or(exceptions, policy)}
			}
			m, err := local.Start(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			c := local.Client{URL: m.URL, Token: m.Token}
			fmt.Fprintf(stdout, "casebook: %s\n", c.Key())
			if cfg.SlackToken == "" {
				fmt.Fprintf(stdout, "pages:    %s/slack/ (no SLACK_TOKEN: a stand-in shows them)\n", m.URL)
			}
			if !noSensor {
				fmt.Fprintln(stdout, "watching this machine's containers; stop with Ctrl-C")
			}
			select {
			case <-cmd.Context().Done():
			case err = <-m.Failed():
				err = fmt.Errorf("a part of the pipeline has ended: %w", err)
			}
			if closed := m.Close(); err == nil {
				err = closed
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&dir, "dir", stateDir(), "directory of the records")
	f.StringVar(&listen, "listen", "127.0.0.1:8321", "loopback address of the casebook; port 0 takes a free one")
	f.StringVar(&policy, "policy", "", "policy file (default: built in; it only pages)")
	f.StringVar(&exceptions, "exceptions", "", "file of programs that may run although they are not of their image (default: those of the policy file)")
	f.StringVar(&indicators, "indicators", "", `indicator list, lines of "<sha256> <label>" (default: the canary alone)`)
	f.StringSliceVar(&containerd, "containerd", nil, "further containerd sockets to ask for a container's name")
	f.BoolVar(&noSensor, "no-sensor", false, "do not watch; take replayed findings only (needs no root)")
	return cmd
}
