# The sensor of one cluster, by Workload Identity Federation: no key, no Google service
# account, and no right but to publish to its own cluster's topic. Two clusters of one
# project share an identity pool: their sensors' service accounts must differ. The namespace
# is always contraband: orders are read there.

locals {
  pool   = "projects/${var.cluster.project_number}/locations/global/workloadIdentityPools/${var.cluster.project_id}.svc.id.goog"
  member = "principal://iam.googleapis.com/${local.pool}/subject/ns/contraband/sa/${var.cluster.service_account}"
}

resource "google_pubsub_topic_iam_member" "publishes" {
  project = var.topic_project
  topic   = var.topic
  role    = "roles/pubsub.publisher"
  member  = local.member
}
