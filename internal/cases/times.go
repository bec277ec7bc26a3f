package cases

import "time"

// Times nest: a step ends before its function, the function before the lease on a
// case, the lease before Pub/Sub delivers again. A test checks it.
const (
	StepDeadline    = 60 * time.Second
	FunctionTimeout = 300 * time.Second
	Lease           = 420 * time.Second
	AckDeadline     = 600 * time.Second

	// ContainDeadline is Contain's own, within a step.
	ContainDeadline = 50 * time.Second

	// LongestRetry is the longest pause before a case in which a step failed is looked at
	// again. A wake further ahead is for something else.
	LongestRetry = time.Hour
)
