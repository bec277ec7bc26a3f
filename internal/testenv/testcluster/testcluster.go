// Package testcluster starts a real Kubernetes for tests: etcd, the API server
// and the controller manager, built from source by `make deps-kubernetes`; with
// nodes that kwok simulates, or, inside namespaces of its own, a whole real node.
// What is played is Google's part (internal/fake/gke) and, on the node, the
// engine that enforces NetworkPolicies (EnforcePolicies).
package testcluster

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cloud.google.com/go/container/apiv1/containerpb"
	"golang.org/x/oauth2"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/contraband-dev/contraband/internal/contain/cluster"
	"github.com/contraband-dev/contraband/internal/fake/gke"
	"github.com/contraband-dev/contraband/internal/finding"
)

// Users as the manifests name them; each has a token of its own.
const (
	ContainUser = "contraband-contain@PROJECT.iam.gserviceaccount.com"
	RespondUser = "contraband-respond@PROJECT.iam.gserviceaccount.com"
	adminUser   = "admin"
)

// Place is where the cluster says it is.
var Place = finding.Place{Project: "shop", Location: "europe-west1", Cluster: "prod"}

// Cluster is a control plane that runs until the test ends.
type Cluster struct {
	Admin   kubernetes.Interface
	Dynamic dynamic.Interface
	Config  *rest.Config // the administrator's
	GKE     *gke.Server  // describes this cluster

	t      testing.TB
	bin    string
	dir    string
	ip     net.IP
	pki    *pki
	tokens map[string]string // by user
	stop   []func()
}

// Binaries returns the directory of the programs, or why there is none.
func Binaries() (string, error) {
	out, err := exec.Command("bash", filepath.Join(moduleRoot(), "tools/kubernetes/build.sh"), "--where").Output()
	if err != nil {
		return "", fmt.Errorf("real Kubernetes is not built: run `make deps-kubernetes` (some ten minutes, once): %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

func moduleRoot() string {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		return "."
	}
	return filepath.Dir(strings.TrimSpace(string(out)))
}

// Start starts a control plane on loopback and applies manifests/cluster. Without
// root, or the programs, the test is skipped, and says why.
func Start(t testing.TB) *Cluster {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("NOT RUN: needs root: the API server listens on port 443 of a loopback address")
	}
	bin, err := Binaries()
	if err != nil {
		t.Skipf("NOT RUN: %v", err)
	}
	return startControlPlane(t, bin, freeLoopback(t))
}

// freeLoopback is an address of 127.0.0.0/8 that others are unlikely to use: GKE
// has no port, so the API server has to be on 443.
func freeLoopback(t testing.TB) net.IP {
	for range 50 {
		b := make([]byte, 2)
		if _, err := rand.Read(b); err != nil {
			t.Fatal(err)
		}
		ip := net.IPv4(127, 77, b[0], b[1]|1)
		if l, err := net.Listen("tcp", ip.String()+":443"); err == nil {
			l.Close()
			return ip
		}
	}
	t.Fatal("no loopback address has port 443 free")
	return nil
}

func startControlPlane(t testing.TB, bin string, ip net.IP) *Cluster {
	t.Helper()
	c := &Cluster{t: t, bin: bin, dir: t.TempDir(), ip: ip, tokens: map[string]string{}}
	if err := c.start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // the API server hangs at its end when etcd has gone before it
		for i := len(c.stop) - 1; i >= 0; i-- {
			c.stop[i]()
		}
	})
	c.waitReady()
	c.Apply("manifests/cluster")
	c.describe()
	return c
}

