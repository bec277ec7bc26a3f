//go:build !race

package respond_test

// raceEnabled reports whether the race detector is on, which makes the largest tests ten times slower.
const raceEnabled = false
