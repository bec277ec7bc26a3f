# The case log, in two buckets. In the first everything is only ever created: a
# retention can be locked on it, and who may only create cannot change what is on
# record. In the second is what is removed once it has served: wakes, addresses of
# workflows that wait, uploads that nobody has verified yet, what holds a pod, who has
# which ID in Slack.

locals {
  passing = ["wakes", "callbacks", "uploads", "holds", "frozen", "people"]
  buckets = {
    cases = { name = var.name, locked = var.retention_days > 0, age = var.delete_after_days }
    work  = { name = "${var.name}-work", locked = false, age = null }
  }
}

resource "google_storage_bucket" "bucket" {
  for_each = local.buckets

  project                     = var.project_id
  name                        = each.value.name
  location                    = var.location
  labels                      = var.labels
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = var.on_destroy == "delete"
  deletion_policy             = var.on_destroy == "delete" ? "DELETE" : "ABANDON"

  # A retention forbids versions, and makes them needless.
  versioning {
    enabled = !each.value.locked
  }

  dynamic "retention_policy" {
    for_each = each.value.locked ? [true] : []
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

  # What was removed on purpose need not be kept for long.
  lifecycle_rule {
    condition {
      days_since_noncurrent_time = 30
    }
    action {
      type = "Delete"
    }
  }

  # A week's IDs of people are read in that week alone.
  dynamic "lifecycle_rule" {
    for_each = each.key == "work" ? [14] : []
    content {
      condition {
        age            = lifecycle_rule.value
        matches_prefix = ["people/"]
      }
      action {
        type = "Delete"
      }
    }
  }

  dynamic "lifecycle_rule" {
    for_each = each.value.age == null ? [] : [each.value.age]
    content {
      # A case's events are never removed: one that has lost some cannot be read.
      condition {
        age            = lifecycle_rule.value
        matches_prefix = ["evidence/", "notifications/", "budgets/"]
      }
      action {
        type = "Delete"
      }
    }
  }
}

locals {
  grant_titles = { creates = "creates its own keys", removes = "removes what has served", shares = "shares what it has looked up" }
  # Each right is about one bucket, and there about some prefixes.
  grants = merge([
    for kind in ["creates", "removes", "shares"] : merge([
      for bucket in ["cases", "work"] : {
        for who, a in var.access : "${who} ${kind} ${bucket}" => {
          member   = a.member
          bucket   = bucket
          role     = kind == "removes" ? "roles/storage.objectUser" : "roles/storage.objectCreator"
          title    = "${who} ${local.grant_titles[kind]}"
          prefixes = [for p in a[kind] : p if contains(local.passing, p) == (bucket == "work")]
        }
      }
    ]...)
  ]...)
}

resource "google_storage_bucket_iam_member" "reads" {
  for_each = merge([for who, a in var.access : {
    for bucket in a.reads : "${who} ${bucket}" => { member = a.member, bucket = bucket, only = [for p in a.only : p if contains(local.passing, p) == (bucket == "work")] }
  }]...)

  bucket = google_storage_bucket.bucket[each.value.bucket].name
  role   = "roles/storage.objectViewer"
  member = each.value.member

  # To list is a right on the bucket: it is bounded by what is asked for.
  dynamic "condition" {
    for_each = length(each.value.only) == 0 ? [] : [each.value]
    content {
      title = "${each.key}: some keys"
      expression = join(" || ", flatten([for p in condition.value.only : [
        "resource.name.startsWith(\"projects/_/buckets/${google_storage_bucket.bucket[condition.value.bucket].name}/objects/${p}/\")",
        "api.getAttribute(\"storage.googleapis.com/objectListPrefix\", \"\").startsWith(\"${p}/\")",
      ]]))
    }
  }
}

resource "google_storage_bucket_iam_member" "writes" {
  for_each = { for key, g in local.grants : key => g if length(g.prefixes) > 0 }

  bucket = google_storage_bucket.bucket[each.value.bucket].name
  role   = each.value.role
  member = each.value.member

  condition {
    title      = each.value.title
    expression = join(" || ", [for p in each.value.prefixes : "resource.name.startsWith(\"projects/_/buckets/${google_storage_bucket.bucket[each.value.bucket].name}/objects/${p}/\")"])
  }
}
