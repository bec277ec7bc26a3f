mock_provider "google" {}

variables {
  topic_project = "acme-security"
  topic         = "contraband-detections-prod"
  cluster       = { project_id = "acme-shop", project_number = "2109", service_account = "contraband-sensor" }
}

run "its_own_topic" {
  command = apply

  assert {
    condition     = google_pubsub_topic_iam_member.publishes.member == "principal://iam.googleapis.com/projects/2109/locations/global/workloadIdentityPools/acme-shop.svc.id.goog/subject/ns/contraband/sa/contraband-sensor" && google_pubsub_topic_iam_member.publishes.role == "roles/pubsub.publisher"
    error_message = "A sensor publishes to its own cluster's topic, as itself."
  }
}
