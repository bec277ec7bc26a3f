# What carries detections to Raise and findings to Respond: topics, push subscriptions
# of our own, and where what fails for too long is kept until somebody looks.

locals {
  pubsub_agent = "serviceAccount:service-${var.project_number}@gcp-sa-pubsub.iam.gserviceaccount.com"

  # Each source: the topic, and who is pushed to.
  sources = merge(
    { findings = { topic = google_pubsub_topic.findings, push = var.respond } },
    { for key in var.detections : "detections-${key}" => { topic = google_pubsub_topic.detections[key], push = var.raise } },
  )

  # Two subscriptions for each: messages of priority (a container's first detections in a
  # minute, a sensor's health) are not behind a backlog of others. Each message matches one.
  subscriptions = merge([for key, s in local.sources : {
    (key)          = merge(s, { name = "${var.name}-${key}-later", filter = "NOT attributes.priority = \"first\"" })
    "${key}/first" = merge(s, { name = "${var.name}-${key}-first", filter = "attributes.priority = \"first\"" })
  }]...)
}

resource "google_pubsub_topic" "findings" {
  project                    = var.project_id
  name                       = "${var.name}-findings"
  labels                     = var.labels
  kms_key_name               = var.kms_key
  message_retention_duration = "604800s" # a week can be played again

  dynamic "message_storage_policy" {
    for_each = length(var.regions) == 0 ? [] : [var.regions]
    content {
      allowed_persistence_regions = message_storage_policy.value
    }
  }
}

# One for each cluster: the functions take the cluster from the topic, never from what
# a node says, and only that cluster's sensors may publish to it.
resource "google_pubsub_topic" "detections" {
  for_each = var.detections

  project                    = var.project_id
  name                       = "${var.name}-detections-${each.key}"
  labels                     = var.labels
  kms_key_name               = var.kms_key
  message_retention_duration = "604800s"

  dynamic "message_storage_policy" {
    for_each = length(var.regions) == 0 ? [] : [var.regions]
    content {
      allowed_persistence_regions = message_storage_policy.value
    }
  }
}

resource "google_pubsub_topic" "dead_letters" {
  project      = var.project_id
  name         = "${var.name}-dead-letters"
  labels       = var.labels
  kms_key_name = var.kms_key

  dynamic "message_storage_policy" {
    for_each = length(var.regions) == 0 ? [] : [var.regions]
    content {
      allowed_persistence_regions = message_storage_policy.value
    }
  }
}

# Somebody has to be able to read them: a topic without a subscription keeps nothing.
resource "google_pubsub_subscription" "dead_letters" {
  project                    = var.project_id
  name                       = "${var.name}-dead-letters"
  topic                      = google_pubsub_topic.dead_letters.id
  labels                     = var.labels
  message_retention_duration = "2678400s" # 31 days, the most there is
  ack_deadline_seconds       = 60

  expiration_policy {
    ttl = "" # never
  }
}

resource "google_pubsub_subscription" "push" {
  for_each = local.subscriptions

  project                    = var.project_id
  name                       = each.value.name
  topic                      = each.value.topic.id
  filter                     = each.value.filter
  labels                     = var.labels
  ack_deadline_seconds       = var.ack_deadline_seconds
  message_retention_duration = "604800s"

  push_config {
    # The framework takes the topic from the path.
    push_endpoint = "${each.value.push.url}/projects/${var.project_id}/topics/${each.value.topic.name}"

    oidc_token {
      service_account_email = each.value.push.pusher
      audience              = each.value.push.url
    }
  }

  retry_policy {
    minimum_backoff = "2s"
    maximum_backoff = "600s"
  }

  dead_letter_policy {
    dead_letter_topic     = google_pubsub_topic.dead_letters.id
    max_delivery_attempts = var.max_delivery_attempts
  }

  expiration_policy {
    ttl = ""
  }

  # A filter cannot be changed: the successor receives before its predecessor ends.
  lifecycle {
    create_before_destroy = true
  }

  depends_on = [google_pubsub_topic_iam_member.parks]
}

# Pub/Sub itself moves dead letters: it publishes them, and acknowledges them here.
resource "google_pubsub_topic_iam_member" "parks" {
  project = var.project_id
  topic   = google_pubsub_topic.dead_letters.name
  role    = "roles/pubsub.publisher"
  member  = local.pubsub_agent
}

resource "google_pubsub_subscription_iam_member" "parks" {
  for_each = google_pubsub_subscription.push

  project      = var.project_id
  subscription = each.value.name
  role         = "roles/pubsub.subscriber"
  member       = local.pubsub_agent
}
