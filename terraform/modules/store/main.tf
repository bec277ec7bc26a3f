# The case log. Nothing in it is ever updated: who may only create cannot change what
# is on record, and each function may create only its own kind of keys.

resource "google_storage_bucket" "cases" {
  project                     = var.project_id
  name                        = var.name
  location                    = var.location
  labels                      = var.labels
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = var.on_destroy == "delete"
  deletion_policy             = var.on_destroy == "delete" ? "DELETE" : "ABANDON"

  # A retention forbids versions, and makes them needless.
  dynamic "versioning" {
    for_each = var.retention_days == 0 ? [true] : []
    content {
      enabled = true
    }
  }

  dynamic "retention_policy" {
    for_each = var.retention_days == 0 ? [] : [true]
    content {
      retention_period = var.retention_days * 86400
      is_locked        = var.lock_retention
    }
  }

  dynamic "encryption" {
    for_each = var.kms_key == null ? [] : [var.kms_key]
    content {
      default_kms_key_name = encryption.value
    }
  }

  # What was removed on purpose (wakes, uploads) need not be kept twice for long.
  lifecycle_rule {
    condition {
      days_since_noncurrent_time = 30
    }
    action {
      type = "Delete"
    }
  }

  dynamic "lifecycle_rule" {
    for_each = var.delete_after_days == null ? [] : [var.delete_after_days]
    content {
      condition {
        age = lifecycle_rule.value
      }
      action {
        type = "Delete"
      }
    }
  }
}

resource "google_storage_bucket_iam_member" "reads" {
  for_each = var.access

  bucket = google_storage_bucket.cases.name
  role   = "roles/storage.objectViewer"
  member = each.value.member
}

locals {
  objects = "projects/_/buckets/${google_storage_bucket.cases.name}/objects"
}

resource "google_storage_bucket_iam_member" "creates" {
  for_each = { for name, a in var.access : name => a if length(a.creates) > 0 }

  bucket = google_storage_bucket.cases.name
  role   = "roles/storage.objectCreator"
  member = each.value.member

  condition {
    title      = "${each.key} creates its own keys"
    expression = join(" || ", [for p in each.value.creates : "resource.name.startsWith(\"${local.objects}/${p}/\")"])
  }
}

resource "google_storage_bucket_iam_member" "removes" {
  for_each = { for name, a in var.access : name => a if length(a.removes) > 0 }

  bucket = google_storage_bucket.cases.name
  role   = "roles/storage.objectUser"
  member = each.value.member

  condition {
    title      = "${each.key} removes what has served"
    expression = join(" || ", [for p in each.value.removes : "resource.name.startsWith(\"${local.objects}/${p}/\")"])
  }
}
