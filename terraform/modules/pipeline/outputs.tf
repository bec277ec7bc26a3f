output "findings_topic" {
  description = "The findings topic: its id (projects/P/topics/T) and its name."
  value       = { id = google_pubsub_topic.findings.id, name = google_pubsub_topic.findings.name }
}

output "dead_letter_topic" {
  description = "The dead-letter topic: its id and its name."
  value       = { id = google_pubsub_topic.dead_letters.id, name = google_pubsub_topic.dead_letters.name }
}

output "dead_letter_subscription" {
  description = "Name of the subscription that keeps dead letters."
  value       = google_pubsub_subscription.dead_letters.name
}

output "detections_topics" {
  description = "The detections topic of each cluster, by its key: projects/P/topics/T."
  value       = { for key, t in google_pubsub_topic.detections : key => t.id }
}

output "subscriptions" {
  description = "Names of the push subscriptions."
  value       = [for s in google_pubsub_subscription.push : s.name]
}
