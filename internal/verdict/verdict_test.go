package verdict

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/contraband-dev/contraband/internal/canary"
	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/fake/virustotal"
	"github.com/contraband-dev/contraband/internal/finding"
)

func of(sum string) finding.Finding { return finding.Finding{Process: finding.Process{SHA256: sum}} }

func TestListKnowsTheCanaryAndItsFile(t *testing.T) {
	bin, err := canary.Here(0)
	if err != nil {
		t.Fatal(err)
	}
	l := BuiltIn()
	bad := strings.Repeat("ab", 32)
	if err := l.add(strings.NewReader("# comment\n\n" + strings.ToUpper(bad) + " evil tool # why\n")); err != nil {
		t.Fatal(err)
	}
	j := Lookup{[]Source{l}}
	if v := j.Finding(context.Background(), of(canary.SHA256(bin))); v.Level != cases.Malicious || v.Label != canary.Label {
		t.Errorf("canary: %+v", v)
	}
	if v := j.Finding(context.Background(), of(bad)); v.Level != cases.Malicious || v.Label != "evil tool" {
		t.Errorf("listed: %+v", v)
	}
	if v := j.Finding(context.Background(), of(strings.Repeat("cd", 32))); v.Level != cases.Unknown {
		t.Errorf("not listed: %+v", v)
	}
	if v := j.Finding(context.Background(), of("")); v.Level != cases.NotLookedUp || v.Why == "" {
		t.Errorf("without a hash: %+v", v)
	}
	if err := l.add(strings.NewReader("zz evil\n")); err == nil {
		t.Error("a line without a hash is taken")
	}
}

func TestVirusTotal(t *testing.T) {
	bad, fresh, good := strings.Repeat("1", 64), strings.Repeat("2", 64), strings.Repeat("3", 64)
	srv := virustotal.Start(t, "key")
	srv.Analysed(bad, 41, 71, "miner.xmrig")
	srv.Analysed(good, 0, 70, "")
	srv.NotAnalysed(fresh)
	source, err := NewVirusTotal("key", srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	j := Lookup{[]Source{source}}
	for _, c := range []struct {
		sum   string
		level cases.Level
		label string
	}{
		{bad, cases.Malicious, "41/71 engines, miner.xmrig"},
		{good, cases.Unknown, "0/70 engines"},
		{fresh, cases.Unknown, ""},
		{strings.Repeat("4", 64), cases.Unknown, ""},
	} {
		if v := j.Finding(t.Context(), of(c.sum)); v.Level != c.level || v.Label != c.label {
			t.Errorf("%s: %+v, want %s %q", c.sum[:4], v, c.level, c.label)
		}
	}
	srv.Fail(http.StatusTooManyRequests)
	if v := j.Finding(t.Context(), of(bad)); v.Level != cases.NotLookedUp || !strings.Contains(v.Why, "429") {
		t.Errorf("over quota: %+v, want not-looked-up with the reason", v)
	}
	wrong, err := NewVirusTotal("other", srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := wrong.Lookup(t.Context(), good); err == nil || errors.Is(err, ErrUnknown) {
		t.Errorf("a wrong key: %v, want an error", err)
	}
}

// TestVirusTotalRepliesAreCheckedAndBounded: a reply that is odd is no statement that a file
// is unknown.
func TestVirusTotalRepliesAreCheckedAndBounded(t *testing.T) {
	sum := strings.Repeat("a", 64)
	object := func(id, stats string) string {
		return `{"type":"file","id":"` + id + `","attributes":{"last_analysis_stats":` + stats + `}}`
	}
	for name, c := range map[string]struct {
		object string
		level  cases.Level
		why    string
	}{
		"no harmless":          {object(sum, `{"malicious":60,"suspicious":0,"undetected":11}`), cases.Malicious, ""},
		"only malicious":       {object(sum, `{"malicious":60}`), cases.Malicious, ""},
		"numbers with a point": {object(sum, `{"malicious":60.0,"undetected":1.1e1}`), cases.Malicious, ""},
		"ID in upper case":     {object(strings.ToUpper(sum), `{"malicious":60}`), cases.Malicious, ""},
		"nobody has looked":    {object(sum, `{"malicious":0,"suspicious":0,"undetected":0,"harmless":0}`), cases.Unknown, ""},
		"no statistics":        {object(sum, `null`), cases.Unknown, ""},
		"another file":         {object(strings.Repeat("b", 64), `{"malicious":0,"undetected":70}`), cases.NotLookedUp, "another file"},
		"a word for a count":   {object(sum, `{"malicious":"many","undetected":70}`), cases.NotLookedUp, "not a number"},
		"a negative count":     {object(sum, `{"malicious":-60,"undetected":70}`), cases.NotLookedUp, "no count"},
		"a huge count":         {object(sum, `{"malicious":1e300,"undetected":70}`), cases.NotLookedUp, "no count"},
		"9 MB of statistics":   {object(sum, `{"malicious":0,"undetected":70,"x":"`+strings.Repeat("x", 9<<20)+`"}`), cases.NotLookedUp, "larger than"},
		"not an object at all": {`17`, cases.NotLookedUp, "json"},
	} {
		srv := virustotal.Start(t, "key")
		srv.Report(sum, c.object)
		source, err := NewVirusTotal("key", srv.URL)
		if err != nil {
			t.Fatal(err)
		}
		if v := (Lookup{[]Source{source}}).Finding(t.Context(), of(sum)); v.Level != c.level || !strings.Contains(v.Why, c.why) || (v.Why == "") != (c.why == "") {
			t.Errorf("%s: %+v, want %s with the reason %q", name, v, c.level, c.why)
		}
	}
}
