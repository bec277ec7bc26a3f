package bundle_test

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"go/parser"
	"go/token"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"cloud.google.com/go/pubsub/v2/pstest"

	"github.com/contraband-dev/contraband/internal/bundle"
	"github.com/contraband-dev/contraband/internal/sensorapi"
)

// made is the zip, made once.
func made(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	m, err := bundle.Make(t.Context(), "../..", &b)
	if err != nil {
		t.Fatal(err)
	}
	if m.Bytes != int64(b.Len()) || m.SHA256 == "" || m.Files == 0 {
		t.Fatalf("%+v of %d bytes", m, b.Len())
	}
	return b.Bytes()
}

func TestSameSourcesSameBytes(t *testing.T) {
	if a, b := made(t), made(t); !bytes.Equal(a, b) {
		t.Error("made twice, and not the same")
	}
}

// replay does what Google's Go buildpack does with a vendored function: one package at
// the root that imports the framework, a main of its own beside it, a build that
// fetches nothing, in the environment that Terraform gives it. It returns the program
// of a function.
func replay(t testing.TB, body []byte) func(function string) (program string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "workspace")
	z, err := zip.NewReader(bytes.NewReader(body), int64(len(body)))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range z.File {
		if !filepath.IsLocal(f.Name) || f.Mode() != 0o644 {
			t.Fatalf("%q, mode %s", f.Name, f.Mode())
		}
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		r.Close()
		write(t, filepath.Join(dir, f.Name), b)
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("at the root: %v, %v", files, err)
	}
	for _, file := range files {
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil || f.Name.Name != "function" {
			t.Fatalf("package %v, %v", f.Name, err)
		}
		imports := map[string]bool{}
		for _, i := range f.Imports {
			imports[strings.Trim(i.Path.Value, `"`)] = true
		}
		if !imports["github.com/GoogleCloudPlatform/functions-framework-go/functions"] {
			t.Errorf("%s does not import the framework: the buildpack would take it for no function", file)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "vendor/github.com/GoogleCloudPlatform/functions-framework-go/funcframework")); err != nil {
		t.Error(err)
	}
	write(t, filepath.Join(dir, "serverless_function_app", "main.go"), []byte(`package main

import (
	"log"
	"os"

	"github.com/GoogleCloudPlatform/functions-framework-go/funcframework"
	_ "github.com/contraband-dev/contraband"
)

func main() {
	if err := funcframework.StartHostPort("127.0.0.1", os.Getenv("PORT")); err != nil {
		log.Fatal(err)
	}
}
`))
	built := map[string]string{}
	return func(function string) string {
		t.Helper()
		flags := bundle.Flags(function)
		if built[flags] != "" {
			return built[flags]
		}
		program := filepath.Join(dir, fmt.Sprint("function-", len(built)))
		cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-mod=vendor", "-o", program, "./serverless_function_app")
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOPROXY=off", "GOFLAGS="+flags, "GOWORK=off", "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("the buildpack's build of %s: %v\n%s", function, err, out)
		}
		built[flags] = program
		return program
	}
}

func write(t testing.TB, name string, body []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, body, 0o644); err != nil {
		t.Fatal(err)
	}
}

// served is one function, running as the platform runs it.
type served struct {
	url   string
	pid   int
	began time.Time
	log   *bytes.Buffer
}

// start runs a function with only what Terraform gives it.
func start(t testing.TB, program, target string, env ...string) served {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, program)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "PORT=" + strconv.Itoa(port), "FUNCTION_TARGET=" + target,
		"GOOGLE_CLOUD_PROJECT=p", "CONTRABAND_STORE=dir://" + t.TempDir()}, env...)
	s := served{url: fmt.Sprintf("http://127.0.0.1:%d", port), began: time.Now(), log: &log}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s.pid = cmd.Process.Pid
	t.Cleanup(func() { cancel(); cmd.Wait() })
	return s
}

