package slack

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/contraband-dev/contraband/internal/notify"
	"github.com/slack-go/slack"
)

// gate delays the calls to one channel while Slack limits their rate: it is closed for
// as long as Slack demands, and then lets one call pass at a time until a number of them
// in a row were not limited: those of the highest rank first.
type gate struct {
	turn chan struct{} // held by the call that passes, while the gate is slow

	mu      sync.Mutex // guards all below
	waiting [ranks]int // calls that wait, by rank
	opens   time.Time
	limited time.Time // when Slack last limited the rate
	slow    int       // calls that are still to pass one at a time
}

// A rank orders calls that wait for one channel: the higher goes first. Messages have that
// of their severity; edits, lines of the thread and searches come last.
type rank int

const (
	lastRank rank = 0
	ranks         = int(notify.Critical) + 2
)

// rankOf returns the rank of a message.
func rankOf(m notify.Message) rank { return rank(m.Severity) + 1 }

// slowCalls is how many calls pass one at a time after a rate limit.
const slowCalls = 10

// defaultRetryAfter is waited when a 429 does not say for how long.
const defaultRetryAfter = 2 * time.Second

// limited makes a call, and makes it again after the time that Slack demands when the
// rate is limited, as long as ctx lasts. Others in the same channel wait meanwhile, and
// pass in the order of their ranks.
func (w *Workspace) limited(ctx context.Context, channel string, r rank, call func() error) error {
	g := w.gate(channel)
	for {
		leave, err := g.enter(ctx, r)
		if err != nil {
			return err
		}
		err = call()
		after := retryAfter(err)
		leave(after)
		if after == 0 {
			return err
		}
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < after {
			return err
		}
	}
}

// retryAfter returns how long to wait if Slack has limited the rate, else 0.
func retryAfter(err error) time.Duration {
	var limit *slack.RateLimitedError
	if errors.As(err, &limit) && limit.RetryAfter > 0 {
		return limit.RetryAfter
	}
	var status slack.StatusCodeError // a 429 without Retry-After
	if limit != nil || errors.As(err, &status) && status.Code == http.StatusTooManyRequests {
		return defaultRetryAfter
	}
	return 0
}

func (w *Workspace) gate(channel string) *gate {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.gates == nil {
		w.gates = map[string]*gate{}
	}
	if w.gates[channel] == nil {
		w.gates[channel] = &gate{turn: make(chan struct{}, 1)}
	}
	return w.gates[channel]
}

// enter waits until a call may pass. leave must be called after it, with how long Slack
// demands to wait, or 0.
func (g *gate) enter(ctx context.Context, r rank) (leave func(after time.Duration), err error) {
	g.count(r, 1)
	defer g.count(r, -1)
	for {
		release, err := g.takeTurn(ctx)
		if err != nil {
			return nil, err
		}
		if err := g.waitOpen(ctx); err != nil {
			release()
			return nil, err
		}
		if !g.higherWaits(r) {
			return func(after time.Duration) {
				g.note(after)
				release()
			}, nil
		}
		release() // what ranks higher goes first
		if err := sleep(ctx, yieldTime); err != nil {
			return nil, fmt.Errorf("%w: %w", errNoTime, err)
		}
	}
}

// yieldTime is how long a call stands back for one that ranks higher before it looks again.
const yieldTime = 20 * time.Millisecond

// takeTurn waits for the turn while the gate is slow. release gives it back.
func (g *gate) takeTurn(ctx context.Context) (release func(), err error) {
	if !g.isSlow() {
		return func() {}, nil
	}
	select {
	case g.turn <- struct{}{}:
		return func() { <-g.turn }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", errNoTime, ctx.Err())
	}
}

func (g *gate) count(r rank, n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.waiting[r] += n
}

// higherWaits reports whether a call of a higher rank waits.
func (g *gate) higherWaits(r rank) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.ContainsFunc(g.waiting[r+1:], func(n int) bool { return n > 0 })
}

func (g *gate) isSlow() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.slow > 0
}

func (g *gate) waitOpen(ctx context.Context) error {
	g.mu.Lock()
	opens := g.opens
	g.mu.Unlock()
	if deadline, ok := ctx.Deadline(); ok && opens.After(deadline) {
		return errNoTime
	}
	return sleep(ctx, time.Until(opens))
}

// note records whether Slack has limited the rate of a call.
func (g *gate) note(after time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if after == 0 {
		g.slow = max(0, g.slow-1)
		return
	}
	g.slow, g.limited = slowCalls, time.Now()
	if until := time.Now().Add(after); until.After(g.opens) {
		g.opens = until
	}
}

// errNoTime means that the deadline ends before Slack's rate limit does. It was not sent.
var errNoTime = errors.New("Slack's rate limit outlasts the deadline")

// errBusy means that pages go first while Slack limits the rate.
var errBusy = errors.New("details wait: Slack limits the rate of the channel")

// busy reports whether Slack has limited the rate within the last moments.
func (g *gate) busy() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.slow > 0 && time.Since(g.limited) < busyFor
}

// busyFor is how long after a rate limit pages still go first.
const busyFor = 5 * time.Second
