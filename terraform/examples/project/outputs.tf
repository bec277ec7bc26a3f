output "slack_request_url" {
  description = "What the Slack app's interactivity calls."
  value       = module.contraband.slack_request_url
}

output "manifests" {
  description = "What to apply to the cluster."
  value       = module.contraband.manifests
}