// post sends a request until the server listens.
func (s served) post(t testing.TB, path, body string) (int, string) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; {
		resp, err := http.Post(s.url+path, "application/json", strings.NewReader(body))
		if err == nil {
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			return resp.StatusCode, string(b)
		}
		if time.Now().After(end) {
			t.Fatalf("it does not start: %v\n%s", err, s.log)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

const (
	topic   = "/projects/p/topics/contraband-detections-prod"
	cluster = "CONTRABAND_CLUSTERS=projects/p/topics/contraband-detections-prod=shop/europe-west1/prod"
)

// push is what a push subscription posts.
func push(t testing.TB, data []byte) string {
	t.Helper()
	body, err := json.Marshal(map[string]any{"subscription": "projects/p/subscriptions/s", "message": map[string]any{
		"data": data, "messageId": "7", "publishTime": time.Now().UTC().Format(time.RFC3339)}})
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func detection(t testing.TB) []byte {
	t.Helper()
	b, err := json.Marshal(sensorapi.Detection{Time: time.Now(), Route: sensorapi.Added, Node: "n1", Process: sensorapi.Process{Path: "/tmp/x"},
		File: sensorapi.File{SHA256: strings.Repeat("a", 64), Size: 1}, Container: sensorapi.Container{ID: "c1"}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// pubsubServer has the topics that a deployment has.
func pubsubServer(t testing.TB) *pstest.Server {
	t.Helper()
	srv := pstest.NewServer()
	t.Cleanup(func() { srv.Close() })
	t.Setenv("PUBSUB_EMULATOR_HOST", srv.Addr)
	c, err := pubsub.NewClient(t.Context(), "p")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, name := range []string{"findings", "dead-letters"} {
		if _, err := c.TopicAdminClient.CreateTopic(t.Context(), &pubsubpb.Topic{Name: "projects/p/topics/" + name}); err != nil {
			t.Fatal(err)
		}
	}
	return srv
}

// TestBuildpack: the zip is built as Google builds it, and each function that is built
// of it answers, with no more configuration than it is given.
func TestBuildpack(t *testing.T) {
	programOf := replay(t, made(t))
	srv := pubsubServer(t)
	emulator := "PUBSUB_EMULATOR_HOST=" + srv.Addr
	slack := []string{"SLACK_TOKEN=x", "SLACK_CHANNEL=C1"}
	for target, c := range map[string]struct {
		env        []string
		path, body string
		status     int
		says       string
	}{
		"Raise":    {[]string{emulator, cluster}, topic, push(t, detection(t)), http.StatusOK, ""},
		"Respond":  {append(slack, emulator), "/projects/p/topics/findings", push(t, []byte(`{"finding":{"name":"organizations/1/sources/2/findings/3","category":"OPEN_FIREWALL","state":"ACTIVE","resourceName":"//x"}}`)), http.StatusOK, ""},
		"Advance":  {slack, "/", `{"case":"0123456789abcdef"}`, http.StatusOK, `"done":true`},
		"Contain":  {nil, "/", `{"case":"0123456789abcdef","event":0}`, http.StatusUnprocessableEntity, "no claim"},
		"Interact": {[]string{"SLACK_SIGNING_SECRET=s"}, "/", `payload={}`, http.StatusUnauthorized, "signature"},
		"Casebook": {nil, "/api/cases", ``, http.StatusMethodNotAllowed, ""},
		"Sweep":    {nil, "/", ``, http.StatusOK, `"due":0`},
	} {
		t.Run(target, func(t *testing.T) {
			s := start(t, programOf(target), target, c.env...)
			status, body := s.post(t, c.path, c.body)
			if status != c.status || !strings.Contains(body, c.says) {
				t.Errorf("%d %s, want %d %q\n%s", status, body, c.status, c.says, s.log)
			}
		})
	}
	if m := srv.Messages(); len(m) != 1 || !strings.HasSuffix(m[0].Topic, "/findings") {
		t.Errorf("the detection led to %d messages", len(m))
	}
}

// BenchmarkFunctions prints what a function is before it has done anything: the
// program's size, its start to its first answer, and its memory then.
func BenchmarkFunctions(b *testing.B) {
	zip := made(b)
	programOf := replay(b, zip)
	fmt.Printf("BENCH\tthe zip %.1f MB\n", float64(len(zip))/1e6)
	srv := pubsubServer(b)
	emulator := "PUBSUB_EMULATOR_HOST=" + srv.Addr
	for _, c := range []struct {
		target, path, body string
		env                []string
	}{
		{"Raise", topic, push(b, detection(b)), []string{emulator, cluster}},
		{"Respond", "/projects/p/topics/findings", push(b, []byte(`{"finding":{"name":"organizations/1/sources/2/findings/3","category":"OPEN_FIREWALL","state":"ACTIVE","resourceName":"//x"}}`)), []string{emulator, "SLACK_TOKEN=x", "SLACK_CHANNEL=C1"}},
		{"Advance", "/", `{"case":"0123456789abcdef"}`, []string{"SLACK_TOKEN=x", "SLACK_CHANNEL=C1"}},
		{"Contain", "/", `{"case":"0123456789abcdef","event":0}`, nil},
		{"Interact", "/", `payload={}`, []string{"SLACK_SIGNING_SECRET=s"}},
		{"Casebook", "/api/cases", "", nil},
		{"Sweep", "/", "", nil},
	} {
		program := programOf(c.target)
		info, err := os.Stat(program)
		if err != nil {
			b.Fatal(err)
		}
		best, rss, own := time.Hour, 0, 0
		for range 5 {
			s := start(b, program, c.target, c.env...)
			s.post(b, c.path, c.body)
			best = min(best, time.Since(s.began))
			rss, own = max(rss, memory(b, s.pid, "VmRSS:")), max(own, memory(b, s.pid, "RssAnon:"))
		}
		fmt.Printf("BENCH\t%-9s start to first response %3d ms (goal 100, %.2fx), %.1f MB resident (goal 30, %.2fx), of which %.1f MB are its own and not the program's file, which has %.1f MB\n",
			c.target, best.Milliseconds(), best.Seconds()/0.1, float64(rss)/1024, float64(rss)/1024/30, float64(own)/1024, float64(info.Size())/1e6)
	}
}

func memory(t testing.TB, pid int, what string) (kb int) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), what)
	if _, err := fmt.Sscan(rest, &kb); err != nil {
		t.Fatal(err)
	}
	return kb
}
