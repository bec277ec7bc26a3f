// Package webhook posts signed JSON to an address of the user's. The request is
//
//	POST <address>
//	Content-Type: application/json
//	Idempotency-Key: <the same for a repeated event>
//	X-Contraband-Timestamp: <Unix seconds>
//	X-Contraband-Signature: v1=<hex HMAC-SHA256 of "<timestamp>.<body>" with the secret>
//
//	{"version": 1, "event": "opened", "message": {...}}
//
// Event is opened, updated, resolved or note; a note has "update" as well. A receiver
// checks the signature in constant time, refuses timestamps older than five minutes, and
// returns 2xx once it has the event.
package webhook

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/contraband-dev/contraband/internal/notify"
	"github.com/contraband-dev/contraband/internal/notify/httpcall"
	"github.com/contraband-dev/contraband/internal/retry"
)

// Hook is one receiver. It implements notify.Channel.
type Hook struct {
	name, address string
	secret        []byte
	client        *http.Client
}

// New returns the receiver at an address, with the secret that signs.
func New(name, address, secret string) *Hook {
	return &Hook{name: name, address: address, secret: []byte(secret), client: httpcall.Client()}
}

// Event is the body of a request.
type Event struct {
	Version int            `json:"version"` // 1
	Event   string         `json:"event"`   // opened, updated, resolved, note
	Message notify.Message `json:"message"`
	Update  *notify.Update `json:"update,omitempty"`
}

// Post sends "opened". A receiver recognises a repetition by its Idempotency-Key.
func (h *Hook) Post(ctx context.Context, m notify.Message, _ bool) (notify.Ref, error) {
	return notify.Ref{Room: h.name, ID: m.Key}, h.send(ctx, m.Key+"/opened", Event{Version: 1, Event: "opened", Message: m})
}

// Update sends "updated" with the current state.
func (h *Hook) Update(ctx context.Context, ref notify.Ref, m notify.Message) (notify.Ref, error) {
	return ref, h.send(ctx, m.Key+"/"+m.Digest(), Event{Version: 1, Event: "updated", Message: m})
}

// Resolve sends "resolved".
func (h *Hook) Resolve(ctx context.Context, _ notify.Ref, m notify.Message) error {
	return h.send(ctx, m.Key+"/resolved", Event{Version: 1, Event: "resolved", Message: m})
}

// Thread sends "note" for what is broadcast; all else is in the message already.
func (h *Hook) Thread(ctx context.Context, _ notify.Ref, m notify.Message, u notify.Update) error {
	if !u.Broadcast {
		return nil
	}
	return h.send(ctx, m.Key+"/"+u.Key, Event{Version: 1, Event: "note", Message: m, Update: &u})
}

func (h *Hook) send(ctx context.Context, idempotencyKey string, e Event) error {
	body, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encode webhook event: %w", err)
	}
	if notify.SafeURL(h.address) == "" {
		return retry.Misconfigured(fmt.Errorf("webhook %q: the address must begin with https:// or http://", h.name))
	}
	_, err = httpcall.Do(ctx, h.client, func(ctx context.Context) (*http.Request, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.address, bytes.NewReader(body))
		if err != nil {
			return nil, err
		}
		stamp := strconv.FormatInt(time.Now().Unix(), 10)
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("User-Agent", "contraband")
		req.Header.Set("Idempotency-Key", hexHash(idempotencyKey))
		req.Header.Set("X-Contraband-Timestamp", stamp)
		req.Header.Set("X-Contraband-Signature", "v1="+Signature(h.secret, stamp, body))
		return req, nil
	})
	if err != nil {
		return fmt.Errorf("call webhook %q: %w", h.name, err)
	}
	return nil
}

// Signature returns the hex HMAC-SHA256 of "<timestamp>.<body>".
func Signature(secret []byte, timestamp string, body []byte) string {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(timestamp + "."))
	mac.Write(body)
	return hex.EncodeToString(mac.Sum(nil))
}

func hexHash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:16])
}
