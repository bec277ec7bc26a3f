package respond

import (
	"github.com/contraband-dev/contraband/functions/raise"
	"github.com/contraband-dev/contraband/internal/funcserver/casefunc"
)

// Config is read from the environment.
type Config struct {
	// Target is the function that is served: Respond or Advance. Empty: both.
	Target string `env:"FUNCTION_TARGET"`

	Cases casefunc.Config
	Raise raise.Config
	// DetectorSources are the names of the SCC sources of Google's container detectors:
	// organizations/N/sources/M[,...]. Findings of other sources than these and our own
	// contain nothing. Empty: Google's are recognised by display name and class.
	DetectorSources []string `env:"CONTRABAND_DETECTOR_SOURCES"`
	// Policy is the path of the policy file. Empty: the built-in policy, which only notifies.
	Policy string `env:"CONTRABAND_POLICY"`
	// Exceptions is the path of a file with exceptions beside those of the policy file, in
	// the sensor's format. Empty: none.
	Exceptions string `env:"CONTRABAND_EXCEPTIONS"`
	// Indicators is the path of a local indicator list. Empty: only the canary is listed.
	Indicators string `env:"CONTRABAND_INDICATORS"`
	// VirusTotalKey is the user's API key. Empty: VirusTotal is not queried.
	VirusTotalKey string `env:"VT_API_KEY"`
	// SlackToken is a bot token with chat:write and channels:history.
	SlackToken string `env:"SLACK_TOKEN"`
	// SlackChannel is the ID of the security channel.
	SlackChannel string `env:"SLACK_CHANNEL"`
	// Channels is the YAML document that configures all channels but Slack (docs/notify.md).
	// It holds secrets.
	Channels string `env:"CONTRABAND_CHANNELS"`
	// EssentialContacts looks up the contacts of a project; it needs roles/essentialcontacts.viewer.
	EssentialContacts bool `env:"CONTRABAND_ESSENTIAL_CONTACTS, default=false"`
	// OwnerKeys are labels and annotations that name an owner, tried before those that are
	// built in. Form: KEY[,...]
	OwnerKeys []string `env:"CONTRABAND_OWNER_KEYS"`
	// ProjectOwners looks up who has a project's Owner role; it needs resourcemanager.projects.getIamPolicy.
	ProjectOwners bool `env:"CONTRABAND_PROJECT_OWNERS, default=false"`
	// Buttons adds buttons to Slack messages; it needs Interact to receive the clicks.
	Buttons bool `env:"CONTRABAND_BUTTONS, default=false"`
	// Workflow is started for each case: projects/P/locations/L/workflows/W. Empty: cases
	// are advanced by Sweep alone.
	Workflow string `env:"CONTRABAND_WORKFLOW"`
	// CallbackPrefix is the prefix that the URL of a workflow's callback must have, because
	// an access token is sent to it.
	CallbackPrefix string `env:"CONTRABAND_CALLBACK_PREFIX, default=https://workflowexecutions.googleapis.com/"`
	// KeepNotifications stores each notification unchanged, with any secrets in it, under
	// notifications/SHA-256 in the store. Use a bucket with your own encryption key.
	KeepNotifications bool `env:"CONTRABAND_KEEP_NOTIFICATIONS, default=false"`
	// ContainURL and CasebookURL are the addresses of those functions.
	ContainURL  string `env:"CONTRABAND_CONTAIN_URL"`
	CasebookURL string `env:"CONTRABAND_CASEBOOK_URL"`
}
