output "slack_request_url" {
  description = "What the Slack app's interactivity calls."
  value       = module.contraband.slack_request_url
}

output "casebook_url" {
  description = "Where the cases are read."
  value       = module.contraband.casebook_url
}

output "dead_letters" {
  description = "How to read what could not be handled."
  value       = module.contraband.dead_letters
}

output "manifests" {
  description = "What to apply to the cluster."
  value       = module.contraband.manifests
}
