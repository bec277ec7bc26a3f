package functions

import (
	"context"
	"fmt"
	"strings"

	"github.com/sethvargo/go-envconfig"

	"github.com/contraband-dev/contraband/internal/finding"
)

// Config of the functions, read once from the environment. Each function needs
// only the part that its work needs; what is missing is said by name.
type Config struct {
	// Target is the function that is served: it needs only its own part of what follows.
	// Empty: all are.
	Target string `env:"FUNCTION_TARGET"`
	// Store is where cases are kept: gs://BUCKET; dir:///PATH on one machine. Of two,
	// with a comma between them, the second has what is removed once it has served, and
	// the first may forbid that anything is. Required.
	Store string `env:"CONTRABAND_STORE, required"`
	// Project is the id of the project that holds the topics. Required.
	Project string `env:"GOOGLE_CLOUD_PROJECT, required"`
	// FindingsTopic takes the direct copy of what Raise has written.
	FindingsTopic string `env:"CONTRABAND_FINDINGS_TOPIC, default=findings"`
	// DeadLetterTopic takes what can never be understood, with the reason.
	DeadLetterTopic string `env:"CONTRABAND_DEAD_LETTER_TOPIC, default=dead-letters"`
	// Clusters says whose detections a topic carries; a node's own word does not
	// count. Form: TOPIC=PROJECT/LOCATION/CLUSTER[,...]
	Clusters map[string]string `env:"CONTRABAND_CLUSTERS, separator=="`
	// SCCSource is the name of our source. Empty: nothing is written to SCC, and
	// escalation lives in the case and on the page.
	SCCSource string `env:"CONTRABAND_SCC_SOURCE"`
	// SCCScope is below which findings nearby are looked for: organizations/N, folders/N
	// or projects/P. Empty: the source's organization.
	SCCScope string `env:"CONTRABAND_SCC_SCOPE"`
	// Policy is the path of the policy file. Empty: the built-in one, which only tells.
	Policy string `env:"CONTRABAND_POLICY"`
	// Indicators is the path of a local indicator list. Empty: the canary alone.
	Indicators string `env:"CONTRABAND_INDICATORS"`
	// VirusTotalKey is the user's own. Empty: VirusTotal is not asked.
	VirusTotalKey string `env:"VT_API_KEY"`
	// SlackToken is a bot token with chat:write and channels:history.
	SlackToken string `env:"SLACK_TOKEN"`
	// SlackChannel is the id of the security channel.
	SlackChannel string `env:"SLACK_CHANNEL"`
	// SlackSigningSecret verifies what people press in Slack; Interact needs it.
	SlackSigningSecret string `env:"SLACK_SIGNING_SECRET"`
	// Buttons are on pages: Interact is there to take what people press. They are there
	// too where the signing secret is known.
	Buttons bool `env:"CONTRABAND_BUTTONS, default=false"`
	// Approvers may press: ids of Slack users, and e-mail addresses for the casebook.
	// Empty: whoever can see the channel or the casebook.
	Approvers []string `env:"CONTRABAND_APPROVERS"`
	// IAPAudience is whom Identity-Aware Proxy vouches for visitors of the casebook to:
	// /projects/NUMBER/locations/REGION/services/SERVICE. Without its word nothing is
	// shown. Empty: whoever reaches the casebook sees it, and is nobody's name.
	IAPAudience string `env:"CONTRABAND_IAP_AUDIENCE"`
	// Workflow drives cases: projects/P/locations/L/workflows/W. Empty: the sweep does.
	Workflow string `env:"CONTRABAND_WORKFLOW"`
	// CallbackPrefix is what the address of a workflow's callback begins with: to
	// nothing else a token of ours is sent.
	CallbackPrefix string `env:"CONTRABAND_CALLBACK_PREFIX, default=https://workflowexecutions.googleapis.com/"`
	// KeepNotifications stores each notification as it came, secrets and all,
	// under notifications/SHA-256 in the store. Use a bucket with a key of your own.
	KeepNotifications bool `env:"CONTRABAND_KEEP_NOTIFICATIONS, default=false"`
	// ContainURL, AdvanceURL and CasebookURL are where the other functions are reached.
	ContainURL  string `env:"CONTRABAND_CONTAIN_URL"`
	AdvanceURL  string `env:"CONTRABAND_ADVANCE_URL"`
	CasebookURL string `env:"CONTRABAND_CASEBOOK_URL"`
}

// FromEnvironment reads a Config.
func FromEnvironment(ctx context.Context) (Config, error) {
	var c Config
	if err := envconfig.Process(ctx, &c); err != nil {
		return c, fmt.Errorf("read configuration: %w", err)
	}
	return c, nil
}

// place answers whose detections a topic carries.
func (c Config) place(topic string) (finding.Place, error) {
	parts := strings.Split(c.Clusters[topic], "/")
	if len(parts) != 3 {
		return finding.Place{}, fmt.Errorf("topic %q: CONTRABAND_CLUSTERS does not say whose detections it carries (TOPIC=PROJECT/LOCATION/CLUSTER)", topic)
	}
	return finding.Place{Project: parts[0], Location: parts[1], Cluster: parts[2]}, nil
}
