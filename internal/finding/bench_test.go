package finding

import (
	"encoding/json"
	"os"
	"testing"
	"time"
)

// BenchmarkDecode prints, for two shapes, what decoding costs beside
// encoding/json's unmarshalling of the same bytes into a map, in the same run.
func BenchmarkDecode(b *testing.B) {
	for _, name := range []string{"v2", "v1_properties_only"} {
		b.Run(name, func(b *testing.B) {
			raw, err := os.ReadFile("testdata/" + name + ".json")
			if err != nil {
				b.Fatal(err)
			}
			plain := func() {
				var m map[string]any
				if err := json.Unmarshal(raw, &m); err != nil {
					b.Fatal(err)
				}
			}
			ours := func() {
				if _, err := Decode(raw); err != nil {
					b.Fatal(err)
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
			b.ReportMetric(float64(ourTime.Nanoseconds())/float64(b.N), "decode-ns")
		})
	}
}
