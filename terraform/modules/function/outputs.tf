output "name" {
  description = "Name of the function."
  value       = google_cloudfunctions2_function.this.name
}

output "uri" {
  description = "Where the platform says that it is served."
  value       = google_cloudfunctions2_function.this.service_config[0].uri
}
