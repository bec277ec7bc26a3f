package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/contraband-dev/contraband/internal/canary"
	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/local"
	"github.com/contraband-dev/contraband/internal/testenv/containers"
	"github.com/contraband-dev/contraband/internal/testenv/containers/containertest"
)

// TestMain makes this binary the command `contraband` for the scripts and tests.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"contraband": main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("CONTRABAND_RUNTIME", filepath.Join(e.WorkDir, "up.json"))
			e.Setenv("HOME", e.WorkDir)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"casebook": casebookRequest, "eventually": eventually, "first": first},
		Condition: func(c string) (bool, error) {
			if c == "root" {
				return os.Geteuid() == 0, nil
			}
			return false, fmt.Errorf("condition %q is not known", c)
		},
	})
}

// casebookRequest is the script command `casebook METHOD PATH [NAME=VALUE...]`: a request to
// the pages of the running `contraband up`, with a form. It prints status and body to the
// file "response".
func casebookRequest(ts *testscript.TestScript, neg bool, args []string) {
	c, err := local.Find(ts.Getenv("CONTRABAND_RUNTIME"))
	ts.Check(err)
	form := url.Values{}
	for _, a := range args[2:] {
		name, value, _ := strings.Cut(a, "=")
		form.Set(name, value)
	}
	req, err := http.NewRequest(args[0], c.URL+args[1], strings.NewReader(form.Encode()))
	ts.Check(err)
	req.Header.Set("Authorization", "Bearer "+c.Token)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	ts.Check(err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs("response"), append([]byte(resp.Status+"\n"), body...), 0o600))
	if failed := resp.StatusCode >= 400; failed != neg {
		ts.Fatalf("%s %s: %s: %s", args[0], args[1], resp.Status, body)
	}
}

// eventually is the script command `eventually REGEXP COMMAND [ARGUMENT...]`: it repeats a
// command until its output matches, for at most 20 s.
func eventually(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: eventually REGEXP COMMAND [ARGUMENT...]")
	}
	want := regexp.MustCompile("(?m)" + args[0])
	out := ""
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if ts.Exec(args[1], args[2:]...) == nil {
			if out = ts.ReadFile("stdout"); want.MatchString(out) {
				return
			}
		}
	}
	ts.Fatalf("the output never matched %q; last:\n%s\n%s", args[0], out, ts.ReadFile("stderr"))
}

// first is the script command `first REGEXP NAME`: it sets a variable to the first match in
// the last command's output.
func first(ts *testscript.TestScript, _ bool, args []string) {
	found := regexp.MustCompile("(?m)" + args[0]).FindString(ts.ReadFile("stdout"))
	if found == "" {
		ts.Fatalf("the output does not match %q", args[0])
	}
	ts.Setenv(args[1], found)
}

// up is a `contraband up` of its own process.
type up struct {
	cmd    *exec.Cmd
	client local.Client
	mu     sync.Mutex
	lines  []string
	news   chan struct{}
}

