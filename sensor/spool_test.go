package sensor

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/contraband-dev/contraband/internal/sensorapi"
)

func spoolOf(t *testing.T, max, n int) *spool {
	t.Helper()
	s, err := openSpool(filepath.Join(t.TempDir(), "s.db"), max)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	})
	for i := range n {
		d := sensorapi.Detection{Time: time.Now(), Process: sensorapi.Process{Path: fmt.Sprintf("/p%03d", i)}, Container: sensorapi.Container{ID: "c"}}
		if added, err := s.add(d, home{}, fmt.Appendf(nil, "k%d", i)); i < max && (err != nil || !added) {
			t.Fatal(err)
		}
	}
	return s
}

// TestOnePoisonedDetectionHoldsUpNoOther, over several rounds.
func TestOnePoisonedDetectionHoldsUpNoOther(t *testing.T) {
	s := spoolOf(t, 1000, drainRound+20)
	var (
		mu  sync.Mutex
		got []string
	)
	poison := errors.New("refused")
	send := func(body []byte, _ sensorapi.Priority) error {
		mu.Lock()
		defer mu.Unlock()
		if strings.Contains(string(body), `"/p003"`) {
			return poison
		}
		got = append(got, string(body))
		return nil
	}
	if err := s.drain(send); !errors.Is(err, poison) {
		t.Errorf("error %v", err)
	}
	if s.waiting() != 1 || len(got) != drainRound+19 {
		t.Errorf("%d wait, %d were sent", s.waiting(), len(got))
	}
	slices.Sort(got)
	if compact := slices.Compact(slices.Clone(got)); len(compact) != len(got) {
		t.Errorf("%d were sent twice", len(got)-len(compact))
	}
}

func TestFullSpoolRefusesAndCounts(t *testing.T) {
	s := spoolOf(t, 5, 8)
	if s.waiting() != 5 || s.takeOverflow() != 3 || s.takeOverflow() != 0 || s.overflowed.Load() != 3 {
		t.Errorf("%d wait, %d refused in all", s.waiting(), s.overflowed.Load())
	}
}

func TestFloodOfOneContainerDelaysNoOther(t *testing.T) {
	s := spoolOf(t, 1000, 800)
	add := func(d sensorapi.Detection) error {
		d.Time = time.Now()
		_, err := s.add(d, home{}, fmt.Append(nil, d.Process.Path))
		return err
	}
	if err := add(sensorapi.Detection{Process: sensorapi.Process{Path: "/copy"}, SameAs: "/bin/sh", Container: sensorapi.Container{ID: "other"}}); err != nil {
		t.Fatal(err)
	}
	if err := add(sensorapi.Detection{Process: sensorapi.Process{Path: "/malware"}, Container: sensorapi.Container{ID: "other"}}); err != nil {
		t.Fatal(err)
	}
	_, bodies, err := s.next(nil)
	if err != nil || len(bodies) < firstOfContainer+1 || !strings.Contains(string(bodies[firstOfContainer]), "/malware") {
		t.Errorf("the detection of another container is not sent first: %v", err)
	}
	var (
		mu    sync.Mutex
		first []string
	)
	err = s.drain(func(body []byte, p sensorapi.Priority) error {
		mu.Lock()
		defer mu.Unlock()
		if p == sensorapi.First {
			first = append(first, string(body))
		}
		return nil
	})
	if err != nil || s.waiting() != 0 {
		t.Errorf("%d wait: %v", s.waiting(), err)
	}
	if len(first) != firstOfContainer+1 || !slices.ContainsFunc(first, func(d string) bool { return strings.Contains(d, "/malware") }) {
		t.Errorf("%d detections were sent with priority, want %d of the flood and /malware: %q", len(first), firstOfContainer, first)
	}
	if s.room(laterClass) >= s.room(firstClass) {
		t.Error("a flood fills the whole spool")
	}
}

// TestDamagedSpoolIsToldAndForgotten: a sensor whose spool was damaged starts, says so once,
// and publishes what could be read.
func TestDamagedSpoolIsToldAndForgotten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.db")
	s, err := openSpool(path, 1000)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 300 {
		d := sensorapi.Detection{Time: time.Now(), Process: sensorapi.Process{Path: fmt.Sprintf("/p%03d", i)}, Container: sensorapi.Container{ID: "c"}}
		if _, err := s.add(d, home{}, fmt.Appendf(nil, "k%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	body, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for page := range len(body) / os.Getpagesize() {
		damaged := slices.Clone(body)
		clear(damaged[page*os.Getpagesize() : (page+1)*os.Getpagesize()])
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := openSpool(path, 1000)
		if err != nil {
			t.Fatalf("page %d: %v", page, err)
		}
		if s.damage == nil {
			if err := s.close(); err != nil {
				t.Error(err)
			}
			continue
		}
		found++
		sensor := &Sensor{cfg: Config{Node: "n", Log: slog.New(slog.DiscardHandler)}, spool: s}
		if err := sensor.tellDamage(); err != nil {
			t.Error(err)
		}
		var mu sync.Mutex
		told, sent := 0, 0
		err = s.drain(func(body []byte, _ sensorapi.Priority) error {
			mu.Lock()
			defer mu.Unlock()
			sent++
			if strings.Contains(string(body), sensorapi.RecordDamaged) {
				told++
			}
			return nil
		})
		if err != nil || told != 1 {
			t.Errorf("page %d: told %d times, %d sent, %v", page, told, sent, err)
		}
		if err := s.close(); err != nil {
			t.Error(err)
		}
	}
	if found < 5 {
		t.Errorf("only %d damages were found", found)
	}
}
