package archtest

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	quoted = regexp.MustCompile("`([^`]+)`")
	link   = regexp.MustCompile(`\]\(([^)#:]+)(?:#[^)]*)?\)`)
	// path is what can only be the path of a file or folder of the module.
	path = regexp.MustCompile(`^(?:bpf|cmd|docs|functions|internal|manifests|sensor|terraform|tools|workflows)(?:/[a-z0-9_.-]+)*$`)
)

// section returns the lines of docs/architecture.md below a heading, up to the next one.
func section(t *testing.T, heading string) []string {
	t.Helper()
	page, err := os.ReadFile("../../docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	_, after, found := strings.Cut(string(page), "\n## "+heading+"\n")
	if !found {
		t.Fatalf("docs/architecture.md has no section %q", heading)
	}
	body, _, _ := strings.Cut(after, "\n## ")
	return strings.Split(body, "\n")
}

func TestEveryPackageHasARow(t *testing.T) {
	var rows []string
	for _, line := range section(t, "Packages") {
		if cell, _, ok := strings.Cut(strings.TrimPrefix(line, "| "), " |"); ok {
			for _, q := range quoted.FindAllStringSubmatch(cell, -1) {
				rows = append(rows, q[1])
			}
		}
	}
	for _, p := range list(t, "./...") {
		covered := false
		for _, row := range rows {
			covered = covered || isBelow(strings.TrimPrefix(p.ImportPath, module), row)
		}
		if !covered {
			t.Errorf("docs/architecture.md has no row for package %s", p.ImportPath)
		}
	}
	for _, row := range rows {
		if _, err := os.Stat(filepath.Join("../..", row)); err != nil {
			t.Errorf("docs/architecture.md names a package that does not exist: %v", err)
		}
	}
}

func TestWhereToChangeNamesWhatExists(t *testing.T) {
	changes := 0
	for _, line := range section(t, "Where do I change ...") {
		if strings.HasPrefix(line, "| a ") || strings.HasPrefix(line, "| an ") || strings.HasPrefix(line, "| the ") ||
			strings.HasPrefix(line, "| which ") || strings.HasPrefix(line, "| how ") || strings.HasPrefix(line, "| what ") {
			changes++
		}
		for _, q := range quoted.FindAllStringSubmatch(line, -1) {
			if _, err := os.Stat(filepath.Join("../..", q[1])); err != nil && path.MatchString(q[1]) {
				t.Error(err)
			}
		}
	}
	if changes < 10 {
		t.Errorf("%d changes, want 10 or more", changes)
	}
}

// TestLinksOfTheDocsLead follows the relative links of every page.
func TestLinksOfTheDocsLead(t *testing.T) {
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil || len(pages) == 0 {
		t.Fatalf("%d pages: %v", len(pages), err)
	}
	records, err := filepath.Glob("../../docs/decisions/*.md")
	if err != nil || len(records) < 10 {
		t.Fatalf("%d records of decisions: %v", len(records), err)
	}
	pages = append(pages, records...)
	pages = append(pages, "../../README.md", "../../CONTRIBUTING.md", "../../CHANGELOG.md")
	for _, page := range pages {
		body, err := os.ReadFile(page)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, l := range link.FindAllStringSubmatch(string(body), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), l[1])); err != nil {
				t.Errorf("%s: %v", page, err)
			}
		}
	}
}

// TestThreatModelNamesTestsThatExist: each claim of docs/security.md has a test to run.
func TestThreatModelNamesTestsThatExist(t *testing.T) {
	page, err := os.ReadFile("../../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	exist := map[string]bool{}
	err = filepath.WalkDir("../..", func(file string, _ os.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(file, "_test.go") {
			return err
		}
		text, err := os.ReadFile(file)
		for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllSubmatch(text, -1) {
			exist[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`(Test\\w+)`").FindAllSubmatch(page, -1)
	if len(named) < 40 {
		t.Errorf("only %d tests are named", len(named))
	}
	for _, m := range named {
		if !exist[string(m[1])] {
			t.Errorf("docs/security.md names %s, which does not exist", m[1])
		}
	}
}
