package interact

import (
	"net/url"
	"testing"

	"github.com/contraband-dev/contraband/internal/cases"
	"github.com/contraband-dev/contraband/internal/cases/caselog"
)

// FuzzInteraction: whatever body carries a valid signature, a click names a case by an ID
// that is safe in a key, and does what there is a button for.
func FuzzInteraction(f *testing.F) {
	for _, payload := range []string{
		`{"type":"block_actions","user":{"id":"U1","name":"ann"},"trigger_id":"1.2","actions":[{"action_id":"approve","value":"0123456789abcdef/3","action_ts":"1.1"}]}`,
		`{"type":"block_actions","user":{"id":"U1"},"response_url":"https://hooks.slack.com/x","actions":[{"action_id":"benign","value":"inc-0123456789ab-2611250930/1"}],"state":{"values":{"scope":{"scope":{"selected_option":{"value":"path"}}},"until":{"until":{"selected_date":"2027-01-01"}},"reason":{"reason":{"value":"x"}}}}}`,
		`{"type":"view_submission"}`, `{`, `null`,
	} {
		f.Add(url.Values{"payload": {payload}}.Encode())
	}
	f.Fuzz(func(t *testing.T, body string) {
		pressed, err := interaction([]byte(body))
		if err != nil && len(pressed) > 0 {
			t.Errorf("clicks beside an error: %+v, %v", pressed, err)
		}
		for _, p := range pressed {
			if !caselog.IsID(p.caseID) || !cases.IsClickAction(p.what) && p.what != actionCancel || p.userID == "" || p.id == "" {
				t.Errorf("%q: %+v", body, p)
			}
		}
	})
}
