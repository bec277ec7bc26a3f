package local

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/cases/caselog"
	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/internal/incidents/incidentlog"
	"github.com/contraband-dev/contraband/internal/testenv/containers"
	"github.com/contraband-dev/contraband/internal/testenv/containers/containertest"
	"github.com/contraband-dev/contraband/sensor"
)

// noiseRow is a workload that no person should be paged about more than once.
type noiseRow struct {
	name   string
	script string   // for sh, in a container
	mounts []string // in ctr's form; CONFIG is a ConfigMap volume
	server bool     // it must cause no message at all
	// findings are published instead of running a script: a machine has no cluster.
	findings func() []string
}

// prepareImage makes the image's upper layer: what the rows need and this machine has not.
const prepareImage = `set -e
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends redis-server nginx-light php-cli ruby >/dev/null
mkdir -p /opt/jni /opt/hello && cd /opt/jni
cat >J.java <<'J'
public class J { static native int f(); static { System.load("/opt/jni/libj.so"); }
  public static void main(String[] a) { long n = 0; for (int i = 0; i < 50_000_000; i++) n += i; System.out.println(f() + n); } }
J
javac -h . J.java
printf '#include "J.h"\nJNIEXPORT jint JNICALL Java_J_f(JNIEnv *e, jclass c) { return 7; }\n' >j.c
home=$(dirname $(dirname $(readlink -f $(command -v javac))))
gcc -shared -fPIC -I$home/include -I$home/include/linux -o libj.so j.c
curl -fsS http://deb.debian.org/debian/pool/main/h/hello/hello_2.10.orig.tar.gz | tar -xz -C /opt/hello --strip-components 1
`

var noiseRows = []noiseRow{
	{name: "postgres: initdb, start, a query, stop", server: true, script: `d=$(mktemp -d); chown postgres $d; b=/usr/lib/postgresql/15/bin
su postgres -c "$b/initdb -D $d >/dev/null && $b/pg_ctl -D $d -o '-p 6543 -k /tmp' -w start && $b/psql -h /tmp -p 6543 -c 'select 1' && $b/pg_ctl -D $d stop"`},
	{name: "redis: start, set, get, stop", server: true, script: `redis-server --port 6399 --save '' --daemonize yes; sleep 1; redis-cli -p 6399 set a b; redis-cli -p 6399 get a; redis-cli -p 6399 shutdown`},
	{name: "nginx: start, a request, stop", server: true, script: `echo 'pid /tmp/n.pid; events {} http { server { listen 8089; return 200 ok; } }' >/tmp/n.conf; nginx -c /tmp/n.conf; curl -s localhost:8089; nginx -c /tmp/n.conf -s quit`},
	{name: "php", server: true, script: `php -r 'echo md5("a");'`},
	{name: "ruby", server: true, script: `ruby -e 'require "json"; puts JSON.dump([1])'`},
	{name: "java with a JNI library", server: true, script: `cd /opt/jni && java J`},
	{name: "node: a server, a request", server: true, script: `node -e 'const s=require("http").createServer((q,r)=>r.end("ok")).listen(8088,()=>fetch("http://localhost:8088").then(r=>r.text()).then(t=>{console.log(t);process.exit()}))'`},
	{name: "apt-get install of five packages, and their use", script: `export DEBIAN_FRONTEND=noninteractive; apt-get update -qq; apt-get install -y -qq --no-install-recommends jq sqlite3 tree bc zip >/dev/null
jq -n 1; sqlite3 :memory: 'select 1'; tree -L 1 /opt; echo 1+1 | bc; cd /tmp && zip -q a.zip /etc/hostname`},
	{name: "python: venv, pip install of a package with a command, the command", script: `mkdir -p /tmp/p/greet && cd /tmp/p && echo 'def main(): print(1)' >greet/__init__.py
echo 'from setuptools import setup; setup(name="greet", version="1", packages=["greet"], entry_points={"console_scripts": ["greet=greet:main"]})' >setup.py
/usr/bin/python3 -m venv /tmp/v
/tmp/v/bin/pip install -q --no-build-isolation --no-index /tmp/p
/tmp/v/bin/greet`},
	{name: "npm install of mocha, esbuild, typescript, test and build", script: `mkdir /tmp/n && cd /tmp/n
npm init -y >/dev/null
npm install mocha esbuild typescript
mkdir test && echo 'it("works", () => {})' >test/a.js
npx mocha
npx esbuild test/a.js --bundle --outfile=o.js
npx tsc --version`},
	{name: "go build, run and test of five packages", script: `mkdir -p /tmp/g && cd /tmp/g && export HOME=/tmp GOFLAGS= GOPROXY=off PATH=$PATH:/usr/local/go/bin && go mod init g 2>/dev/null
echo 'package main
func main() { println(1) }' >main.go
for p in a b c d e; do mkdir $p; echo "package $p" >$p/$p.go; printf 'package %s\nimport "testing"\nfunc TestX(t *testing.T) {}\n' $p >$p/x_test.go; done
go build -o bin . && ./bin && go run . && go test ./...`},
	{name: "configure, make, make check of GNU hello", script: `cp -a /opt/hello /tmp/hello && cd /tmp/hello && export FORCE_UNSAFE_CONFIGURE=1 && { ./configure -q || { tail -n 40 config.log; false; }; } && make -s && make -s check`},
	{name: "an entrypoint from a ConfigMap", mounts: []string{"CONFIG"}, script: `/etc/hooks/pre.sh; /etc/hooks/pre.sh`},
	{name: "an init container that copies two tools to an emptyDir, and their use", mounts: []string{"type=tmpfs,src=tmpfs,dst=/tools,options=mode=755"},
		script: `cp /usr/bin/curl /usr/bin/git /tools/ && /tools/curl --version >/dev/null && /tools/git --version`},
	{name: "20 replicas of a Deployment that run the same (findings)", findings: func() []string {
		return podFindings(20, func(n int) (string, string) { return "web-7d9f6c4b5-" + letters(n), `"pod-template-hash": "7d9f6c4b5"` })
	}},
	{name: "10 bare CI pods of one image (findings)", findings: func() []string {
		return podFindings(10, func(n int) (string, string) { return fmt.Sprintf("runner-%08x", 7919*n), `"ci": "yes"` })
	}},
	{name: "10 runs of a CronJob (findings)", findings: func() []string {
		return podFindings(10, func(n int) (string, string) {
			job := fmt.Sprintf("report-%d", 29_000_000+n)
			return job + "-" + letters(n), `"batch.kubernetes.io/job-name": "` + job + `"`
		})
	}},
}

