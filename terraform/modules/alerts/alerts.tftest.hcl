mock_provider "google" {}

variables {
  project_id               = "acme-security"
  name                     = "contraband"
  dead_letter_subscription = "contraband-dead-letters"
  push_subscriptions       = ["contraband-findings"]
  functions                = ["contraband-respond"]
  interact                 = "contraband-interact"
  sweep                    = "contraband-sweep"
  workflow                 = "contraband-case"
  detections_topics        = { prod = "contraband-detections-prod" }
}

run "each_has_its_playbook" {
  command = apply

  assert {
    condition     = keys(google_monitoring_alert_policy.alert) == ["clicks", "dead-letters", "errors", "oldest", "workflow"] && alltrue([for key, a in google_monitoring_alert_policy.alert : endswith(a.documentation[0].content, "troubleshooting.md#${key}")])
    error_message = "Every alert says what to do."
  }
  assert {
    condition     = strcontains(google_monitoring_alert_policy.sweep.conditions[0].condition_absent[0].filter, "contraband-sweep") && endswith(google_monitoring_alert_policy.sweep.documentation[0].content, "troubleshooting.md#sweep")
    error_message = "A sweep that does not run is an alert."
  }
  assert {
    condition     = alltrue([for a in google_monitoring_alert_policy.alert : a.conditions[0].condition_threshold[0].duration == "0s" || a.conditions[0].condition_threshold[0].aggregations[0].per_series_aligner == "ALIGN_MAX"])
    error_message = "What is counted is told when it happens: a rate that must last would never be."
  }
  assert {
    condition     = length(google_monitoring_alert_policy.silence) == 1
    error_message = "Silence of a cluster with a canary is an alert."
  }
}
