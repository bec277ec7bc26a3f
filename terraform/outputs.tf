output "slack_request_url" {
  description = "What the Slack app's interactivity calls."
  value       = local.url.interact
}

output "casebook_url" {
  description = "Where the cases are read."
  value       = local.casebook_url
}

output "bucket" {
  description = "The bucket that keeps the cases."
  value       = module.store.bucket
}

output "source" {
  description = "The source in Security Command Center; null: nothing is written there."
  value       = local.source
}

output "detections_topics" {
  description = "The topic to which each cluster's sensors publish."
  value       = module.pipeline.detections_topics
}

output "findings_topic" {
  description = "The topic that takes findings; publish a notification to it to try the pipeline."
  value       = module.pipeline.findings_topic.id
}

output "dead_letters" {
  description = "The command that lists what could not be handled; `replay` in place of `list` publishes it again."
  value       = "contraband deadletter list --project ${var.project_id} --subscription ${module.pipeline.dead_letter_subscription}"
}

output "members" {
  description = "The identities, by what they are of."
  value       = local.member
}

output "manifests" {
  description = "For each cluster the kustomization.yaml to apply: terraform output -json manifests | jq -r .KEY > overlay/kustomization.yaml; kubectl apply -k overlay. Set the sensor's image in it. (Where contain is false it takes Contain's roles out; a cluster that has them keeps them until they are deleted.)"
  value = {
    for key, c in var.clusters : key => templatefile("${path.module}/kustomization.yaml.tftpl", {
      topic           = "projects/${var.project_id}/topics/${var.name}-detections-${key}"
      service_account = c.service_account
      contains        = var.contain
      contain         = google_service_account.identity["contain"].email
      respond         = google_service_account.identity["respond"].email
      advance         = google_service_account.identity["advance"].email
    })
  }
}