func (c *Cluster) start() (err error) {
	if c.pki, err = newPKI(c.dir); err != nil {
		return err
	}
	for _, issued := range []error{
		c.pki.tokenKeys(), c.pki.issue("apiserver", "kube-apiserver", nil, c.ip, net.IPv4(127, 0, 0, 1), net.IPv4(10, 96, 0, 1)),
		c.pki.issue("kubelet-client", "apiserver", []string{"system:masters"}),
	} {
		if issued != nil {
			return issued
		}
	}
	users := ""
	for user, group := range map[string]string{adminUser: "system:masters", ContainUser: "", RespondUser: "", "system:node:" + NodeName: "system:nodes", "system:kube-scheduler": ""} {
		c.tokens[user] = rand.Text()
		users += fmt.Sprintf("%s,%s,%s,%q\n", c.tokens[user], user, user, group)
	}
	if err := os.WriteFile(c.path("tokens.csv"), []byte(users), 0o600); err != nil {
		return err
	}
	etcd, peer := freePort(), freePort()
	c.run("etcd", nil, "--data-dir", c.path("etcd"), "--listen-client-urls", etcd, "--advertise-client-urls", etcd, "--listen-peer-urls", peer,
		"--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer, "--unsafe-no-fsync", "--log-level", "warn")
	c.run("kube-apiserver", nil, "--etcd-servers", etcd, "--bind-address", c.ip.String(), "--advertise-address", c.ip.String(), "--secure-port", "443",
		"--endpoint-reconciler-type", map[bool]string{true: "none", false: "master-count"}[c.ip.IsLoopback()],
		"--tls-cert-file", c.path("apiserver.crt"), "--tls-private-key-file", c.path("apiserver.key"), "--client-ca-file", c.path("ca.crt"),
		"--kubelet-client-certificate", c.path("kubelet-client.crt"), "--kubelet-client-key", c.path("kubelet-client.key"),
		"--kubelet-preferred-address-types", "InternalIP", "--token-auth-file", c.path("tokens.csv"),
		"--service-account-issuer", "https://kubernetes.default.svc", "--service-account-key-file", c.path("sa.pub"), "--service-account-signing-key-file", c.path("sa.key"),
		"--service-cluster-ip-range", "10.96.0.0/16", "--authorization-mode", "Node,RBAC", "--enable-admission-plugins", "NodeRestriction",
		"--allow-privileged=true", "--profiling=false")
	c.Config = c.configFor(adminUser)
	c.Config.QPS, c.Config.Burst = 500, 1000
	if c.Admin, err = kubernetes.NewForConfig(c.Config); err != nil {
		return err
	}
	c.Dynamic, err = dynamic.NewForConfig(c.Config)
	return err
}

func (c *Cluster) path(name string) string { return filepath.Join(c.dir, name) }

// Token of a user.
func (c *Cluster) Token(user string) oauth2.TokenSource {
	return oauth2.StaticTokenSource(&oauth2.Token{AccessToken: c.tokens[user]})
}

func (c *Cluster) host() string { return "https://" + c.ip.String() }

func (c *Cluster) configFor(user string) *rest.Config {
	return &rest.Config{Host: c.host(), BearerToken: c.tokens[user], TLSClientConfig: rest.TLSClientConfig{CAData: c.pki.PEM}}
}

// kubeconfig writes one for a user, once, and returns its path: a program that was
// started before may be reading it.
func (c *Cluster) kubeconfig(user string) string {
	file := c.path(strings.ReplaceAll(user, ":", "-") + ".kubeconfig")
	if _, err := os.Stat(file); err == nil {
		return file
	}
	body := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"c","clusters":[{"name":"c","cluster":{"server":%q,"certificate-authority":%q}}],
"users":[{"name":"u","user":{"token":%q}}],"contexts":[{"name":"c","context":{"cluster":"c","user":"u"}}]}`, c.host(), c.path("ca.crt"), c.tokens[user])
	if err := os.WriteFile(file, []byte(body), 0o600); err != nil {
		c.t.Fatal(err)
	}
	return file
}

func freePort() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "http://127.0.0.1:0"
	}
	defer l.Close()
	return "http://" + l.Addr().String()
}

// run starts a program that ends with the test, at the latest with this process.
func (c *Cluster) run(program string, env []string, args ...string) *exec.Cmd {
	c.t.Helper()
	log, err := os.Create(c.path(program + ".log"))
	if err != nil {
		c.t.Fatal(err)
	}
	path := filepath.Join(c.bin, program)
	if _, err := os.Stat(path); err != nil {
		path = program // one of the machine's
	}
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr, cmd.Env = log, log, append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := cmd.Start(); err != nil {
		c.t.Fatalf("start %s: %v", program, err)
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	c.stop = append(c.stop, func() {
		cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
			cmd.Process.Kill()
			<-ended
		}
		log.Close()
		if c.t.Failed() {
			c.t.Logf("end of %s's log:\n%s", program, tail(c.path(program+".log")))
		}
	})
	return cmd
}

func tail(file string) string {
	body, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	return string(body[max(0, len(body)-1500):])
}

func (c *Cluster) waitReady() {
	c.t.Helper()
	began := time.Now()
	for time.Since(began) < time.Minute {
		body, err := c.Admin.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(c.t.Context())
		if err == nil && string(body) == "ok" {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	c.run("kube-controller-manager", nil, "--kubeconfig", c.kubeconfig(adminUser), "--service-account-private-key-file", c.path("sa.key"),
		"--root-ca-file", c.path("ca.crt"), "--leader-elect=false", "--secure-port=0",
		"--kube-api-qps=500", "--kube-api-burst=1000", // the tests' bursts are not its to slow
		"--controllers=serviceaccount-controller,serviceaccount-token-controller,root-ca-certificate-publisher-controller,namespace-controller,garbage-collector-controller,"+
			"replicaset-controller,deployment-controller,daemonset-controller,statefulset-controller,job-controller,disruption-controller,endpointslice-controller,node-lifecycle-controller")
	c.t.Logf("the API server is ready after %s", time.Since(began).Round(time.Millisecond))
}

func (c *Cluster) startScheduler() {
	c.run("kube-scheduler", nil, "--kubeconfig", c.kubeconfig("system:kube-scheduler"), "--authentication-kubeconfig", c.kubeconfig(adminUser),
		"--authorization-kubeconfig", c.kubeconfig(adminUser), "--leader-elect=false", "--secure-port=0", "--kube-api-qps=500", "--kube-api-burst=1000")
}

// describe has GKE's part describe this cluster, as GKE would.
func (c *Cluster) describe() {
	c.t.Helper()
	server, err := gke.Start()
	if err != nil {
		c.t.Fatal(err)
	}
	c.GKE = server
	c.t.Cleanup(server.Close)
	server.Put(clusterName(), &containerpb.Cluster{
		Name: Place.Cluster, Location: Place.Location, Endpoint: c.ip.String(), CurrentMasterVersion: "1.37.2-gke.1",
		ResourceLabels: map[string]string{"team": "payments"},
		MasterAuth:     &containerpb.MasterAuth{ClusterCaCertificate: base64.StdEncoding.EncodeToString(c.pki.PEM)},
		NetworkConfig:  &containerpb.NetworkConfig{DatapathProvider: containerpb.DatapathProvider_ADVANCED_DATAPATH},
	})
}

func clusterName() string {
	return fmt.Sprintf("projects/%s/locations/%s/clusters/%s", Place.Project, Place.Location, Place.Cluster)
}

// Describe changes what GKE says of the cluster.
func (c *Cluster) Describe(change func(*containerpb.Cluster)) { c.GKE.Change(clusterName(), change) }

// Finder reaches the cluster as a user, by GKE's description.
func (c *Cluster) Finder(user string, wrap func(http.RoundTripper) http.RoundTripper) *cluster.GKE {
	f := &cluster.GKE{Options: c.GKE.Options(), Tokens: c.Token(user), Wrap: wrap}
	c.t.Cleanup(func() { f.Close() })
	return f
}

// In is the cluster for a subtest: what fails there is the subtest's failure.
func (c *Cluster) In(t testing.TB) *Cluster {
	mine := *c
	mine.t, mine.stop = t, nil
	return &mine
}

// Context of the test.
func (c *Cluster) ctx() context.Context { return c.t.Context() }
