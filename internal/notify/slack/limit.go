package slack

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/slack-go/slack"
)

// gate delays the calls to one channel while Slack limits their rate.
type gate struct {
	mu     sync.Mutex
	opens  time.Time
	passed time.Time // when the last call passed
	slow   bool      // a limit was met: calls are spaced from now on
}

// spacing is Slack's documented limit of messages in one channel: about one a second.
const spacing = time.Second

// defaultRetryAfter is waited when a 429 does not say for how long.
const defaultRetryAfter = 2 * time.Second

// limited makes a call, and makes it again after the time that Slack demands when the
// rate is limited, as long as ctx lasts. Others in the same channel wait meanwhile.
func (w *Workspace) limited(ctx context.Context, channel string, call func() error) error {
	g := w.gate(channel)
	for {
		if err := g.wait(ctx); err != nil {
			return err
		}
		err := call()
		after := retryAfter(err)
		if after == 0 {
			return err
		}
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < after {
			g.close(after)
			return err
		}
		g.close(after)
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
		w.gates[channel] = &gate{}
	}
	return w.gates[channel]
}

// wait reserves the next moment at which a call may pass, and waits for it.
func (g *gate) wait(ctx context.Context) error {
	g.mu.Lock()
	now := time.Now()
	at := g.opens
	if next := g.passed.Add(spacing); g.slow && next.After(at) {
		at = next
	}
	if at.Before(now) {
		at = now
	}
	if deadline, ok := ctx.Deadline(); ok && at.After(deadline) {
		g.mu.Unlock()
		return errNoTime
	}
	g.passed = at
	g.mu.Unlock()
	return sleep(ctx, at.Sub(now))
}

// errNoTime means that the deadline ends before Slack's rate limit does. It was not sent.
var errNoTime = errors.New("Slack's rate limit outlasts the deadline")

// errBusy means that pages go first while Slack limits the rate.
var errBusy = errors.New("details wait: Slack limits the rate of the channel")

// busy reports whether Slack has limited the rate within the last moments.
func (g *gate) busy() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.slow && time.Since(g.passed) < 5*spacing
}

func (g *gate) close(d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.slow = true
	if until := time.Now().Add(d); until.After(g.opens) {
		g.opens = until
	}
}