// startUp runs one on a directory and waits until it answers.
func startUp(t *testing.T, rt *containers.Runtime, dir string) *up {
	t.Helper()
	policy := filepath.Join(dir, "policy.yaml")
	if err := os.WriteFile(policy, demoPolicy, 0o600); err != nil {
		t.Fatal(err)
	}
	announced := filepath.Join(dir, "up.json")
	os.Remove(announced)
	u := &up{cmd: exec.Command("contraband", "up", "--dir", filepath.Join(dir, "state"), "--listen", "127.0.0.1:0", "--policy", policy, "--containerd", rt.Socket), news: make(chan struct{}, 1)}
	u.cmd.Env = append(os.Environ(), "CONTRABAND_RUNTIME="+announced)
	out, err := u.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := u.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		u.cmd.Process.Kill()
		u.cmd.Wait()
		unix.Unmount(filepath.Join(dir, "state/sensor/selftest"), unix.MNT_DETACH) // it may have been in its self-test
	})
	go func() {
		for s := bufio.NewScanner(out); s.Scan(); {
			u.mu.Lock()
			u.lines = append(u.lines, s.Text())
			u.mu.Unlock()
			select {
			case u.news <- struct{}{}:
			default:
			}
		}
	}()
	for deadline := time.Now().Add(30 * time.Second); ; {
		if u.client, err = local.Find(announced); err == nil {
			if _, err = u.client.Status(t.Context()); err == nil {
				return u
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("`contraband up` does not answer: %v\n%s", err, u.text())
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (u *up) text() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return strings.Join(u.lines, "\n")
}

// logged waits until a line of its log holds a text.
func (u *up) logged(ctx context.Context, text string) error {
	for !strings.Contains(u.text(), text) {
		select {
		case <-u.news:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func startContainer(t *testing.T, rt *containers.Runtime, labels map[string]string) (*containers.Container, []byte) {
	t.Helper()
	ctr, err := rt.Run(t.Context(), fmt.Sprintf("test-%d", time.Now().UnixNano()), labels)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // what it runs would be found by every later `up`
		if err := ctr.Remove(context.Background()); err != nil {
			t.Errorf("remove container: %v", err)
		}
	})
	bin, err := canary.Here(600 * time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if err := ctr.Drop(t.Context(), "/tmp/x", bin); err != nil {
		t.Fatal(err)
	}
	return ctr, bin
}

// await polls until a case has come to rest as it should.
func await(t *testing.T, u *up, ctr *containers.Container, what string, ok func(cases.Case) bool) cases.Case {
	t.Helper()
	var last cases.Case
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		c, err := findCase(t.Context(), u.client, ctr.ID, time.Time{})
		if err != nil {
			continue
		}
		if last = c; ok(c) {
			return c
		}
	}
	t.Fatalf("%s did not come about: %+v\n%s", what, last, u.text())
	return last
}

func settled(c cases.Case) bool {
	return c.Escalated != nil && c.Paged != nil && c.Frozen() && c.Done(cases.Evidence) != nil && c.Reported == "frozen"
}

// TestKillNine kills `contraband up` at many moments of the demo and starts it
// again: the case reaches its end, with one page, one escalation, one freeze.
func TestKillNine(t *testing.T) {
	rt := containertest.Start(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	type moment struct {
		after string // a line of the log; "": as soon as the program was started
		delay time.Duration
	}
	moments := []moment{{"", 0}, {"added binary executed", 0}, {"action=freeze", 0}, {"action=evidence", 0}, {"msg=notification", 0}}
	for range 7 { // the whole way takes some 40 ms
		moments = append(moments, moment{"added binary executed", time.Duration(random.IntN(45_000)) * time.Microsecond})
	}
	for _, m := range moments {
		t.Run(fmt.Sprintf("%s+%s", strings.ReplaceAll(m.after, " ", "_"), m.delay), func(t *testing.T) {
			dir := t.TempDir()
			first := startUp(t, rt, dir)
			ctr, _ := startContainer(t, rt, map[string]string{demoLabel: "true"})
			started := make(chan error, 1)
			go func() { started <- ctr.Start(t.Context(), "/tmp/x") }()
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			if m.after != "" {
				if err := first.logged(ctx, m.after); err != nil {
					t.Fatalf("%v: no %q in\n%s", err, m.after, first.text())
				}
			}
			time.Sleep(m.delay) // the moment itself, not a wait for anything
			if err := first.cmd.Process.Signal(syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			first.cmd.Wait()
			if err := <-started; err != nil {
				t.Fatal(err)
			}
			second := startUp(t, rt, dir)
			c := await(t, second, ctr, "the end of the case", settled)
			// Let what is still on its way arrive: nothing waits in the journal any more.
			for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
				s, err := second.client.Status(t.Context())
				if err == nil && s.Waiting == 0 {
					if s.Pages != 1 || s.Escalated != 1 || s.Dead != 0 {
						t.Errorf("%d pages, %d escalations, %d dead letters; want 1, 1, 0", s.Pages, s.Escalated, s.Dead)
					}
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("messages wait: %+v, %v\n%s", s, err, second.text())
				}
			}
			freezes := 0
			for _, claim := range c.Claims {
				if claim.Action == cases.Freeze {
					freezes++
				}
			}
			if freezes != 1 || !ctr.Frozen() {
				t.Errorf("%d freezes claimed, the kernel says frozen %v; want 1, true", freezes, ctr.Frozen())
			}
			all, err := second.client.Cases(t.Context())
			if err != nil || len(all) != 1 {
				t.Errorf("%d cases, want 1 (%v)", len(all), err)
			}
		})
	}
}

// TestDefaultPolicyTouchesNothing: the same program in a container that does
// not carry the demo's label is reported and left alone.
func TestDefaultPolicyTouchesNothing(t *testing.T) {
	rt := containertest.Start(t)
	u := startUp(t, rt, t.TempDir())
	ctr, _ := startContainer(t, rt, nil)
	if err := ctr.Start(t.Context(), "/tmp/x"); err != nil {
		t.Fatal(err)
	}
	c := await(t, u, ctr, "a page", func(c cases.Case) bool { return c.Paged != nil && c.Reported == "open" })
	if c.Decided.Verdict.Level != cases.Malicious || len(c.Claims) != 0 || ctr.Frozen() {
		t.Errorf("verdict %s, claims %v, frozen %v", c.Decided.Verdict.Level, c.Claims, ctr.Frozen())
	}
}

// TestPersonContains: what the policy only reports is frozen by a click in the casebook,
// and released by another.
func TestPersonContains(t *testing.T) {
	rt := containertest.Start(t)
	u := startUp(t, rt, t.TempDir())
	ctr, _ := startContainer(t, rt, nil)
	if err := ctr.Start(t.Context(), "/tmp/x"); err != nil {
		t.Fatal(err)
	}
	c := await(t, u, ctr, "a page", func(c cases.Case) bool { return c.Paged != nil && c.Reported == "open" })
	click := func(what string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, u.client.URL+"/cases/"+c.ID+"/press", strings.NewReader("what="+what))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+u.client.Token)
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK { // of the page that it leads to
			t.Fatalf("%s: %s", what, resp.Status)
		}
	}
	click(cases.ActionContain)
	await(t, u, ctr, "the freeze and the evidence", func(c cases.Case) bool { return c.Frozen() && c.Done(cases.Evidence) != nil })
	if !ctr.Frozen() {
		t.Error("the case says frozen, and the kernel does not")
	}
	click(cases.ActionRelease)
	await(t, u, ctr, "the end", func(c cases.Case) bool { return c.Closed != nil })
	if ctr.Frozen() {
		t.Error("the case says released, and the kernel says frozen")
	}
}

// TestCanary runs the canary against a running `up`, twice in containers of its
// own and once in a given one.
func TestCanary(t *testing.T) {
	rt := containertest.Start(t)
	u := startUp(t, rt, t.TempDir())
	ctr, _ := startContainer(t, rt, nil)
	for _, in := range []string{"", "", "ctr --address " + rt.Socket + " tasks exec --exec-id canary " + ctr.ID} {
		ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
		r, err := runCanary(ctx, u.client, strings.Fields(in))
		cancel()
		if err != nil || r.Case == "" || r.Verdict != string(cases.Malicious) || r.PagedMS <= 0 {
			t.Fatalf("%q: %+v, %v\n%s", in, r, err, u.text())
		}
	}
}

// TestBrowser reads the case in a real browser and presses release.
func TestBrowser(t *testing.T) {
	rt := containertest.Start(t)
	if _, err := exec.LookPath("chromium"); err != nil {
		t.Fatal("chromium is not installed: apt-get install -y chromium (or run `make deps`)")
	}
	u := startUp(t, rt, t.TempDir())
	ctr, bin := startContainer(t, rt, map[string]string{demoLabel: "true"})
	if err := ctr.Start(t.Context(), "/tmp/x"); err != nil {
		t.Fatal(err)
	}
	c := await(t, u, ctr, "the freeze", settled)

	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath("/usr/bin/chromium"), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true), chromedp.UserDataDir(t.TempDir()))
	alloc, cancel := chromedp.NewExecAllocator(t.Context(), options...)
	defer cancel()
	var mu sync.Mutex
	var elsewhere, complaints []string
	listen := func(ev any) {
		mu.Lock()
		defer mu.Unlock()
		switch e := ev.(type) {
		case *network.EventRequestWillBeSent:
			if at, err := url.Parse(e.Request.URL); err == nil && !strings.HasPrefix(e.Request.URL, u.client.URL) && at.Scheme != "data" {
				elsewhere = append(elsewhere, e.Request.URL)
			}
		case *log.EventEntryAdded:
			if strings.Contains(e.Entry.Text, "Content Security Policy") {
				complaints = append(complaints, e.Entry.Text)
			}
		}
	}
	tab, cancel := chromedp.NewContext(alloc, chromedp.WithListener(listen))
	defer cancel()
	tab, cancel = context.WithTimeout(tab, 90*time.Second)
	defer cancel()
	if err := chromedp.Do(tab, chromedp.Navigate(u.client.Key()), chromedp.Click(`a[href="/cases/`+c.ID+`"]`), chromedp.WaitReady("#timeline")); err != nil {
		t.Fatal(err)
	}
	page, err := chromedp.Run(tab, chromedp.Text("body"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"malicious", "/tmp/x", canary.SHA256(bin), "frozen", "container frozen", ctr.ID, "T1105", "cp -- /proc/"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not show %q:\n%s", want, page)
		}
	}
	if picture := os.Getenv("CONTRABAND_SCREENSHOT"); picture != "" {
		png, err := chromedp.Run(tab, chromedp.FullScreenshot(100))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(picture, png, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if !ctr.Frozen() {
		t.Fatal("the container is not frozen before the button is pressed")
	}
	if err := chromedp.Do(tab, chromedp.Click("#release")); err != nil {
		t.Fatal(err)
	}
	// The page asks anew by itself until what was pressed is done. Between two
	// pages there is nothing to read, which is no failure.
	var status string
	for tab.Err() == nil && !strings.Contains(status, "released") {
		short, cancel := context.WithTimeout(tab, time.Second)
		if now, err := chromedp.Run(short, chromedp.Text("#status")); err == nil {
			status = now
		}
		cancel()
		time.Sleep(50 * time.Millisecond)
	}
	if ctr.Frozen() || !strings.Contains(status, "released") {
		t.Errorf("after release: the kernel says frozen %v, the page %q", ctr.Frozen(), status)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(elsewhere) > 0 || len(complaints) > 0 {
		t.Errorf("requests elsewhere: %q; policy complaints: %q", elsewhere, complaints)
	}
}

func TestOnlyOneAtATime(t *testing.T) {
	dir := t.TempDir()
	m, err := local.Start(t.Context(), local.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	var out strings.Builder
	err = run(t.Context(), []string{"up", "--no-sensor", "--dir", dir, "--listen", "127.0.0.1:0"}, &out, &out)
	if err == nil || !strings.Contains(err.Error(), "in use by another") {
		t.Errorf("a second `up` on the same directory: %v", err)
	}
}

func TestStatusErrors(t *testing.T) {
	if _, err := local.Find(filepath.Join(t.TempDir(), "none")); !errors.Is(err, local.ErrNotRunning) {
		t.Errorf("no runtime file: %v", err)
	}
}
