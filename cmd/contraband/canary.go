package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/contraband-dev/contraband/internal/canary"
	"github.com/contraband-dev/contraband/internal/cases/casetext"
	"github.com/contraband-dev/contraband/internal/local"
	"github.com/contraband-dev/contraband/internal/testenv/containers"
)

func canaryCommand() *cobra.Command {
	var in, casebookURL string
	var asJSON bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "canary",
		Short: "Run a harmless program in a container and measure kernel to page",
		Long: `Drops the canary, a harmless program whose hash the built-in indicator list
knows, into a container, runs it, and waits for its page.

Without --in it starts a container of its own (root, containerd, runc, busybox).
With --in it uses yours: give the command that runs a program in it with standard
input attached. It needs sh, cat, mkdir, chmod and rm there.

It asks the running "contraband up"; for a real deployment give --casebook and
put an identity token into CONTRABAND_TOKEN. Exit status 1 when no page came.`,
		Example: `  contraband canary
  contraband canary --in "docker exec -i web"
  contraband canary --in "kubectl exec -i -n shop deploy/web --" --casebook https://casebook-xyz.run.app`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
			defer cancel()
			c, err := casebookOf(casebookURL)
			if err != nil {
				return err
			}
			r, err := runCanary(ctx, c, strings.Fields(in))
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(r)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "case %s: verdict %s, page %.0f ms after the exec\n", r.Case, r.Verdict, r.PagedMS)
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&in, "in", "", `command that runs a program in your container ("docker exec -i web")`)
	f.StringVar(&casebookURL, "casebook", "", casebookFlag)
	f.BoolVar(&asJSON, "json", false, "print JSON")
	f.DurationVar(&timeout, "timeout", 60*time.Second, "how long to wait for the page")
	return cmd
}

type canaryResult struct {
	Case       string  `json:"case"`
	Verdict    string  `json:"verdict"`
	DetectedMS float64 `json:"detected_ms"` // exec to the sensor's user space; 0 when the finding does not say
	PagedMS    float64 `json:"paged_ms"`    // exec to the page (or, in a case already open, to its edit)
}

const casebookFlag = "address of a deployed casebook (default: the running `contraband up`)"

// casebookOf is where cases are asked for: a deployed casebook, or what runs here.
func casebookOf(url string) (local.Client, error) {
	if url != "" {
		return local.Client{URL: strings.TrimSuffix(url, "/"), Token: os.Getenv("CONTRABAND_TOKEN"), Remote: true}, nil
	}
	c, err := local.Find(local.RuntimeFile())
	if err != nil {
		return c, fmt.Errorf("%w: start it with `sudo contraband up`, or give --casebook", err)
	}
	return c, nil
}

// runCanary lets the program run once. A file name of its own tells this run
// from others; the program's path in the case does the same for a new case.
func runCanary(ctx context.Context, c local.Client, in []string) (r canaryResult, err error) {
	program, err := canary.Here(time.Second)
	if err != nil {
		return r, err
	}
	before, err := c.Cases(ctx)
	if err != nil {
		return r, err
	}
	joined := map[string]int{}
	for _, k := range before {
		joined[k.ID] = k.Joined + 1
	}
	path := "/tmp/contraband-canary-" + uuid.NewString()
	script := `mkdir -p /tmp && cat > "$0" && chmod +x "$0" && "$0"; status=$?; rm -f "$0"; exit $status`
	if len(in) == 0 {
		rt, err := containers.Start(ctx, filepath.Dir(ownContainerd))
		if err != nil {
			return r, err
		}
		defer func() { err = errors.Join(err, rt.Close()) }()
		ctr, err := rt.Run(ctx, "canary-"+uuid.NewString(), nil)
		if err != nil {
			return r, err
		}
		if _, err := ctr.Exec(ctx, bytes.NewReader(program), "/bin/sh", "-c", script, path); err != nil {
			return r, err
		}
	} else {
		run := exec.CommandContext(ctx, in[0], append(in[1:], "sh", "-c", script, path)...)
		run.Stdin = bytes.NewReader(program)
		if out, err := run.CombinedOutput(); err != nil {
			return r, fmt.Errorf("run the canary with %q: %w: %s", strings.Join(in, " "), err, bytes.TrimSpace(out))
		}
	}
	return awaitPage(ctx, c, canary.SHA256(program), path, joined)
}

// awaitPage waits for a case of the canary's hash that is new or has grown, and
// whose page shows it.
func awaitPage(ctx context.Context, c local.Client, sum, path string, joined map[string]int) (canaryResult, error) {
	for {
		all, err := c.Cases(ctx)
		if err != nil && ctx.Err() == nil {
			return canaryResult{}, err
		}
		for _, k := range all {
			f := k.Decided.Finding
			if f.Process.SHA256 != sum || k.Paged == nil || k.Joined+1 <= joined[k.ID] || joined[k.ID] == 0 && f.Process.Path != path {
				continue
			}
			if k.Paged.Error != "" {
				return canaryResult{}, fmt.Errorf("case %s: the page could not be sent: %s", k.ID, k.Paged.Error)
			}
			v, err := c.Case(ctx, k.ID)
			if err != nil {
				return canaryResult{}, err
			}
			if r := measure(v); r.PagedMS > 0 { // else the page is the incident's, and does not show this run yet
				return r, nil
			}
		}
		select {
		case <-ctx.Done():
			return canaryResult{}, errors.New("no page came: the canary ran and nobody was told. Is the sensor on this node? See `contraband doctor`")
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func measure(v local.CaseView) canaryResult {
	r := canaryResult{Case: v.Case.ID, Verdict: string(v.Case.Decided.Verdict.Level)}
	start := casetext.Start(v.Case)
	if v.Case.Joined > 0 {
		start = v.Case.LastSeen
	}
	for _, m := range v.Timeline {
		ms := float64(m.At.Sub(start).Microseconds()) / 1000
		switch {
		case m.Stage == "seen" && v.Case.Joined == 0:
			r.DetectedMS = ms
		case (m.Stage == "paged" || m.Stage == "page-edited") && ms > 0 && r.PagedMS == 0: // an edit where the incident was told before
			r.PagedMS = ms
		}
	}
	return r
}
