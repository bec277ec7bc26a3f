package functions

import (
	"github.com/contraband-dev/contraband/functions/front"
	"github.com/contraband-dev/contraband/functions/raise"
)

// Config of the functions, read once from the environment; what is missing is said by name.
type Config struct {
	// Target is the function that is served. Empty: both are.
	Target string `env:"FUNCTION_TARGET"`

	Front front.Config
	Raise raise.Config
	// Policy is the path of the policy file. Empty: the built-in one, which only tells.
	Policy string `env:"CONTRABAND_POLICY"`
	// Exceptions is the path of a file with exceptions beside those of the policy file, in
	// the sensor's format. Empty: none.
	Exceptions string `env:"CONTRABAND_EXCEPTIONS"`
	// Indicators is the path of a local indicator list. Empty: the canary alone.
	Indicators string `env:"CONTRABAND_INDICATORS"`
	// VirusTotalKey is the user's own. Empty: VirusTotal is not asked.
	VirusTotalKey string `env:"VT_API_KEY"`
	// SlackToken is a bot token with chat:write and channels:history.
	SlackToken string `env:"SLACK_TOKEN"`
	// SlackChannel is the id of the security channel.
	SlackChannel string `env:"SLACK_CHANNEL"`
	// Channels is the YAML document that configures all channels but Slack (docs/notify.md).
	// It holds secrets.
	Channels string `env:"CONTRABAND_CHANNELS"`
	// EssentialContacts asks who a project's contacts are; needs roles/essentialcontacts.viewer.
	EssentialContacts bool `env:"CONTRABAND_ESSENTIAL_CONTACTS, default=false"`
	// ProjectOwners asks who has a project's Owner role; needs resourcemanager.projects.getIamPolicy.
	ProjectOwners bool `env:"CONTRABAND_PROJECT_OWNERS, default=false"`
	// Buttons are on pages: Interact is there to take what people press. They are there
	// too where the signing secret is known.
	Buttons bool `env:"CONTRABAND_BUTTONS, default=false"`
	// Workflow drives cases: projects/P/locations/L/workflows/W. Empty: the sweep does.
	Workflow string `env:"CONTRABAND_WORKFLOW"`
	// CallbackPrefix is what the address of a workflow's callback begins with: to
	// nothing else a token of ours is sent.
	CallbackPrefix string `env:"CONTRABAND_CALLBACK_PREFIX, default=https://workflowexecutions.googleapis.com/"`
	// KeepNotifications stores each notification as it came, secrets and all,
	// under notifications/SHA-256 in the store. Use a bucket with a key of your own.
	KeepNotifications bool `env:"CONTRABAND_KEEP_NOTIFICATIONS, default=false"`
	// ContainURL and CasebookURL are where those functions are reached.
	ContainURL  string `env:"CONTRABAND_CONTAIN_URL"`
	CasebookURL string `env:"CONTRABAND_CASEBOOK_URL"`
}
