package slack

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"time"

	"github.com/slack-go/slack"

	"github.com/contraband-dev/contraband/internal/blobstore"
	"github.com/contraband-dev/contraband/internal/notify"
)

// lookup is a cached answer of users.lookupByEmail.
type lookup struct {
	id string // "": there is no such person
	at time.Time
}

// Times for which look-ups are cached.
const (
	cachePerson = 24 * time.Hour
	cacheAbsent = 10 * time.Minute
	cacheGroups = 10 * time.Minute
)

// room returns the channel ID to post to. Slack resolves "#name" itself when a message
// is posted.
func (w *Workspace) room(ctx context.Context, name string) (string, error) {
	if !isEmail(name) {
		return name, nil
	}
	id, err := w.person(ctx, name)
	if err == nil && id == "" {
		err = classify(fmt.Sprintf("find Slack user %q", name), slack.SlackErrorResponse{Err: "users_not_found"})
	}
	return id, err
}

// person returns the ID of the user with an e-mail address, or "" if there is none.
func (w *Workspace) person(ctx context.Context, email string) (string, error) {
	w.mu.Lock()
	known, ok := w.people[email]
	w.mu.Unlock()
	if age := time.Since(known.at); ok && (age < cacheAbsent || known.id != "" && age < cachePerson) {
		return known.id, nil
	}
	found := lookup{id: w.storedPerson(ctx, email), at: time.Now()}
	if found.id == "" {
		user, err := w.API.GetUserByEmailContext(ctx, email)
		switch answer, _ := answerOf(err); {
		case answer == "users_not_found":
		case err != nil:
			return "", classify(fmt.Sprintf("find Slack user %q", email), err)
		default:
			found.id = user.ID
			w.storePerson(ctx, email, user.ID)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.people == nil {
		w.people = map[string]lookup{}
	}
	w.people[email] = found
	return found.id, nil
}

// personKey is where a person's ID is stored: for a week, under no address that can be read.
func personKey(email string, at time.Time) string {
	year, week := at.UTC().ISOWeek()
	return fmt.Sprintf("people/%d-%02d/%x", year, week, sha256.Sum256([]byte(strings.ToLower(email))))
}

// storedPerson returns the ID that any instance has stored, or "". The store is a cache:
// without it Slack is asked.
func (w *Workspace) storedPerson(ctx context.Context, email string) string {
	if w.Store == nil {
		return ""
	}
	id, err := w.Store.Read(ctx, personKey(email, time.Now()))
	if err != nil && !errors.Is(err, blobstore.ErrNotExist) {
		slog.WarnContext(ctx, "the store of Slack users cannot be read", "error", err)
	}
	if err != nil || !userID.Match(id) {
		return ""
	}
	return string(id)
}

func (w *Workspace) storePerson(ctx context.Context, email, id string) {
	if w.Store == nil {
		return
	}
	err := w.Store.Create(ctx, personKey(email, time.Now()), []byte(id))
	if err != nil && !errors.Is(err, blobstore.ErrExists) {
		slog.WarnContext(ctx, "a Slack user cannot be stored", "error", err)
	}
}

var userID = regexp.MustCompile(`^[UW][A-Z0-9]{1,30}$`)

// mention returns Slack's markup that notifies a person ("ann@example.com"), a user
// group ("@payments-oncall") or the channel ("@channel", "@here"). One that cannot be
// found is shown as text: the page does not wait for it.
func (w *Workspace) mention(ctx context.Context, who string) string {
	switch {
	case who == "":
		return ""
	case who == "@channel", who == "@here":
		return "<!" + who[1:] + ">"
	case isEmail(who):
		if id, err := w.person(ctx, who); err == nil && id != "" {
			return "<@" + id + ">"
		}
	case strings.HasPrefix(who, "@"):
		if id := w.group(ctx, who[1:]); id != "" {
			return "<!subteam^" + id + ">"
		}
	}
	return escape(who)
}

// group returns the ID of the user group with a handle, or "".
func (w *Workspace) group(ctx context.Context, handle string) string {
	w.mu.Lock()
	groups, fresh := w.groups, time.Since(w.groupsAt) < cacheGroups
	w.mu.Unlock()
	if !fresh {
		list, err := w.API.GetUserGroupsContext(ctx)
		groups = map[string]string{}
		for _, g := range list {
			groups[g.Handle] = g.ID
		}
		if err == nil || errors.As(err, new(slack.SlackErrorResponse)) {
			w.mu.Lock()
			w.groups, w.groupsAt = groups, time.Now()
			w.mu.Unlock()
		}
	}
	return groups[handle]
}

var _ notify.Channel = (*Channel)(nil)