func letters(n int) string {
	const safe = "bcdfghjklm"
	return strings.Repeat(string(safe[n/10%10]), 4) + string(safe[n%10])
}

// podFindings returns notifications about the same bytes in n pods.
func podFindings(n int, pod func(int) (name, labels string)) (out []string) {
	for i := range n {
		name, labels := pod(i)
		key, _, _ := strings.Cut(strings.Trim(labels, `"`), `"`)
		_, value, _ := strings.Cut(labels, `: "`)
		out = append(out, fmt.Sprintf(`{"finding": {"name": "organizations/1/sources/4501/findings/%s", "category": "Added Binary Executed", "state": "ACTIVE", "eventTime": %q,
  "resourceName": "//container.googleapis.com/projects/shop/zones/europe-west1-b/clusters/prod",
  "kubernetes": {"pods": [{"ns": "shop", "name": %q, "labels": [{"name": %q, "value": %q}], "containers": [{"name": "app", "uri": "ghcr.io/acme/app:1"}]}]},
  "processes": [{"binary": {"path": "/tmp/tool", "sha256": %q, "size": "1", "hashedSize": "1"}}]}}`,
			name, time.Now().UTC().Format(time.RFC3339), name, key, strings.TrimSuffix(value, `"`), strings.Repeat("d", 64)))
	}
	return out
}

// noiseCount is what one row caused.
type noiseCount struct {
	detections, programs, cases, before, incidents, messages, digest int
}

var noiseRowsFlag = flag.String("noise.rows", "", "regular expression of the rows of BenchmarkNoise to run; empty: all")

// BenchmarkNoise prints the table of docs/noise.md. The image of its containers is this
// machine's root filesystem with what prepareImage adds, as two lower layers of an overlay.
func BenchmarkNoise(b *testing.B) {
	runtime := containertest.Start(b)
	base := b.TempDir()
	b.Cleanup(func() { _ = syscall.Unmount(base, syscall.MNT_DETACH) })
	if err := prepareLayer(b.Context(), base); err != nil {
		b.Fatal(err)
	}
	fmt.Println("BENCH\t| workload | detections | programs | pages before | cases | incidents | messages | lines of a digest |\nBENCH\t|---|---|---|---|---|---|---|---|")
	for n, row := range noiseRows {
		if !regexp.MustCompile(*noiseRowsFlag).MatchString(row.name) {
			continue
		}
		c, err := runNoise(b, runtime, base, n, row)
		if err != nil {
			b.Errorf("%s: %v", row.name, err)
			fmt.Fprintln(os.Stderr, row.name, err)
			fmt.Printf("BENCH\t| %s | it failed | | | | | | |\n", row.name)
			continue
		}
		fmt.Printf("BENCH\t| %s | %d | %d | %d | %d | %d | %d | %d |\n", row.name, c.detections, c.programs, c.before, c.cases, c.incidents, c.messages, c.digest)
		if c.messages > 1 || row.server && c.messages > 0 {
			b.Errorf("%s: %d messages", row.name, c.messages)
		}
	}
}

// prepareLayer makes the image's upper layer below dir, before any sensor runs.
func prepareLayer(ctx context.Context, dir string) error {
	// A layer must not lie within another: "/" is one as well.
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=3g,mode=755"); err != nil {
		return err
	}
	root, unmount, err := overlay(dir, "/")
	if err != nil {
		return err
	}
	defer unmount()
	mounts := fmt.Sprintf("mount -t proc proc %[1]s/proc; mount -t tmpfs tmpfs %[1]s/run; mount --rbind /dev %[1]s/dev; ", root)
	cmd := exec.CommandContext(ctx, "unshare", "--mount", "sh", "-c", mounts+`exec chroot "$0" sh -c "$1"`, root, prepareImage)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("prepare the image: %w: %s", err, out)
	}
	return nil
}

