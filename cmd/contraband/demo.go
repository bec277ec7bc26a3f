package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/contraband-dev/contraband/internal/canary"
	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/cases/casetext"
	"github.com/contraband-dev/contraband/internal/local"
	"github.com/contraband-dev/contraband/internal/testenv/containers"
)

//go:embed demo-policy.yaml
var demoPolicy []byte

// demoLabel marks the one container that the demo's policy acts on.
const demoLabel = "dev.contraband.demo"

func demoCommand() *cobra.Command {
	var dir string
	var keep bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show the whole pipeline on a container of its own",
		Long: `Starts a private containerd, "contraband up" with a policy that acts on the
demo's container only, and a container. Then it runs a harmless added program in
the container and prints each stage with the milliseconds since the exec. Exits
with status 1 if a stage is not reached within a minute, and names it.

Needs root, containerd, runc and busybox ("make demo" installs them).`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			d := &demo{out: cmd.OutOrStdout(), keep: keep, dir: dir}
			return d.run(cmd.Context())
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "`directory` of the demo (default: a temporary one)")
	cmd.Flags().BoolVar(&keep, "keep", false, "keep everything running until Ctrl-C")
	return cmd
}

type demo struct {
	out       io.Writer
	keep      bool
	dir       string
	runtime   *containers.Runtime
	container *containers.Container
	up        *exec.Cmd
	client    local.Client
	ran       time.Time // when the container's program was started
	bin       []byte
	view      local.CaseView
}

func (d *demo) say(format string, a ...any) { fmt.Fprintf(d.out, format+"\n", a...) }

// stages are the stages of the timeline that must be reached.
var stages = []string{
	"executed", "seen", "hashed", "attributed", "raised", "verdict", "decided", "escalated", "paged", "frozen", "evidence",
	"reported",
}

func (d *demo) run(ctx context.Context) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("the demo needs root: it loads BPF programs and runs a real container; try `sudo contraband demo`")
	}
	if d.dir == "" {
		if d.dir, err = os.MkdirTemp("", "contraband-demo"); err != nil {
			return err
		}
		defer os.RemoveAll(d.dir)
	}
	if d.dir, err = filepath.Abs(d.dir); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.stop()) }()
	for _, part := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"starting a private containerd", d.startRuntime},
		{"starting `contraband up`", d.startUp},
		{"starting a container from a local image", d.startContainer},
		{"running a harmless added program in it", d.drop},
	} {
		d.say("* %s", part.what)
		if err := part.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", part.what, err)
		}
	}
	if err := d.follow(ctx); err != nil {
		return err
	}
	if err := d.verify(ctx); err != nil {
		return err
	}
	d.summary()
	if d.keep {
		d.say("\nstill running: open %s\npress Ctrl-C to stop", d.client.Key())
		<-ctx.Done()
	}
	return nil
}

func (d *demo) startRuntime(ctx context.Context) (err error) {
	d.runtime, err = containers.Start(ctx, filepath.Join(d.dir, "containerd"))
	return err
}

