package finding

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// BenchmarkDecode compares decoding the common shape, the smallest and all of them with
// unmarshalling the same bytes into a map by encoding/json.
func BenchmarkDecode(b *testing.B) {
	for name, pattern := range map[string]string{"common": "v2.json", "smallest": "v1_properties_only.json", "all": "*.json"} {
		b.Run(name, func(b *testing.B) { besideJSON(b, readAll(b, pattern)) })
	}
}

func readAll(b *testing.B, pattern string) [][]byte {
	b.Helper()
	files, err := filepath.Glob("testdata/" + pattern)
	if err != nil || len(files) == 0 {
		b.Fatalf("no test data: %v", err)
	}
	var out [][]byte
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			b.Fatal(err)
		}
		out = append(out, raw)
	}
	return out
}

func besideJSON(b *testing.B, messages [][]byte) {
	plain := func() {
		for _, raw := range messages {
			if err := json.Unmarshal(raw, new(any)); err != nil {
				b.Fatal(err)
			}
		}
	}
	ours := func() {
		for _, raw := range messages {
			if _, err := Decode(raw); err != nil {
				b.Fatal(err)
			}
		}
	}
	var plainTime, ourTime time.Duration
	for b.Loop() {
		t0 := time.Now()
		plain()
		t1 := time.Now()
		ours()
		plainTime += t1.Sub(t0)
		ourTime += time.Since(t1)
	}
	b.ReportMetric(float64(ourTime)/float64(plainTime), "x-time-of-json")
	b.ReportMetric(testing.AllocsPerRun(100, ours)/testing.AllocsPerRun(100, plain), "x-allocs-of-json")
	b.ReportMetric(float64(ourTime.Nanoseconds())/float64(b.N)/float64(len(messages)), "decode-ns/message")
}
