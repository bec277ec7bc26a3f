mock_provider "google" {}

variables {
  project_id = "acme-security"
  name       = "cases"
  location   = "europe-west1"
  access = {
    interact = { member = "serviceAccount:i@p.iam.gserviceaccount.com", creates = ["clicks", "wakes"] }
    sweep    = { member = "serviceAccount:s@p.iam.gserviceaccount.com", removes = ["wakes"] }
  }
}

run "cases_are_kept" {
  command = apply

  assert {
    condition     = google_storage_bucket.bucket["cases"].deletion_policy == "ABANDON" && !google_storage_bucket.bucket["cases"].force_destroy && google_storage_bucket.bucket["cases"].versioning[0].enabled
    error_message = "A destroy leaves the cases."
  }
  assert {
    condition     = google_storage_bucket_iam_member.writes["interact creates cases"].condition[0].expression == "resource.name.startsWith(\"projects/_/buckets/cases/objects/clicks/\")" && google_storage_bucket_iam_member.writes["interact creates work"].condition[0].expression == "resource.name.startsWith(\"projects/_/buckets/cases-work/objects/wakes/\")"
    error_message = "Interact creates clicks and nothing else."
  }
  assert {
    condition     = toset([for key, w in google_storage_bucket_iam_member.writes : key if w.role != "roles/storage.objectCreator"]) == toset(["sweep removes work"])
    error_message = "Only the sweep removes anything here."
  }
}

run "locked" {
  command = plan
  variables {
    retention_days = 400
    lock_retention = true
  }
  assert {
    condition     = length(google_storage_bucket.bucket["work"].retention_policy) == 0 && google_storage_bucket.bucket["cases"].retention_policy[0].is_locked && google_storage_bucket.bucket["cases"].retention_policy[0].retention_period == "34560000"
    error_message = "Evidence cannot be removed for 400 days."
  }
}

run "removed_when_told" {
  command = plan
  variables {
    on_destroy = "delete"
  }
  assert {
    condition     = google_storage_bucket.bucket["cases"].deletion_policy == "DELETE" && google_storage_bucket.bucket["cases"].force_destroy
    error_message = "Told to, a destroy removes all."
  }
}

run "something_else" {
  command         = plan
  expect_failures = [var.on_destroy]
  variables {
    on_destroy = "maybe"
  }
}
