//go:build race

package respond_test

// raceEnabled reports whether the race detector is on, which makes the largest tests ten
// times slower: they are smaller there, and `make test` runs them whole without it.
const raceEnabled = true
