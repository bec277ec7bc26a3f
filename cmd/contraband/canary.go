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
		Short: "Run a harmless program and measure the time to its page",
		Long: `Writes the canary, a harmless program that the built-in indicator list contains,
to a container, runs it, and waits for its page.

By default it starts a container (needs root, containerd, runc and busybox).
With --in it uses an existing one: pass the command that runs a program in it
with standard input attached. The container needs sh, cat, mkdir, chmod and rm.

Queries the running "contraband up". For a deployment, set --casebook and put an
identity token into CONTRABAND_TOKEN. Exits with status 1 if no page was sent.`,
		Example: `  contraband canary
  contraband canary --in "docker exec -i web"
  contraband canary --in "kubectl exec -i -n shop deploy/web --" \
    --casebook https://casebook-xyz.run.app`,
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
	f.StringVar(&in, "in", "", "`command` that runs a program in an existing container")
	f.StringVar(&casebookURL, "casebook", "", casebookFlag)
	f.BoolVar(&asJSON, "json", false, "print JSON")
	f.DurationVar(&timeout, "timeout", 60*time.Second, "`time` to wait for the page")
	return cmd
}

type canaryResult struct {
	Case       string  `json:"case"`
	Verdict    string  `json:"verdict"`
	DetectedMS float64 `json:"detected_ms"` // exec to the sensor's user space; 0 if the finding does not say
	PagedMS    float64 `json:"paged_ms"`    // exec to the page, or to its edit if the incident was paged before
}

const casebookFlag = "`URL` of a deployed casebook (default: the running \"contraband up\")"

// casebookOf returns a client of a deployed casebook, or of the running pipeline.
func casebookOf(url string) (local.Client, error) {
	if url != "" {
		return local.Client{URL: strings.TrimSuffix(url, "/"), Token: os.Getenv("CONTRABAND_TOKEN"), Remote: true}, nil
	}
	c, err := local.Find(local.RuntimeFile())
	if err != nil {
		return c, fmt.Errorf("%w: start it with `sudo contraband up`, or set --casebook", err)
	}
	return c, nil
}

// runCanary runs the canary once and waits for its page. A unique file name distinguishes
// this run from others.
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
	await := func() (canaryResult, error) { return awaitPage(ctx, c, canary.SHA256(program), path, joined) }
	if len(in) > 0 {
		if err := execIn(ctx, in, program, path); err != nil {
			return r, err
		}
		return await()
	}
	return inOwnContainer(ctx, program, path, await)
}

// canaryScript writes standard input to a file, runs it and removes it.
const canaryScript = `mkdir -p /tmp && cat > "$0" && chmod +x "$0" && "$0"; status=$?; rm -f "$0"; exit $status`

// inOwnContainer runs the canary in a new container, which exists until await returns.
func inOwnContainer(ctx context.Context, program []byte, path string, await func() (canaryResult, error)) (r canaryResult, err error) {
	rt, err := containers.Start(ctx, filepath.Dir(ownContainerd))
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, rt.Close()) }()
	ctr, err := rt.Run(ctx, "canary-"+uuid.NewString(), nil)
	if err != nil {
		return r, err
	}
	if _, err := ctr.Exec(ctx, bytes.NewReader(program), "/bin/sh", "-c", canaryScript, path); err != nil {
		return r, err
	}
	return await()
}

// execIn runs the canary in an existing container, with the command that runs programs in it.
func execIn(ctx context.Context, command []string, program []byte, path string) error {
	run := exec.CommandContext(ctx, command[0], append(command[1:], "sh", "-c", canaryScript, path)...)
	run.Stdin = bytes.NewReader(program)
	if out, err := run.CombinedOutput(); err != nil {
		return fmt.Errorf("run the canary with %q: %w: %s", strings.Join(command, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// awaitPage waits for a case of the canary's hash that is new or has grown, and whose page
// shows the run.
func awaitPage(ctx context.Context, c local.Client, sum, path string, joined map[string]int) (canaryResult, error) {
	for {
		all, err := c.Cases(ctx)
		if err != nil && ctx.Err() == nil {
			return canaryResult{}, err
		}
		for _, k := range all {
			f := k.Decided.Finding
			grown := k.Joined+1 > joined[k.ID]
			known := joined[k.ID] > 0
			if f.Process.SHA256 != sum || k.Paged == nil || !grown || !known && f.Process.Path != path {
				continue
			}
			if k.Paged.Error != "" {
				return canaryResult{}, fmt.Errorf("case %s: page not sent: %s", k.ID, k.Paged.Error)
			}
			v, err := c.Case(ctx, k.ID)
			if err != nil {
				return canaryResult{}, err
			}
			if r := measure(v); r.PagedMS > 0 { // else the incident's page does not show this run yet
				return r, nil
			}
		}
		select {
		case <-ctx.Done():
			return canaryResult{}, errors.New("the canary ran but no page was sent: does a sensor watch this node? See `contraband doctor`")
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
		case (m.Stage == "paged" || m.Stage == "page-edited") && ms > 0 && r.PagedMS == 0: // an edit if the incident was paged before
			r.PagedMS = ms
		}
	}
	return r
}
