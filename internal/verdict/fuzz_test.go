package verdict

import (
	"strings"
	"testing"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/fake/virustotal"
)

// FuzzVirusTotal: no reply makes a program good that engines call malicious, or malicious
// without a count, and a reply that is not understood is none.
func FuzzVirusTotal(f *testing.F) {
	sum := strings.Repeat("a", 64)
	for _, stats := range []string{`{"malicious":60,"undetected":11}`, `{"malicious":0}`, `{"malicious":-1}`, `{"malicious":1e300}`, `null`, `{"malicious":"x"}`} {
		f.Add(`{"type":"file","id":"` + sum + `","attributes":{"last_analysis_stats":` + stats + `}}`)
	}
	f.Add(`17`)
	srv := virustotal.Start(f, "key")
	source, err := NewVirusTotal("key", srv.URL)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, object string) {
		srv.Report(sum, object)
		v := (Lookup{[]Source{source}}).Finding(t.Context(), of(sum))
		switch v.Level {
		case cases.Malicious, cases.Suspicious:
			if v.Label == "" || !strings.Contains(strings.ToLower(object), sum) {
				t.Errorf("%s: %+v", object, v)
			}
		case cases.NotLookedUp:
			if v.Why == "" {
				t.Errorf("%s: no reason", object)
			}
		case cases.Unknown:
		default:
			t.Errorf("%s: level %q", object, v.Level)
		}
	})
}
