// Package terraform_test applies the module with the real provider, to a loopback
// server that plays Google's APIs, and holds what comes of it to what is documented.
package terraform_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"

	"github.com/contraband-dev/contraband/internal/bundle"
	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/fake/googleapis"
	fakescc "github.com/contraband-dev/contraband/internal/fake/scc"
	"github.com/contraband-dev/contraband/internal/finding"
	"github.com/contraband-dev/contraband/internal/scc"
	"github.com/contraband-dev/contraband/internal/sensorapi"
	"github.com/contraband-dev/contraband/internal/workflowlang"
	deployed "github.com/contraband-dev/contraband/workflows"
)

// module is a copy of the project's terraform and workflows, with what uses it.
type module struct {
	t   *testing.T
	dir string // of the root that uses the module
	env []string
}

// terraform is the program, as test.sh says; without it nothing here can be tried.
func terraform(t *testing.T) string {
	t.Helper()
	program := os.Getenv("CONTRABAND_TERRAFORM")
	if program == "" {
		t.Skip("CONTRABAND_TERRAFORM is not set: run `make test-terraform`")
	}
	return program
}

const variables = `
project_id     = "acme-security"
project_number = "123456789012"
`

// use makes a root that uses the module with some arguments.
func use(t *testing.T, env []string, arguments string) *module {
	t.Helper()
	top := t.TempDir()
	for _, d := range []string{"terraform", "workflows"} {
		if err := os.CopyFS(filepath.Join(top, d), os.DirFS(filepath.Join("..", d))); err != nil {
			t.Fatal(err)
		}
	}
	m := &module{t, filepath.Join(top, "use"), env}
	if err := os.Mkdir(m.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	m.write(arguments)
	m.run("init", "-input=false")
	return m
}

func (m *module) write(arguments string) {
	m.t.Helper()
	text := `module "contraband" {
  source      = "../terraform"
  region      = "europe-west1"
  enable_apis = false
  package     = "../terraform/tests/package.zip"
  slack       = { channel = "C0123456789" }
` + variables + arguments + `
}

output "all" {
  value = module.contraband
}
`
	if err := os.WriteFile(filepath.Join(m.dir, "main.tf"), []byte(text), 0o644); err != nil {
		m.t.Fatal(err)
	}
}

// try runs terraform and returns its output.
func (m *module) try(args ...string) (string, int) {
	m.t.Helper()
	cmd := exec.CommandContext(m.t.Context(), terraform(m.t), args...)
	cmd.Dir = m.dir
	cmd.Env = append(os.Environ(), m.env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if _, ok := err.(*exec.ExitError); err != nil && !ok {
		m.t.Fatal(err)
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

func (m *module) run(args ...string) string {
	m.t.Helper()
	out, code := m.try(append([]string{args[0], "-no-color"}, args[1:]...)...)
	if code != 0 {
		m.t.Fatalf("terraform %s: exit %d\n%s", strings.Join(args, " "), code, tail(out))
	}
	return out
}

func tail(s string) string { return s[max(0, len(s)-6000):] }

// change is one of a plan.
type change struct {
	Address, Type string
	Change        struct {
		Actions []string
		After   map[string]any
	}
}

// plan returns what would change: address to actions.
func (m *module) plan() map[string]string {
	m.t.Helper()
	changes := map[string]string{}
	for _, c := range m.planned() {
		changes[c.Address] = strings.Join(c.Change.Actions, " ")
	}
	return changes
}

// offline is for plans, which need no access to anything.
var offline = []string{"GOOGLE_OAUTH_ACCESS_TOKEN=none", "HTTPS_PROXY=http://127.0.0.1:9", "HTTP_PROXY=http://127.0.0.1:9"}

// planned returns what would change.
func (m *module) planned() []change {
	m.t.Helper()
	m.run("plan", "-input=false", "-out=plan")
	var p struct {
		ResourceChanges []change `json:"resource_changes"`
	}
	cmd := exec.CommandContext(m.t.Context(), terraform(m.t), "show", "-json", "plan")
	cmd.Dir, cmd.Env = m.dir, append(os.Environ(), m.env...)
	out, err := cmd.Output()
	if err == nil {
		err = json.Unmarshal(out, &p)
	}
	if err != nil {
		m.t.Fatal(err)
	}
	return slices.DeleteFunc(p.ResourceChanges, func(c change) bool {
		a := strings.Join(c.Change.Actions, " ")
		return a == "no-op" || a == "read"
	})
}

func (m *module) apply() { m.t.Helper(); m.run("apply", "-auto-approve", "-input=false") }

const organization = `
  scope    = { organization = "123456789" }
  policy   = "rules: [{name: all, do: [page]}]"
` + common

const project = `
  scope       = { project = "acme-shop" }
  source_name = "organizations/123456789/sources/77"
  policy      = "rules: [{name: all, do: [page]}]"
` + common

const common = `
  secrets    = { slack_token = "xoxb-secret", slack_signing_secret = "s1gn1ng-value", virustotal_key = "vt-secret", channels = "pagerduty: {security: pd-secret}" }
  virustotal = true
  channels   = true
  owners     = { essential_contacts = true, project_owners = true, keys = ["example.com/on-call"] }
  indicators = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa a miner"
  exceptions = "exceptions: []"
  detector_sources = ["organizations/123456789/sources/5", "organizations/123456789/sources/6"]
  casebook   = { viewers = ["group:security@example.com"] }
  deletion_protection = false
  clusters = {
    prod = { project_id = "acme-shop", project_number = "210987654321", location = "europe-west1", name = "prod", canary = true, service_account = "contraband-sensor-b" }
  }
`

// TestWholeLife: apply, nothing left to do, what was made is what is documented; drift,
// a new package, another cluster, another scope, destroy.
func TestWholeLife(t *testing.T) {
	terraform(t)
	g := googleapis.Start()
	defer g.Close()
	defer func() {
		if t.Failed() {
			t.Log("refused by the server:\n" + strings.Join(g.Log(), "\n"))
		}
	}()
	m := use(t, g.Environment(), organization)
	m.apply()
	step := func(name string, f func(t *testing.T)) {
		if !t.Failed() {
			t.Run(name, f)
		}
	}
	step("nothing is left to do", func(t *testing.T) {
		if c := m.plan(); len(c) != 0 {
			t.Errorf("%v", c)
		}
	})
	step("rights are those documented", func(t *testing.T) {
		for _, p := range rightsWrong(t, g.Bindings()) {
			t.Error(p)
		}
	})
	step("and bounded as documented", func(t *testing.T) { bounded(t, g) })
	step("each function is built as its program", func(t *testing.T) { programs(t, g) })
	step("what a function may read it is given", func(t *testing.T) { secretsGiven(t, g) })
	step("times nest", func(t *testing.T) { timesNest(t, g) })
	step("our own escalations do not come back", func(t *testing.T) { filtered(t, g) })
	step("no secret is in the state", func(t *testing.T) {
		state, err := os.ReadFile(filepath.Join(m.dir, "terraform.tfstate"))
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range []string{"xoxb-secret", "s1gn1ng-value", "vt-secret", "pd-secret"} {
			if bytes.Contains(state, []byte(secret)) {
				t.Errorf("%s is in the state", secret)
			}
		}
	})
	step("the workflow is the one that is tested", func(t *testing.T) {
		o := g.Object("workflows projects/acme-security/locations/europe-west1/workflows/contraband-case")
		text, _ := o["sourceContents"].(string)
		if _, err := workflowlang.Parse([]byte(text)); err != nil || text != string(deployed.Case) {
			t.Errorf("%v", err)
		}
	})
	step("the manifests can be applied", func(t *testing.T) { manifests(t, m) })
	step("drift is seen and mended", func(t *testing.T) {
		const subscription = "pubsub projects/acme-security/subscriptions/contraband-findings-later"
		if err := g.Change(subscription, func(o map[string]any) { delete(o, "deadLetterPolicy") }); err != nil {
			t.Fatal(err)
		}
		if c := m.plan(); len(c) != 1 || c[`module.contraband.module.pipeline.google_pubsub_subscription.push["findings"]`] != "update" {
			t.Fatalf("%v", c)
		}
		m.apply()
		if g.Object(subscription)["deadLetterPolicy"] == nil {
			t.Error("it is not mended")
		}
	})
	step("a new package changes the functions alone", func(t *testing.T) {
		zip := filepath.Join(m.dir, "../terraform/tests/package.zip")
		body, err := os.ReadFile(zip)
		if err == nil {
			err = os.WriteFile(zip, append(body, 0), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
		c := m.plan()
		for address, action := range c {
			function := strings.Contains(address, "google_cloudfunctions2_function.this") && action == "update"
			object := address == "module.contraband.google_storage_bucket_object.package"
			if !function && !object {
				t.Errorf("%s: %s", address, action)
			}
		}
		if len(c) != 8 {
			t.Errorf("%d changes: %v", len(c), c)
		}
		if err := os.WriteFile(zip, body, 0o644); err != nil {
			t.Fatal(err)
		}
	})
	step("another cluster destroys nothing", func(t *testing.T) {
		m.write(strings.Replace(organization, "clusters = {", `clusters = {
    test = { project_id = "acme-test", project_number = "310987654321", location = "europe-west1", name = "test" }`, 1))
		for address, action := range m.plan() {
			if strings.Contains(action, "delete") {
				t.Errorf("%s: %s", address, action)
			}
		}
	})
	step("another scope keeps the cases", func(t *testing.T) {
		for _, name := range g.Names() { // the source that was made is there for ever, and is used on
			if made, ok := strings.CutPrefix(name, "scc "); ok && regexp.MustCompile(`^organizations/[0-9]+/sources/[0-9]+$`).MatchString(made) {
				m.write(strings.Replace(project, "organizations/123456789/sources/77", made, 1))
			}
		}
		c := m.plan()
		for address, action := range c {
			if strings.Contains(action, "delete") && !strings.Contains(address, "google_scc_v2_") && !strings.Contains(address, "google_organization_iam_member") && !strings.Contains(address, "scc_publishes") {
				t.Errorf("%s: %s", address, action)
			}
		}
		if c["module.contraband.google_scc_v2_project_notification_config.findings[0]"] != "create" || c["module.contraband.google_scc_v2_organization_notification_config.findings[0]"] != "delete" {
			t.Errorf("%v", c)
		}
	})
	step("and applied nothing is left to do", func(t *testing.T) {
		m.apply()
		if c := m.plan(); len(c) != 0 {
			t.Errorf("%v", c)
		}
		if g.Object("storage acme-security-contraband-cases") == nil {
			t.Error("the cases are gone")
		}
	})
	step("a destroy leaves the evidence", func(t *testing.T) {
		m.run("destroy", "-auto-approve", "-input=false")
		const bucket = "storage acme-security-contraband-cases"
		if g.Object(bucket) == nil {
			t.Error("the cases are gone")
		}
		for _, name := range g.Names() {
			kept := name == bucket || name == bucket+"-work" || strings.HasPrefix(name, "scc organizations/123456789/sources/") || strings.HasPrefix(name, "run ")
			if !kept { // a source can never be removed
				t.Errorf("left: %s", name)
			}
		}
	})
	step("what was kept is taken up again", func(t *testing.T) {
		imports := "" // as docs/install.md says
		for key, bucket := range map[string]string{"cases": "acme-security-contraband-cases", "work": "acme-security-contraband-cases-work"} {
			imports += fmt.Sprintf("import {\n  to = module.contraband.module.store.google_storage_bucket.bucket[%q]\n  id = %q\n}\n", key, "acme-security/"+bucket)
		}
		if err := os.WriteFile(filepath.Join(m.dir, "imports.tf"), []byte(imports), 0o644); err != nil {
			t.Fatal(err)
		}
		for address, action := range m.plan() {
			if bucket := strings.Contains(address, "module.store.google_storage_bucket.bucket"); bucket && action != "update" || !bucket && action != "create" {
				t.Errorf("%s: %s", address, action)
			}
		}
	})
}

// TestPlanWithoutNetwork: a plan needs no access to anything, so that it can be read
// before anybody is trusted with any.
func TestPlanWithoutNetwork(t *testing.T) {
	terraform(t)
	for name, arguments := range map[string]string{"organization": organization, "project": project, "folder": strings.Replace(project, `project = "acme-shop"`, `folder = "987654321"`, 1)} {
		t.Run(name, func(t *testing.T) {
			m := use(t, offline, arguments)
			creates := 0
			planned := m.planned()
			for _, c := range planned {
				if len(c.Change.Actions) != 1 || c.Change.Actions[0] != "create" {
					t.Errorf("%s: %v", c.Address, c.Change.Actions)
				}
				creates++
			}
			for _, w := range planWrong(t, planned) {
				t.Error(w)
			}
			if creates < 80 {
				t.Errorf("%d resources are planned", creates)
			}
		})
	}
}

// rightsWrong says where the bindings and docs/permissions.md differ.
func rightsWrong(t *testing.T, granted []googleapis.Binding) (wrong []string) {
	t.Helper()
	documented := map[string]bool{}
	for _, cells := range table(t, "| who | role |") {
		documented[strings.Join(cells[:3], " | ")] = false
	}
	for _, b := range granted {
		grant := describe(b.Member, b.Role, b.Resource)
		if _, ok := documented[grant]; !ok {
			wrong = append(wrong, grant+": granted, and not documented")
		}
		documented[grant] = true
	}
	for grant, granted := range documented {
		if !granted {
			wrong = append(wrong, grant+": documented, and not granted")
		}
	}
	return wrong
}

// table reads the rows of a table of docs/permissions.md, by how its head begins.
func table(t *testing.T, head string) (rows [][]string) {
	t.Helper()
	text, err := os.ReadFile("../docs/permissions.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), head)
	if !ok {
		t.Fatalf("docs/permissions.md has no table that begins with %s", head)
	}
	body, _, _ := strings.Cut(rest, "\n\n")
	for _, line := range strings.Split(body, "\n")[2:] { // behind the head and its rule
		cells := strings.Split(strings.Trim(line, "| "), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		rows = append(rows, cells)
	}
	return rows
}

var (
	objectPrefix = regexp.MustCompile(`/objects/([a-z]+)/"`)
	listPrefix   = regexp.MustCompile(`objectListPrefix", ""\)\.startsWith\("([a-z]+)/"\)`)
)

// bounded holds the conditions of bindings to the table of keys, and the roles of our own
// to what is written of them: a right without its bound is a wider one.
func bounded(t *testing.T, g *googleapis.Server) {
	want := map[string]string{}
	for _, cells := range table(t, "| who | may |") {
		want[strings.Join(cells[:3], " | ")] = cells[3]
	}
	got := map[string]string{}
	may := map[string]string{"roles/storage.objectViewer": "read", "roles/storage.objectCreator": "create", "roles/storage.objectUser": "create, replace, remove"}
	for _, b := range g.Bindings() {
		if !strings.HasPrefix(b.Resource, "storage ") {
			if b.Condition != "" && !strings.Contains(b.Condition, `startsWith("projects/_/buckets/gcf-v2-sources-")`) {
				t.Errorf("%s on %s: bounded by %s, which no table has", b.Role, b.Resource, b.Condition)
			}
			if b.Condition == "" && strings.HasPrefix(b.Role, "roles/storage.") {
				t.Errorf("%s: %s on the whole of %s", b.Member, b.Role, b.Resource)
			}
			continue
		}
		who, _, on := strings.Cut(describe(b.Member, b.Role, b.Resource), " | ")
		_ = on
		keys := "all"
		if b.Condition != "" {
			var prefixes []string
			for _, m := range objectPrefix.FindAllStringSubmatch(b.Condition, -1) {
				prefixes = append(prefixes, m[1])
			}
			lists := listPrefix.FindAllStringSubmatch(b.Condition, -1)
			if n := len(strings.Split(b.Condition, " || ")); len(prefixes)+len(lists) != n || len(lists) > 0 && len(lists) != len(prefixes) {
				t.Errorf("%s on %s: the condition is not understood: %s", who, b.Resource, b.Condition)
			}
			keys = strings.Join(prefixes, ", ")
		}
		bucket := map[string]string{"storage acme-security-contraband-cases": "case bucket", "storage acme-security-contraband-cases-work": "work bucket", "storage acme-security-contraband-packages": "packages bucket"}[b.Resource]
		grant := who + " | " + may[b.Role] + " | " + bucket
		if others := got[grant]; others != "" {
			keys = others + ", " + keys
		}
		got[grant] = keys
	}
	sorted := func(keys string) string {
		list := strings.Split(keys, ", ")
		slices.Sort(list)
		return strings.Join(list, ", ")
	}
	for grant, keys := range want {
		if sorted(got[grant]) != sorted(keys) {
			t.Errorf("%s: documented %q, granted %q", grant, keys, got[grant])
		}
	}
	for grant, keys := range got {
		if _, ok := want[grant]; !ok {
			t.Errorf("%s %q: granted, and not documented", grant, keys)
		}
	}
	for role, permissions := range map[string][]any{
		"acme-shop/roles/contraband_reach": {"container.clusters.connect", "container.clusters.get"}, "acme-security/roles/contraband_resume": {"workflows.callbacks.send"},
	} {
		found := false
		for _, name := range g.Names() {
			if o := g.Object(name); strings.HasSuffix(name, role) {
				found = true
				have, _ := o["includedPermissions"].([]any)
				slices.SortFunc(have, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
				if fmt.Sprint(have) != fmt.Sprint(permissions) {
					t.Errorf("%s has %v, want %v", role, have, permissions)
				}
			}
		}
		if !found {
			t.Errorf("there is no role %s among %q", role, g.Names())
		}
	}
}

// describe says a binding in the words of the table.
func describe(member, role, resource string) string {
	who := member
	account, isAccount := strings.CutPrefix(member, "serviceAccount:contraband-")
	switch {
	case isAccount:
		who, _, _ = strings.Cut(account, "@")
	case strings.Contains(member, "@gcp-sa-pubsub."):
		who = "Pub/Sub"
	case strings.Contains(member, "@gcp-sa-scc-notification."):
		who = "SCC"
	case member == "principal://iam.googleapis.com/projects/210987654321/locations/global/workloadIdentityPools/acme-shop.svc.id.goog/subject/ns/contraband/sa/contraband-sensor-b":
		who = "the sensor"
	case member == "allUsers":
		who = "anybody"
	case member == "group:security@example.com":
		who = "viewers"
	}
	api, name, _ := strings.Cut(resource, " ")
	last := strings.TrimPrefix(name[strings.LastIndex(name, "/")+1:], "contraband-")
	on := resource
	switch {
	case strings.Contains(name, "/topics/contraband-detections-"):
		on = "detections topic of its cluster"
	case strings.Contains(name, "/topics/"):
		on = last + " topic"
	case strings.Contains(name, "/subscriptions/"):
		on = "push subscription"
	case resource == "storage acme-security-contraband-cases":
		on = "case bucket"
	case resource == "storage acme-security-contraband-cases-work":
		on = "work bucket"
	case resource == "storage acme-security-contraband-packages":
		on = "packages bucket"
	case api == "registry":
		on = "repository of the images"
	case api == "secrets":
		on = "secret " + last
	case api == "run":
		on = "function " + last
	case api == "scc":
		on = "our source"
	case resource == "manager projects/acme-security":
		on = "project"
	case resource == "manager projects/acme-shop":
		on = "project of a cluster"
	case resource == "manager organizations/123456789":
		on = "scope"
	case api == "iam":
		if on, _, _ = strings.Cut(last, "@"); on == who {
			on = "itself"
		}
	}
	for _, custom := range []string{"reach", "resume"} {
		if strings.HasSuffix(role, "/roles/contraband_"+custom) {
			role = "custom: " + custom
		}
	}
	return who + " | " + role + " | " + on
}

// programs: the build of each function gets the part of the package that it serves.
func programs(t *testing.T, g *googleapis.Server) {
	built := 0
	for _, name := range g.Names() {
		build, _ := g.Object(name)["buildConfig"].(map[string]any)
		if build == nil {
			continue
		}
		built++
		env, _ := build["environmentVariables"].(map[string]any)
		if function, _ := build["entryPoint"].(string); env["GOFLAGS"] != bundle.Flags(function) {
			t.Errorf("%s is built with GOFLAGS %q, want %q", function, env["GOFLAGS"], bundle.Flags(function))
		}
	}
	if built != 7 {
		t.Errorf("%d functions are built, want 7", built)
	}
}

// secretsGiven: a function has each secret that it may read, and none that it may not.
func secretsGiven(t *testing.T, g *googleapis.Server) {
	granted, given := map[string]bool{}, map[string]bool{}
	for _, b := range g.Bindings() {
		if secret, ok := strings.CutPrefix(b.Resource, "secrets projects/acme-security/secrets/"); ok && b.Role == "roles/secretmanager.secretAccessor" {
			granted[secret+" to "+strings.TrimPrefix(b.Member, "serviceAccount:")] = true
		}
	}
	for _, name := range g.Names() {
		service, _ := g.Object(name)["serviceConfig"].(map[string]any)
		for _, form := range []string{"secretEnvironmentVariables", "secretVolumes"} {
			all, _ := service[form].([]any)
			for _, one := range all {
				secret, _ := one.(map[string]any)["secret"].(string)
				given[fmt.Sprintf("%s to %s", secret, service["serviceAccountEmail"])] = true
			}
		}
	}
	if len(granted) < 8 || !maps.Equal(granted, given) {
		t.Errorf("granted: %q\ngiven:   %q", slices.Sorted(maps.Keys(granted)), slices.Sorted(maps.Keys(given)))
	}
}

// timesNest: what is deployed is what internal/cases assumes.
func timesNest(t *testing.T, g *googleapis.Server) {
	for _, name := range g.Names() {
		o := g.Object(name)
		if c, _ := o["serviceConfig"].(map[string]any); c != nil {
			seconds, _ := c["timeoutSeconds"].(float64)
			limit := cases.FunctionTimeout
			if strings.HasSuffix(name, "-contain") {
				limit = cases.StepDeadline
			}
			if d := time.Duration(seconds) * time.Second; d > limit || d >= cases.Lease {
				t.Errorf("%s may take %s, want at most %s", name, d, limit)
			}
		}
		if o["pushConfig"] != nil {
			seconds, _ := o["ackDeadlineSeconds"].(float64)
			if d := time.Duration(seconds) * time.Second; d != cases.AckDeadline || d <= cases.Lease {
				t.Errorf("%s is delivered again after %s, want %s", name, d, cases.AckDeadline)
			}
		}
	}
}

// TestNotificationFilterIsTheClients compares the filter in the module with the one that
// the client documents and that tests apply to findings.
func TestNotificationFilterIsTheClients(t *testing.T) {
	module, err := os.ReadFile("main.tf")
	if err != nil {
		t.Fatal(err)
	}
	local := func(name string) string {
		m := regexp.MustCompile(`(?m)^ *` + name + ` += (?:local\.writes_scc \? )?("(?:[^"\\]|\\.)*")`).FindSubmatch(module)
		if m == nil {
			t.Fatalf("main.tf has no local %q", name)
		}
		text, err := strconv.Unquote(string(m[1]))
		if err != nil {
			t.Fatalf("local %q: %v", name, err)
		}
		return strings.ReplaceAll(text, "${local.source}", "organizations/1/sources/2")
	}
	classes, ours := local("filter_classes"), local("filter_ours")
	if want := scc.NotificationFilter(""); classes != want {
		t.Errorf("filter without a source\n got %s\nwant %s", classes, want)
	}
	if want := scc.NotificationFilter("organizations/1/sources/2"); classes+ours != want {
		t.Errorf("filter with a source\n got %s\nwant %s", classes+ours, want)
	}
}

// filtered gives the deployed filter to the stand-in of SCC, which applies it.
func filtered(t *testing.T, g *googleapis.Server) {
	var filter, source string
	for _, name := range g.Names() {
		if strings.Contains(name, "/notificationConfigs/") {
			c, _ := g.Object(name)["streamingConfig"].(map[string]any)
			filter, _ = c["filter"].(string)
		}
		if s, ok := strings.CutPrefix(name, "scc organizations/123456789/sources/"); ok && !strings.Contains(s, "/") {
			source = "organizations/123456789/sources/" + s + "/locations/global" // as the functions are given it
		}
	}
	var mu sync.Mutex
	told := []string{}
	server, err := fakescc.Start(fakescc.Config{File: filepath.Join(t.TempDir(), "scc.db"), Source: source, ProjectNumber: "1", Filter: filter,
		Notify: func(_ context.Context, body []byte) error {
			mu.Lock()
			defer mu.Unlock()
			all, err := finding.Decode(body)
			for _, f := range all {
				told = append(told, f.Category)
			}
			return err
		}})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	client, err := scc.NewClient(t.Context(), source, option.WithEndpoint(server.Addr), option.WithoutAuthentication(), option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	d := sensorapi.Detection{Time: time.Now(), Route: sensorapi.Added, Node: "n1", Process: sensorapi.Process{Path: "/tmp/x"}, File: sensorapi.File{SHA256: strings.Repeat("a", 64), Size: 1}, Container: sensorapi.Container{ID: "c1"}}
	_, raised, err := scc.FromDetection(d, finding.Place{Project: "p", Location: "l", Cluster: "c"}, source, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Upsert(t.Context(), raised); err != nil {
		t.Fatal(err)
	}
	raised.CanonicalName = raised.Name
	notice, err := scc.Notification("", raised, nil)
	if err != nil {
		t.Fatal(err)
	}
	all, err := finding.Decode(notice)
	if err != nil {
		t.Fatal(err)
	}
	c := cases.Case{ID: "0123456789abcdef", Decided: cases.Decided{Finding: all[0], Verdict: cases.Verdict{Level: cases.Malicious}}}
	if _, err := client.Escalate(t.Context(), c, time.Now()); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		mu.Lock()
		n := len(told)
		mu.Unlock()
		if n > 1 {
			break
		}
		if n == 1 && time.Until(end) < 4*time.Second {
			break
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if len(told) != 1 || told[0] != finding.AddedBinary {
		t.Errorf("with filter %q SCC tells of %q, want our added binary and not our escalation", filter, told)
	}
}

// manifests builds what the module says is to be applied to the cluster.
func manifests(t *testing.T, m *module) {
	var outputs struct {
		All struct {
			Value struct{ Manifests map[string]string }
		}
	}
	if err := json.Unmarshal([]byte(m.run("output", "-json")), &outputs); err != nil {
		t.Fatal(err)
	}
	text := outputs.All.Value.Manifests["prod"]
	text = strings.NewReplacer("IMAGE #", "registry.example/contraband-sensor #", "sha256:DIGEST", "sha256:"+strings.Repeat("0", 64)).Replace(text)
	top := t.TempDir()
	if err := os.CopyFS(filepath.Join(top, "manifests"), os.DirFS("../manifests")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(top, "overlay"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(top, "overlay/kustomization.yaml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), filepath.Join(top, "overlay"))
	if err != nil {
		t.Fatal(err)
	}
	out, err := built.AsYaml()
	if err != nil {
		t.Fatal(err)
	}
	all := string(out)
	for _, want := range []string{
		"projects/acme-security/topics/contraband-detections-prod", "serviceAccountName: contraband-sensor-b", "system:serviceaccount:contraband:contraband-sensor-b",
		"contraband-contain@acme-security.iam.gserviceaccount.com", "contraband-respond@acme-security.iam.gserviceaccount.com", "contraband-advance@acme-security.iam.gserviceaccount.com", "registry.example/contraband-sensor@sha256:",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("%q is not in the manifests", want)
		}
	}
	if strings.Contains(all, "PROJECT") {
		t.Error("PROJECT is left in the manifests")
	}
}

// TestBreakingItIsCaught: the module is broken on purpose, and its own tests fail.
func TestBreakingItIsCaught(t *testing.T) {
	program := terraform(t)
	for name, c := range map[string]struct{ dir, file, old, new string }{
		"no dead letters":          {"modules/pipeline", "main.tf", "  dead_letter_policy {\n    dead_letter_topic     = google_pubsub_topic.dead_letters.id\n    max_delivery_attempts = var.max_delivery_attempts\n  }\n", ""},
		"no retries":               {"modules/pipeline", "main.tf", "  retry_policy {\n    minimum_backoff = \"2s\"\n    maximum_backoff = \"600s\"\n  }\n", ""},
		"our escalations come in":  {".", "main.tf", "Execution: Added Malicious Binary Executed", "Something else"},
		"interact may write all":   {"modules/store", "main.tf", "/objects/${p}/", "/objects/"},
		"a destroy takes evidence": {"modules/store", "main.tf", `var.on_destroy == "delete" ? "DELETE" : "ABANDON"`, `"DELETE"`},
	} {
		t.Run(name, func(t *testing.T) {
			top := t.TempDir()
			for _, d := range []string{"terraform", "workflows"} {
				if err := os.CopyFS(filepath.Join(top, d), os.DirFS(filepath.Join("..", d))); err != nil {
					t.Fatal(err)
				}
			}
			file := filepath.Join(top, "terraform", c.dir, c.file)
			body, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(body), c.old) {
				t.Fatalf("%s has no %q", c.file, c.old)
			}
			if err := os.WriteFile(file, []byte(strings.ReplaceAll(string(body), c.old, c.new)), 0o644); err != nil {
				t.Fatal(err)
			}
			for _, args := range [][]string{{"init", "-backend=false"}, {"test", "-no-color"}} {
				cmd := exec.CommandContext(t.Context(), program, args...)
				cmd.Dir = filepath.Join(top, "terraform", c.dir)
				out, err := cmd.CombinedOutput()
				if args[0] == "init" && err != nil {
					t.Fatalf("%v\n%s", err, out)
				}
				if args[0] == "test" && (err == nil || !strings.Contains(string(out), "Test assertion failed")) {
					t.Errorf("nothing noticed: %v\n%s", err, tail(string(out)))
				}
			}
		})
	}
	for name, c := range map[string]struct{ file, old, new, want string }{
		"a basic role":           {"main.tf", `role    = "roles/workflows.invoker"`, `role    = "roles/editor"`, "a basic role"},
		"a wider role":           {"main.tf", `role    = "roles/workflows.invoker"`, `role    = "roles/workflows.admin"`, "not documented"},
		"a project's secrets":    {"main.tf", `role    = "roles/workflows.invoker"`, `role    = "roles/secretmanager.secretAccessor"`, "every secret of the project"},
		"an authoritative grant": {"main.tf", `resource "google_project_iam_member" "workflow_logs" {`, "resource \"google_project_iam_binding\" \"all\" {\n  project = var.project_id\n  role    = \"roles/logging.logWriter\"\n  members = []\n}\n\nresource \"google_project_iam_member\" \"workflow_logs\" {", "takes it from others"},
		"anybody reads cases":    {"main.tf", "{ for m in var.casebook.viewers : m => m }", `{ all = "allUsers" }`, "open to anybody"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := use(t, offline, organization)
			if wrong := planWrong(t, m.planned()); len(wrong) > 0 {
				t.Fatalf("before it is broken: %q", wrong)
			}
			file := filepath.Join(m.dir, "../terraform", c.file)
			body, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(body), c.old) {
				t.Fatalf("%s has no %q", c.file, c.old)
			}
			if err := os.WriteFile(file, []byte(strings.Replace(string(body), c.old, c.new, 1)), 0o644); err != nil {
				t.Fatal(err)
			}
			if wrong := planWrong(t, m.planned()); !slices.ContainsFunc(wrong, func(s string) bool { return strings.Contains(s, c.want) }) {
				t.Errorf("nothing noticed: %q", wrong)
			}
		})
	}
}

// planWrong reads a plan as whoever approves it should: what grants more than
// docs/permissions.md, takes what others have granted, or opens something to anybody.
func planWrong(t *testing.T, changes []change) (wrong []string) {
	t.Helper()
	documented := map[string]bool{}
	for _, cells := range table(t, "| who | role |") {
		documented[cells[1]] = true
	}
	for _, c := range changes {
		say := func(what string) { wrong = append(wrong, c.Address+": "+what) }
		role, _ := c.Change.After["role"].(string)
		member, _ := c.Change.After["member"].(string)
		if strings.HasSuffix(c.Type, "_iam_binding") || strings.HasSuffix(c.Type, "_iam_policy") || strings.HasSuffix(c.Type, "_iam_audit_config") {
			say("an authoritative grant: it takes it from others")
		}
		if !strings.HasSuffix(c.Type, "_iam_member") {
			continue
		}
		switch {
		case slices.Contains([]string{"roles/owner", "roles/editor", "roles/viewer"}, role):
			say(role + ": a basic role")
		case role != "" && !documented[role]: // a role of our own has no name yet
			say(role + ": it is not documented")
		}
		if role == "roles/secretmanager.secretAccessor" && c.Type != "google_secret_manager_secret_iam_member" {
			say("every secret of the project")
		}
		if open := member == "allUsers" || member == "allAuthenticatedUsers"; open && !strings.Contains(c.Address, `module.function["interact"]`) {
			say("open to anybody")
		}
	}
	return wrong
}

// TestNothingAuthoritative: the module adds members, and never says who else may do what.
func TestNothingAuthoritative(t *testing.T) {
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(name, ".tf") {
			return err
		}
		body, err := os.ReadFile(name)
		for _, forbidden := range []string{"_iam_binding\"", "_iam_policy\"", "roles/owner", "roles/editor", "roles/viewer", "event_trigger {"} {
			if strings.Contains(string(body), forbidden) {
				t.Errorf("%s has %s", name, forbidden)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
