package sensor

import (
	"fmt"
	"strings"

	"github.com/contraband-dev/contraband/bpf"
	"github.com/contraband-dev/contraband/internal/sensorapi"
)

// Tier says how much of the sensor is to be loaded.
type Tier int

// The tiers that can be asked for.
const (
	// DefaultTiers is what the kernel takes; fanotify only where the kernel does not hash.
	DefaultTiers Tier = iota
	// AllTiers is fanotify besides: it keeps what unlinks itself for the evidence.
	AllTiers
	// CoreTier is nothing but what every supported kernel takes.
	CoreTier
)

// Tiers by the names that people give them.
var Tiers = map[string]Tier{"default": DefaultTiers, "all": AllTiers, "core": CoreTier}

// Coverage is what this sensor can see on this kernel, found out by loading.
type Coverage struct {
	LSM      bool // BPF LSM: scripts as files, libraries, programs given to a loader
	IMA      bool // the kernel hashes what runs, before it runs
	Fanotify bool // files on overlays stay open until they are hashed
	Missing  []string
}

// Routes are all the routes that can be reported, each with whether it is seen here
// and how well: "" for not at all.
func (c Coverage) Routes() map[sensorapi.Route]string {
	hash := "hashed unless the process unlinks its file and ends at once"
	other := hash
	switch {
	case c.IMA:
		hash, other = "hashed before it runs", "hashed before it runs"
	case c.Fanotify:
		hash = "hashed, also when it unlinks itself and ends at once"
	}
	out := map[sensorapi.Route]string{
		sensorapi.Added: hash, sensorapi.Modified: hash, sensorapi.Deleted: other,
		sensorapi.Volume: other, sensorapi.Memory: other, sensorapi.Nested: other,
		sensorapi.Script: "found by name: one that is gone before it is looked at is counted, not told",
	}
	if c.LSM {
		out[sensorapi.Script], out[sensorapi.Loader], out[sensorapi.Library] = hash, hash, hash
	}
	return out
}

// Tiers names the tiers that are on.
func (c Coverage) Tiers() string {
	on := []string{"core"}
	for _, t := range []struct {
		on   bool
		name string
	}{{c.LSM, "LSM"}, {c.IMA, "IMA"}, {c.Fanotify, "fanotify"}} {
		if t.on {
			on = append(on, t.name)
		}
	}
	return strings.Join(on, "+")
}

// String says it in a line.
func (c Coverage) String() string {
	s := "tiers " + c.Tiers()
	if len(c.Missing) > 0 {
		s += "; not here: " + strings.Join(c.Missing, "; ")
	}
	return s
}

func coverageOf(t bpf.Tiers, o *openedFiles) Coverage {
	c := Coverage{LSM: t.LSM, IMA: t.IMA, Fanotify: o.on()}
	for _, why := range []string{t.WhyNot, o.whyNot} {
		if why != "" {
			c.Missing = append(c.Missing, why)
		}
	}
	return c
}

// Coverage of this sensor.
func (s *Sensor) Coverage() Coverage {
	t := s.kernel.Tiers
	if s.noIMA.Load() {
		t.IMA = false
		t.WhyNot = strings.TrimPrefix(t.WhyNot+"; IMA: "+errNoIMA.Error(), "; ")
	}
	return coverageOf(t, s.opened.Load())
}

// AllRoutes in the order in which people read them.
var AllRoutes = []sensorapi.Route{sensorapi.Added, sensorapi.Modified, sensorapi.Volume, sensorapi.Memory, sensorapi.Deleted, sensorapi.Nested, sensorapi.Script, sensorapi.Loader, sensorapi.Library}

// Table is the coverage for people, one route a line.
func (c Coverage) Table() string {
	var b strings.Builder
	fmt.Fprintf(&b, "tiers: %s\n", c.Tiers())
	routes := c.Routes()
	for _, r := range AllRoutes {
		how := routes[r]
		if how == "" {
			how = "NOT SEEN on this kernel"
		}
		fmt.Fprintf(&b, "  %-9s %s\n", r, how)
	}
	for _, m := range c.Missing {
		fmt.Fprintf(&b, "missing: %s\n", m)
	}
	return b.String()
}
