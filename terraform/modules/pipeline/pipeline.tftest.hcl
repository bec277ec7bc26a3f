mock_provider "google" {}

variables {
  project_id     = "acme-security"
  project_number = "123456789012"
  name           = "contraband"
  detections     = ["prod", "test"]
  raise          = { url = "https://raise", pusher = "push-raise@acme-security.iam.gserviceaccount.com" }
  respond        = { url = "https://respond", pusher = "push-respond@acme-security.iam.gserviceaccount.com" }
}

run "nothing_is_lost" {
  command = apply

  assert {
    condition     = alltrue([for s in google_pubsub_subscription.push : length(s.dead_letter_policy) == 1 && length(s.retry_policy) == 1 && s.expiration_policy[0].ttl == "" && s.ack_deadline_seconds == 600])
    error_message = "Every push subscription retries, dead-letters, never expires, and waits for longer than a case's lease."
  }
  assert {
    condition     = google_pubsub_subscription.dead_letters.expiration_policy[0].ttl == ""
    error_message = "The dead letters are kept though nobody looks for a month."
  }
  assert {
    condition     = length(google_pubsub_subscription_iam_member.parks) == 6 && google_pubsub_topic_iam_member.parks.role == "roles/pubsub.publisher"
    error_message = "Pub/Sub may move dead letters from each subscription."
  }
  assert {
    condition     = google_pubsub_subscription.push["detections-prod"].push_config[0].push_endpoint == "https://raise/projects/acme-security/topics/contraband-detections-prod"
    error_message = "The function takes the topic from the path."
  }
  assert {
    condition = alltrue([for key in ["findings", "detections-prod", "detections-test"] :
      google_pubsub_subscription.push["${key}/first"].filter == "attributes.priority = \"first\"" &&
      google_pubsub_subscription.push[key].filter == "NOT ${google_pubsub_subscription.push["${key}/first"].filter}" &&
    google_pubsub_subscription.push["${key}/first"].push_config[0].push_endpoint == google_pubsub_subscription.push[key].push_config[0].push_endpoint])
    error_message = "Each message is delivered by one of a topic's two subscriptions, to the same function."
  }
}

run "a_deadline_within_the_lease" {
  command         = plan
  expect_failures = [var.ack_deadline_seconds]
  variables {
    ack_deadline_seconds = 400
  }
}
