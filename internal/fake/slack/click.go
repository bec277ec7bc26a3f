package slack

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Interactivity is where clicks are sent, as an app's settings have it.
type Interactivity struct {
	URL           string // of the Interact function
	Replies       string // base address at which Handler is reached; "": clicks carry no address for replies
	SigningSecret string
	Client        *http.Client // nil: http.DefaultClient
}

// Press clicks a button of a message as a user and returns Interact's status. As in
// Slack, only a button that the message has can be clicked.
func (s *Server) Press(ctx context.Context, ts, action, value, user string) (int, error) {
	return s.Submit(ctx, ts, action, value, user, nil)
}

// Submit is Press with what the person has filled in: the value of each input by its
// action ID. An input that is left alone has its initial value.
func (s *Server) Submit(ctx context.Context, ts, action, value, user string, filled map[string]string) (int, error) {
	m, ok := s.get(ts)
	if !ok || !hasButton(m, action, value) || m.Only != "" && m.Only != user {
		return 0, fmt.Errorf("message %q has no button %q with the value %q for %s", ts, action, value, user)
	}
	state, err := stateOf(m, filled)
	if err != nil {
		return 0, err
	}
	now := time.Now()
	payload, err := json.Marshal(map[string]any{
		"type": "block_actions", "user": map[string]any{"id": user, "username": strings.ToLower(user), "name": strings.ToLower(user)},
		"trigger_id": rand.Text(), "channel": map[string]any{"id": m.Channel}, "container": map[string]any{"message_ts": ts, "is_ephemeral": m.Only != ""},
		"response_url": s.replyTo(m, user), "state": state,
		"actions": []any{map[string]any{"type": "button", "action_id": action, "block_id": "buttons", "value": value,
			"action_ts": fmt.Sprintf("%d.%06d", now.Unix(), now.Nanosecond()/1000)}},
	})
	if err != nil {
		return 0, err
	}
	return s.Send(ctx, []byte(url.Values{"payload": {string(payload)}}.Encode()), now)
}

// Send signs a body as Slack does, at a time, and delivers it once: Slack does not
// repeat it.
func (s *Server) Send(ctx context.Context, body []byte, at time.Time) (int, error) {
	stamp := fmt.Sprint(at.Unix())
	mac := hmac.New(sha256.New, []byte(s.Interact.SigningSecret))
	fmt.Fprintf(mac, "v0:%s:%s", stamp, body)
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second) // Slack's
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.Interact.URL, strings.NewReader(string(body)))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("X-Slack-Request-Timestamp", stamp)
	req.Header.Set("X-Slack-Signature", "v0="+hex.EncodeToString(mac.Sum(nil)))
	client := s.Interact.Client
	if client == nil {
		client = http.DefaultClient
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

func hasButton(m Message, action, value string) bool {
	var blocks []struct {
		Elements []struct {
			ActionID string `json:"action_id"`
			Value    string
		}
	}
	if json.Unmarshal(m.Blocks, &blocks) != nil {
		return false
	}
	for _, b := range blocks {
		for _, e := range b.Elements {
			if e.ActionID == action && e.Value == value {
				return true
			}
		}
	}
	return false
}

// pressed serves the buttons of the page for people.
func (s *Server) pressed(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 4<<10)
	parts := strings.Fields(r.PostFormValue("press"))
	if len(parts) != 2 || slices.Contains(parts, "") {
		http.Error(w, "unknown button", http.StatusBadRequest)
		return
	}
	filled := map[string]string{}
	for name, values := range r.PostForm {
		if id, ok := strings.CutPrefix(name, "input-"); ok && len(values) == 1 {
			filled[id] = values[0]
		}
	}
	status, err := s.Submit(r.Context(), r.PostFormValue("ts"), parts[0], parts[1], "U0VISITOR", filled)
	if err != nil || status != http.StatusOK {
		http.Error(w, fmt.Sprintf("Interact returned %d %v", status, err), http.StatusBadGateway)
		return
	}
	http.Redirect(w, r, "./", http.StatusSeeOther)
}
