output "bucket" {
  description = "Name of the bucket."
  value       = google_storage_bucket.cases.name
}

output "url" {
  description = "The store, as the functions are given it."
  value       = "gs://${google_storage_bucket.cases.name}"
}
