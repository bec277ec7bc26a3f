output "bucket" {
  description = "Name of the bucket that keeps cases."
  value       = google_storage_bucket.bucket["cases"].name
}

output "url" {
  description = "The store, as the functions are given it: what is kept, and what is removed once it has served."
  value       = "gs://${google_storage_bucket.bucket["cases"].name},gs://${google_storage_bucket.bucket["work"].name}"
}