// overlay mounts an overlay with an upper layer below dir.
func overlay(dir, lower string) (root string, unmount func(), err error) {
	for _, name := range []string{"upper", "work", "root"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			return "", nil, err
		}
	}
	root = filepath.Join(dir, "root")
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", lower, dir, dir)
	if err := syscall.Mount("overlay", root, "overlay", 0, options); err != nil {
		return "", nil, fmt.Errorf("mount overlay %q: %w", options, err)
	}
	return root, func() { _ = syscall.Unmount(root, syscall.MNT_DETACH) }, nil
}

// runNoise runs one row beside a pipeline of its own, and counts what it caused.
func runNoise(b *testing.B, runtime *containers.Runtime, base string, n int, row noiseRow) (c noiseCount, err error) {
	m, err := Start(b.Context(), Config{Dir: b.TempDir(), Sensor: &sensor.Config{Containerd: []string{runtime.Socket}}})
	if err != nil {
		return c, err
	}
	defer m.Close()
	client := Client{URL: m.URL, Token: m.Token}
	if row.findings != nil {
		for _, body := range row.findings() {
			id, err := client.Publish(b.Context(), []byte(body))
			if err == nil {
				_, err = client.Outcome(b.Context(), id)
			}
			if err != nil {
				return c, err
			}
			c.detections++
		}
	} else if err := runScript(b, runtime, base, n, row); err != nil {
		return c, err
	}
	return count(b.Context(), m, c)
}

func runScript(b *testing.B, runtime *containers.Runtime, base string, n int, row noiseRow) error {
	root, unmount, err := overlay(b.TempDir(), filepath.Join(base, "upper")+":/")
	if err != nil {
		return err
	}
	defer unmount()
	mounts := row.mounts
	if len(mounts) > 0 && mounts[0] == "CONFIG" {
		volume, err := configMap(b.TempDir())
		if err != nil {
			return err
		}
		mounts = []string{"type=bind,src=" + volume + ",dst=/etc/hooks,options=rbind:ro"}
	}
	ctx, cancel := context.WithTimeout(b.Context(), 3*time.Minute)
	defer cancel()
	_, err = runtime.RunRootFS(ctx, fmt.Sprintf("noise-%d", n), root, environment(), mounts, "/bin/sh", "-c", "set -e\n"+row.script)
	return err
}

// environment returns what package managers need to reach their registries from here.
func environment() (out []string) {
	reach := regexp.MustCompile(`(?i)^(pip_|npm_|go(proxy|sum)|\w*(proxy|cert|ca_bundle|cainfo))`)
	for _, e := range os.Environ() {
		if reach.MatchString(e) {
			out = append(out, e)
		}
	}
	return append(out, "HOME=/root", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
}

// configMap makes a volume as the kubelet does: the keys are links into a hidden directory.
func configMap(dir string) (string, error) {
	version := filepath.Join(dir, "..2026_11_25_10_00_00.1234567890")
	if err := os.Mkdir(version, 0o755); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(version, "pre.sh"), []byte("#!/bin/sh\necho ok\n"), 0o755); err != nil {
		return "", err
	}
	if err := os.Symlink(filepath.Base(version), filepath.Join(dir, "..data")); err != nil {
		return "", err
	}
	return dir, os.Symlink("..data/pre.sh", filepath.Join(dir, "pre.sh"))
}

// count waits until everything detected is reported, and counts.
func count(ctx context.Context, m *Machine, c noiseCount) (noiseCount, error) {
	log := &caselog.Store{Objects: m.store, Lease: cases.Lease}
	for stable, last := 0, -1; stable < 6; time.Sleep(500 * time.Millisecond) {
		st, err := m.sensor.Stats()
		if err != nil {
			return c, err
		}
		findings, err := m.store.List(ctx, "occurrences/")
		if err != nil {
			return c, err
		}
		if now := int(st.Detected) + st.Spooled + int(st.Unread) + len(findings); now == last {
			stable++
		} else {
			stable, last = 0, now
		}
		c.detections = max(c.detections, int(st.Detected))
	}
	earlier := map[string]bool{}
	keys, err := m.store.List(ctx, "occurrences/")
	if err != nil {
		return c, err
	}
	for _, key := range keys {
		var f finding.Finding
		body, err := m.store.Read(ctx, key)
		if err == nil && len(body) > 0 && json.Unmarshal(body, &f) == nil && f.Category != "" {
			earlier[f.EarlierCaseKey()] = true
		}
	}
	ids, err := log.Incidents(ctx)
	if err != nil {
		return c, err
	}
	for _, id := range ids {
		i, err := incidentlog.Read(ctx, log, id)
		if err != nil {
			return c, err
		}
		c.incidents++
		c.cases += len(i.Cases) + i.MoreCases
		c.programs += len(i.Programs())
		if i.Queued != nil {
			c.digest++
		}
	}
	messages, err := m.slack.Messages()
	c.before, c.messages = len(earlier), len(messages)
	return c, err
}
