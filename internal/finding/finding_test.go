package finding

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestDecodesEachShape compares what is decoded of each shape with its golden file.
func TestDecodesEachShape(t *testing.T) {
	files, err := filepath.Glob("testdata/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no test data: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got, err := Decode(raw)
			if err != nil {
				t.Fatal(err)
			}
			text, err := json.MarshalIndent(got, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(text, []byte("hunter2")) {
				t.Error("a secret was decoded")
			}
			golden := strings.TrimSuffix(file, ".json") + ".golden"
			if *update {
				if err := os.WriteFile(golden, append(text, '\n'), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil || string(want) != string(text)+"\n" {
				t.Errorf("%s differs (%v); got\n%s", golden, err, text)
			}
		})
	}
}

func TestErrorsNameTheirOutcome(t *testing.T) {
	for in, want := range map[string]error{
		``:                            ErrMalformed,
		"\xef\xbb\xbf{\"a\": 1}":      ErrNoFinding, // a byte order mark
		`{`:                           ErrMalformed,
		`{} {}`:                       ErrMalformed,
		`nonsense`:                    ErrMalformed,
		`null`:                        ErrNoFinding,
		`[]`:                          ErrNoFinding,
		`{"finding": {}}`:             ErrNoFinding,
		`{"finding": {"name": "x"}}`:  ErrNoFinding,
		`{"jsonPayload": {"a": 1}}`:   ErrNoFinding,
		`{"finding": "text"}`:         ErrNoFinding,
		`{"listFindingsResults": []}`: ErrNoFinding,
		`{"name": "a", "category": "Reverse Shell"}`: ErrNoProject,
		strings.Repeat("[", 20000):                   ErrMalformed,
	} {
		if got, err := Decode([]byte(in)); !errors.Is(err, want) {
			t.Errorf("%.40q: %v, %v; want %v", in, got, err, want)
		}
	}
	if _, err := Decode(make([]byte, MaxBytes+1)); !errors.Is(err, ErrMalformed) {
		t.Errorf("too large: %v", err)
	}
}

func TestDecodesPayloadOfLogEntry(t *testing.T) {
	raw, err := os.ReadFile("testdata/v2.json")
	if err != nil {
		t.Fatal(err)
	}
	direct, err := Decode(raw)
	if err != nil {
		t.Fatal(err)
	}
	exported, err := Decode([]byte(`{"insertId": "x", "logName": "projects/p/logs/scc", "jsonPayload": ` + string(raw) + `}`))
	if err != nil || len(exported) != 1 || exported[0].Key() != direct[0].Key() {
		t.Errorf("%+v, %v", exported, err)
	}
}

func TestKeyChangesWithStateButNotWithMarks(t *testing.T) {
	base := Finding{CanonicalName: "projects/1/f", Category: AddedBinary, State: "ACTIVE", EventTime: time.Unix(1, 0)}
	seen := map[string]string{base.Key(): "base"}
	for name, change := range map[string]func(*Finding){
		"event time": func(f *Finding) { f.EventTime = time.Unix(2, 0) },
		"state":      func(f *Finding) { f.State = "INACTIVE" },
		"mute":       func(f *Finding) { f.Mute = "MUTED" },
		"deleted":    func(f *Finding) { f.Deleted = true },
		"name":       func(f *Finding) { f.CanonicalName = "projects/1/g" },
	} {
		f := base
		change(&f)
		if other, taken := seen[f.Key()]; taken {
			t.Errorf("%s: same key as %s", name, other)
		}
		seen[f.Key()] = name
	}
	marked := base
	marked.Severity, marked.Description, marked.CreateTime = "HIGH", "changed", time.Now()
	if marked.Key() != base.Key() {
		t.Error("a mark changes the key: each of our own updates would be delivered as a new finding")
	}
}

// FuzzDecode checks that any input gives valid findings or an error that names its outcome.
func FuzzDecode(f *testing.F) {
	files, err := filepath.Glob("testdata/*.json")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		all, err := Decode(in)
		if err != nil {
			if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrNoFinding) && !errors.Is(err, ErrNoProject) {
				t.Errorf("error of no known outcome: %v", err)
			}
			return
		}
		for _, f := range all {
			if f.Name == "" || f.Category == "" || f.CanonicalName == "" {
				t.Errorf("finding without name or category: %+v", f)
			}
			if f.Process.SHA256 != "" && !isSHA256(f.Process.SHA256) {
				t.Errorf("sha256 %q", f.Process.SHA256)
			}
			if len(f.Key()) != 64 || len(f.CaseKey()) != 16 {
				t.Errorf("keys %q %q", f.Key(), f.CaseKey())
			}
			if _, err := json.Marshal(f); err != nil {
				t.Error(err)
			}
		}
	})
}
