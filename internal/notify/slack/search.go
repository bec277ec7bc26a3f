package slack

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/slack-go/slack"

	"github.com/contraband-dev/contraband/internal/notify"
)

// searchWindow is how far back a message is searched whose answer was lost: far longer
// than a delivery is repeated without a result.
const searchWindow = 24 * time.Hour

// searchInterval lies between two readings of a channel: Slack allows 50 a minute.
const searchInterval = 1200 * time.Millisecond

// searchGroup lets one reading of a channel's history serve everyone who asked before it
// started: 150 lost replies cost a few calls, not 150.
type searchGroup struct {
	interval time.Duration // between two readings

	mu      sync.Mutex
	reading *reading  // under way, or about to start
	next    *reading  // for those who came after it started
	last    time.Time // when the last one started
}

type reading struct {
	started bool
	done    chan struct{}
	found   map[string]string // timestamp by messageKey
	err     error
}

func messageKey(kind, key, update string) string { return kind + "\x00" + key + "\x00" + update }

// search returns the reference of our message of a kind with a key, or an empty one.
func (c *Channel) search(ctx context.Context, room, kind, key, update string) (notify.Ref, error) {
	g := c.workspace.searchGroup(room)
	r := g.join(func(r *reading) { r.found, r.err = c.readHistory(context.WithoutCancel(ctx), room) })
	select {
	case <-ctx.Done():
		return notify.Ref{}, ctx.Err()
	case <-r.done:
	}
	ts := r.found[messageKey(kind, key, update)]
	if r.err != nil || ts == "" {
		return notify.Ref{}, r.err
	}
	ref := notify.Ref{Room: room, ID: ts, Found: true}
	ref.Link = c.permalink(ctx, ref)
	return ref, nil
}

func (w *Workspace) searchGroup(room string) *searchGroup {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.searches == nil {
		w.searches = map[string]*searchGroup{}
	}
	if w.searches[room] == nil {
		w.searches[room] = &searchGroup{interval: cmp.Or(w.SearchInterval, searchInterval)}
	}
	return w.searches[room]
}

// join returns a reading that has not started: one under way may have passed the
// message already.
func (g *searchGroup) join(read func(*reading)) *reading {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.reading == nil:
		g.reading = &reading{done: make(chan struct{})}
		go g.run(read)
	case g.reading.started:
		if g.next == nil {
			g.next = &reading{done: make(chan struct{})}
		}
		return g.next
	}
	return g.reading
}

// run reads, hands out the result, and continues with those who came meanwhile.
func (g *searchGroup) run(read func(*reading)) {
	for {
		g.mu.Lock()
		wait := time.Until(g.last.Add(g.interval))
		g.mu.Unlock()
		time.Sleep(wait)
		g.mu.Lock()
		r := g.reading
		r.started, g.last = true, time.Now()
		g.mu.Unlock()
		read(r)
		close(r.done)
		g.mu.Lock()
		g.reading, g.next = g.next, nil
		done := g.reading == nil
		g.mu.Unlock()
		if done {
			return
		}
	}
}

// Deadlines of one reading of a channel's history, and of each of its pages: others wait
// for it.
const (
	historyDeadline = 30 * time.Second
	pageDeadline    = 5 * time.Second
)

// maxHistoryPages bounds a reading: 10,000 messages.
const maxHistoryPages = 10

func (c *Channel) readHistory(ctx context.Context, room string) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, historyDeadline)
	defer cancel()
	found := map[string]string{}
	p := slack.GetConversationHistoryParameters{ChannelID: room, IncludeAllMetadata: true, Limit: 999,
		Oldest: fmt.Sprintf("%d.000000", time.Now().Add(-searchWindow).Unix())}
	for range maxHistoryPages {
		var h *slack.GetConversationHistoryResponse
		err := c.workspace.limited(ctx, "history of "+room, lastRank, func() (err error) {
			ctx, cancel := context.WithTimeout(ctx, pageDeadline)
			defer cancel()
			h, err = c.workspace.API.GetConversationHistoryContext(ctx, &p)
			return err
		})
		if err != nil {
			return nil, classify(fmt.Sprintf("search Slack channel %q", c.name), err)
		}
		for _, m := range h.Messages {
			key, _ := m.Metadata.EventPayload["case"].(string)
			update, _ := m.Metadata.EventPayload["of"].(string)
			if key != "" {
				found[messageKey(m.Metadata.EventType, key, update)] = m.Timestamp
			}
		}
		if p.Cursor = h.ResponseMetaData.NextCursor; p.Cursor == "" {
			break
		}
	}
	return found, nil
}
