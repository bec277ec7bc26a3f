mock_provider "google" {}

variables {
  project_id               = "acme-security"
  name                     = "contraband"
  dead_letter_subscription = "contraband-dead-letters"
  push_subscriptions       = ["contraband-findings"]
  functions                = ["contraband-respond"]
  workflow                 = "contraband-case"
  detections_topics        = { prod = "contraband-detections-prod" }
}

run "each_has_its_playbook" {
  command = apply

  assert {
    condition     = keys(google_monitoring_alert_policy.alert) == ["dead-letters", "errors", "oldest", "workflow"] && alltrue([for key, a in google_monitoring_alert_policy.alert : endswith(a.documentation[0].content, "troubleshooting.md#${key}")])
    error_message = "Every alert says what to do."
  }
  assert {
    condition     = length(google_monitoring_alert_policy.silence) == 1
    error_message = "Silence of a cluster with a canary is an alert."
  }
}
