// Package slack notifies people in Slack: one message with buttons in a channel or to
// a person, edited as the case changes, details and changes in its thread. It
// renders a notify.Message and decides nothing.
package slack

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/slack-go/slack"

	"github.com/contraband-dev/contraband/internal/blobstore"
	"github.com/contraband-dev/contraband/internal/notify"
	"github.com/contraband-dev/contraband/internal/retry"
)

// eventType marks our messages in Slack's message metadata, with their key: that is
// how a message whose answer was lost is found again. Its payload has the key as "case".
const eventType = "contraband_case"

// updateType marks a line of a thread that is also shown in the channel.
const updateType = "contraband_reminder"

// Workspace is one Slack workspace, reached with one bot token. Its channels share
// caches and rate limits. It is safe for concurrent use.
type Workspace struct {
	API *slack.Client // required
	// Buttons shows what people can do; it needs the Interact function. Links are
	// shown always.
	Buttons bool
	// EditInterval is the least time between two edits of one message. 0: none.
	EditInterval time.Duration
	// SearchInterval is the least time between two readings of a channel's history. 0: what
	// Slack allows.
	SearchInterval time.Duration

	// Store shares the IDs of people between instances; nil: each asks Slack.
	Store blobstore.Store

	mu       sync.Mutex
	people   map[string]lookup       // by e-mail address
	groups   map[string]string       // user group IDs by handle; nil: not read yet
	groupsAt time.Time               // when groups was read
	gates    map[string]*gate        // by channel
	searches map[string]*searchGroup // by channel ID
	edited   map[string]time.Time    // by message
}

// Channel returns the channel with a name: a channel's ID, its "#name", or the e-mail
// address of a person.
func (w *Workspace) Channel(name string) *Channel { return &Channel{workspace: w, name: name} }

// Channel is a Slack channel or a person. It implements notify.Channel.
type Channel struct {
	workspace *Workspace
	name      string
}

// Post sends the message. With again set it first searches the channel's history for
// the key; where history may not be read, sending twice is better than not at all.
func (c *Channel) Post(ctx context.Context, m notify.Message, again bool) (notify.Ref, error) {
	room, err := c.workspace.room(ctx, c.name)
	if err != nil {
		return notify.Ref{}, err
	}
	if again {
		ref, err := c.search(ctx, room, eventType, m.Key, "")
		if err == nil && ref.ID != "" {
			return ref, nil
		}
		if err != nil && retry.ClassOf(err) == retry.Transient {
			return notify.Ref{}, err
		}
	}
	return c.postNew(ctx, room, m)
}

func (c *Channel) postNew(ctx context.Context, room string, m notify.Message) (notify.Ref, error) {
	metadata := slack.SlackMetadata{EventType: eventType, EventPayload: map[string]any{"case": m.Key}}
	mention := c.workspace.mention(ctx, m.Mention)
	ref, err := c.send(ctx, room, rankOf(m), full(m, mention, c.workspace.Buttons, metadata)...)
	if retry.ClassOf(err) == retry.RefusedClass {
		ref, err = c.send(ctx, room, rankOf(m), smallest(m, mention)...)
	}
	if retry.ClassOf(err) == retry.RefusedClass { // not even a line of text: the cause is not the content
		err = retry.Misconfigured(errors.Unwrap(err))
	}
	if err != nil {
		return notify.Ref{}, err
	}
	ref.Link = c.permalink(ctx, ref)
	return ref, nil
}

// send posts once, before what ranks lower; a rate limit is waited out, for what was limited was not delivered.
func (c *Channel) send(ctx context.Context, room string, r rank, options ...slack.MsgOption) (notify.Ref, error) {
	var ref notify.Ref
	err := c.workspace.limited(ctx, room, r, func() (err error) {
		ref.Room, ref.ID, err = c.workspace.API.PostMessageContext(ctx, room, options...)
		return err
	})
	return ref, classify(fmt.Sprintf("post to Slack channel %q", c.name), err)
}

// permalink returns the message's address, or "": a page without its link is still a page.
func (c *Channel) permalink(ctx context.Context, ref notify.Ref) string {
	link, err := c.workspace.API.GetPermalinkContext(ctx, &slack.PermalinkParameters{Channel: ref.Room, Ts: ref.ID})
	if err != nil {
		return ""
	}
	return link
}

// Update edits the message. One that is gone, or may not be edited, is posted anew.
func (c *Channel) Update(ctx context.Context, ref notify.Ref, m notify.Message) (notify.Ref, error) {
	if err := c.workspace.waitToEdit(ctx, ref); err != nil {
		return ref, err
	}
	mention := c.workspace.mention(ctx, m.Mention)
	err := c.edit(ctx, ref, full(m, mention, c.workspace.Buttons, slack.SlackMetadata{})...)
	if retry.ClassOf(err) == retry.RefusedClass {
		err = c.edit(ctx, ref, smallest(m, mention)...)
	}
	if isGone(err) || retry.ClassOf(err) == retry.RefusedClass {
		return c.postNew(ctx, ref.Room, m)
	}
	return ref, err
}

func (c *Channel) edit(ctx context.Context, ref notify.Ref, options ...slack.MsgOption) error {
	err := c.workspace.limited(ctx, ref.Room, lastRank, func() error {
		_, _, _, err := c.workspace.API.UpdateMessageContext(ctx, ref.Room, ref.ID, options...)
		return err
	})
	return classify(fmt.Sprintf("edit Slack message %q in channel %q", ref.ID, c.name), err)
}

// Resolve edits the message to its last state.
func (c *Channel) Resolve(ctx context.Context, ref notify.Ref, m notify.Message) error {
	_, err := c.Update(ctx, ref, m)
	return err
}

// Thread adds a line below the message. One that is also broadcast to the channel is
// sent once: the channel is searched for it first.
func (c *Channel) Thread(ctx context.Context, ref notify.Ref, m notify.Message, u notify.Update) error {
	if u.Key == notify.DetailsKey && c.workspace.gate(ref.Room).busy() {
		return errBusy
	}
	mention := ""
	if u.Broadcast {
		found, err := c.search(ctx, ref.Room, updateType, m.Key, u.Key)
		if err == nil && found.ID != "" {
			return nil
		}
		mention = c.workspace.mention(ctx, m.Mention)
		if mention == "" {
			mention = "<!channel>"
		}
	}
	options := append(threadLine(m, u, mention), slack.MsgOptionTS(ref.ID))
	r := lastRank
	if u.Broadcast {
		r = rankOf(m)
	}
	_, err := c.send(ctx, ref.Room, r, options...)
	return err
}

// waitToEdit waits until EditInterval has passed since the last edit of the message.
func (w *Workspace) waitToEdit(ctx context.Context, ref notify.Ref) error {
	if w.EditInterval == 0 {
		return nil
	}
	w.mu.Lock()
	if w.edited == nil {
		w.edited = map[string]time.Time{}
	}
	for key, at := range w.edited { // keeps the map small
		if time.Since(at) > w.EditInterval {
			delete(w.edited, key)
		}
	}
	key, now := ref.Room+"/"+ref.ID, time.Now()
	at := now
	if last, ok := w.edited[key]; ok && last.Add(w.EditInterval).After(now) {
		at = last.Add(w.EditInterval)
	}
	w.edited[key] = at
	w.mu.Unlock()
	return sleep(ctx, at.Sub(now))
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// isEmail reports whether a name is an e-mail address.
func isEmail(name string) bool {
	at := strings.IndexByte(name, '@')
	return at > 0 && strings.Contains(name[at:], ".")
}