// startUp starts `contraband up` as a separate process, as a user would.
func (d *demo) startUp(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	policy := filepath.Join(d.dir, "policy.yaml")
	if err := os.WriteFile(policy, demoPolicy, 0o600); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(d.dir, "up.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	announced := filepath.Join(d.dir, "up.json")
	os.Remove(announced) // of an earlier run in the same directory
	d.up = exec.Command(self, "up", "--dir", filepath.Join(d.dir, "state"), "--listen", "127.0.0.1:0", "--policy", policy,
		"--containerd", d.runtime.Socket)
	d.up.Env = append(os.Environ(), "CONTRABAND_RUNTIME="+announced)
	d.up.Stdout, d.up.Stderr = log, log
	d.up.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C must reach the demo only, which stops this process
	if err := d.up.Start(); err != nil {
		return err
	}
	exited := make(chan error, 1)
	go func() { exited <- d.up.Wait() }()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		if d.client, err = local.Find(announced); err == nil {
			if _, err = d.client.Status(ctx); err == nil {
				return nil
			}
		}
		select {
		case err := <-exited:
			d.up = nil
			text, _ := os.ReadFile(log.Name())
			return fmt.Errorf("exited: %v\n%s", err, text)
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	return fmt.Errorf("not reachable after 30 seconds: %w", err)
}

func (d *demo) startContainer(ctx context.Context) (err error) {
	labels := map[string]string{demoLabel: "true", "owner": "you"}
	d.container, err = d.runtime.Run(ctx, fmt.Sprintf("demo-%d", time.Now().UnixNano()), labels)
	return err
}

func (d *demo) drop(ctx context.Context) (err error) {
	if d.bin, err = canary.Here(600 * time.Second); err != nil {
		return err
	}
	if err := d.container.Drop(ctx, "/tmp/.x/kdevtmpfsi", d.bin); err != nil {
		return err
	}
	d.ran = time.Now()
	return d.container.Start(ctx, "/tmp/.x/kdevtmpfsi")
}

// follow prints the case's timeline as it grows until every stage is reached. It returns an
// error that names a stage that is not reached within a minute.
func (d *demo) follow(ctx context.Context) error {
	d.say("\n%10s  %-11s %s", "ms", "stage", "")
	shown, reached := map[casetext.TimelineEntry]bool{}, map[string]bool{}
	for deadline := time.Now().Add(time.Minute); ; {
		found, err := findCase(ctx, d.client, d.container.ID, d.ran)
		if err == nil {
			d.view, err = d.client.Case(ctx, found.ID)
		}
		if err != nil && !errors.Is(err, local.ErrNotFound) && !errors.Is(err, local.ErrNotRunning) {
			return err
		}
		for _, m := range d.view.Timeline {
			if shown[m] {
				continue
			}
			shown[m], reached[m.Stage] = true, true
			d.say("%10.1f  %-11s %s", float64(m.At.Sub(d.view.Timeline[0].At).Microseconds())/1000, m.Stage, m.Text)
		}
		missing := ""
		for _, s := range stages {
			if !reached[s] && missing == "" {
				missing = s
			}
		}
		switch {
		case missing == "":
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("stage %q was not reached within a minute; the log of `contraband up`:\n%s", missing, d.log())
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (d *demo) log() string {
	text, err := os.ReadFile(filepath.Join(d.dir, "up.log"))
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-4000):])
}

// findCase returns the case about a container, or local.ErrNotFound.
func findCase(ctx context.Context, c local.Client, container string, since time.Time) (cases.Case, error) {
	all, err := c.Cases(ctx)
	if err != nil {
		return cases.Case{}, err
	}
	for _, k := range all {
		// A second's grace: the event's time is the kernel's.
		if k.Decided.Finding.Container.ID == container && !k.LastSeen.Before(since.Add(-time.Second)) {
			return k, nil
		}
	}
	return cases.Case{}, local.ErrNotFound
}

// verify checks the results in the kernel and in the stores.
func (d *demo) verify(ctx context.Context) error {
	if !d.container.Frozen() {
		return errors.New("stage \"frozen\": the kernel does not report the container as frozen")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, d.client.URL+"/cases/"+d.view.Case.ID+"/evidence", nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+d.client.Token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	saved, err := io.ReadAll(resp.Body)
	if err != nil || !bytes.Equal(saved, d.bin) {
		return fmt.Errorf("stage \"evidence\": the %d saved bytes differ from the %d that ran (%v)", len(saved), len(d.bin), err)
	}
	s, err := d.client.Status(ctx)
	if err != nil {
		return err
	}
	if s.Dead != 0 {
		return fmt.Errorf("unexpected dead letters: %q", s.DeadReasons)
	}
	return nil
}

func (d *demo) summary() {
	at := map[string]time.Time{}
	for _, m := range d.view.Timeline {
		if at[m.Stage].IsZero() {
			at[m.Stage] = m.At
		}
	}
	start := d.view.Timeline[0].At
	d.say("\nsummary of case %s", d.view.Case.ID)
	for _, s := range []struct{ word, stage, more string }{
		{"detected", "seen", string(d.view.Case.Decided.Finding.Sensor.Route)},
		{"hashed", "hashed", d.view.Case.Decided.Finding.Process.SHA256},
		{"escalated", "escalated", "Execution: Added Malicious Binary Executed"},
		{"paged", "paged", d.view.Case.Paged.Link},
		{"frozen", "frozen", "confirmed by the kernel"},
		{"evidence", "evidence", "SHA-256 " + canary.SHA256(d.bin) + ", compared byte for byte"},
	} {
		d.say("  %-10s %8.1f ms  %s", s.word, float64(at[s.stage].Sub(start).Microseconds())/1000, s.more)
	}
}

func (d *demo) stop() error {
	var errs []error
	if d.up != nil {
		// Only the process that the demo started is signalled.
		if err := d.up.Process.Signal(syscall.SIGTERM); err == nil {
			errs = append(errs, waitGone(d.up.Process.Pid))
		}
	}
	if d.runtime != nil {
		errs = append(errs, d.runtime.Close())
	}
	return errors.Join(errs...)
}

// waitGone waits until a process that another goroutine reaps has ended.
func waitGone(pid int) error {
	for range 500 {
		if err := syscall.Kill(pid, 0); err != nil {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return fmt.Errorf("process %d (`contraband up`) did not exit; see its log", pid)
}
