# What reports that the pipeline itself does not work. Each alert says what to do.

locals {
  oldest = [for s in var.push_subscriptions : "resource.labels.subscription_id = \"${s}\""]
  served = [for f in var.functions : "resource.labels.service_name = \"${f}\""]

  alerts = merge({
    dead-letters = {
      title     = "findings could not be handled"
      what      = "A message was given up after every retry, or can never be read. Nobody was notified of what it says. `contraband deadletter list --project ${var.project_id} --subscription ${var.dead_letter_subscription}` lists them with the reasons, and `replay` publishes them again."
      filter    = "resource.type = \"pubsub_subscription\" AND resource.labels.subscription_id = \"${var.dead_letter_subscription}\" AND metric.type = \"pubsub.googleapis.com/subscription/num_undelivered_messages\""
      threshold = 0
      duration  = "0s"
      period    = "60s"
      aligner   = "ALIGN_MAX"
      severity  = "CRITICAL"
    }
    oldest = {
      title     = "findings wait"
      what      = "The oldest message has waited for more than ten minutes: a function fails, or cannot keep up."
      filter    = "resource.type = \"pubsub_subscription\" AND (${join(" OR ", local.oldest)}) AND metric.type = \"pubsub.googleapis.com/subscription/oldest_unacked_message_age\""
      threshold = 600
      duration  = "300s"
      period    = "60s"
      aligner   = "ALIGN_MAX"
      severity  = "ERROR"
    }
    errors = {
      title     = "a function fails"
      what      = "A function has returned 5xx more than five times in ten minutes. Messages are delivered again; nothing is lost yet."
      filter    = "resource.type = \"cloud_run_revision\" AND (${join(" OR ", local.served)}) AND metric.type = \"run.googleapis.com/request_count\" AND metric.labels.response_code_class = \"5xx\""
      threshold = 5
      duration  = "0s"
      period    = "600s"
      aligner   = "ALIGN_DELTA"
      severity  = "ERROR"
    }
    clicks = {
      title     = "a press was not taken"
      what      = "Interact has returned 5xx: Slack does not send a click again, and the person sees an error at the button."
      filter    = "resource.type = \"cloud_run_revision\" AND resource.labels.service_name = \"${var.interact}\" AND metric.type = \"run.googleapis.com/request_count\" AND metric.labels.response_code_class = \"5xx\""
      threshold = 0
      duration  = "0s"
      period    = "600s"
      aligner   = "ALIGN_DELTA"
      severity  = "ERROR"
    }
    workflow = {
      title     = "a case's workflow fails"
      what      = "An execution has failed. The sweep advances its case, up to a minute later."
      filter    = "resource.type = \"workflows.googleapis.com/Workflow\" AND resource.labels.workflow_id = \"${var.workflow}\" AND metric.type = \"workflows.googleapis.com/finished_execution_count\" AND metric.labels.status = \"FAILED\""
      threshold = 0
      duration  = "0s"
      period    = "600s"
      aligner   = "ALIGN_DELTA"
      severity  = "WARNING"
    }
  })
}

resource "google_monitoring_alert_policy" "alert" {
  for_each = local.alerts

  project               = var.project_id
  display_name          = "${var.name}: ${each.value.title}"
  combiner              = "OR"
  severity              = each.value.severity
  notification_channels = var.notification_channels
  user_labels           = var.labels

  conditions {
    display_name = each.value.title

    condition_threshold {
      filter          = each.value.filter
      comparison      = "COMPARISON_GT"
      threshold_value = each.value.threshold
      duration        = each.value.duration

      aggregations {
        alignment_period   = each.value.period
        per_series_aligner = each.value.aligner
      }
    }
  }

  documentation {
    mime_type = "text/markdown"
    content   = "${each.value.what}\n\nWhat to do: ${var.playbook_url}#${each.key}"
  }
}

# Cases that wait are advanced by the sweep where nothing else does: it must run.
resource "google_monitoring_alert_policy" "sweep" {
  project               = var.project_id
  display_name          = "${var.name}: the sweep does not run"
  combiner              = "OR"
  severity              = "CRITICAL"
  notification_channels = var.notification_channels
  user_labels           = var.labels

  conditions {
    display_name = "no sweep succeeds"

    condition_absent {
      filter   = "resource.type = \"cloud_run_revision\" AND resource.labels.service_name = \"${var.sweep}\" AND metric.type = \"run.googleapis.com/request_count\" AND metric.labels.response_code_class = \"2xx\""
      duration = "900s"

      aggregations {
        alignment_period   = "300s"
        per_series_aligner = "ALIGN_DELTA"
      }
    }
  }

  documentation {
    mime_type = "text/markdown"
    content   = "No sweep has succeeded for fifteen minutes: approvals, ends and retries rest on the workflow alone.\n\nWhat to do: ${var.playbook_url}#sweep"
  }
}

resource "google_monitoring_alert_policy" "silence" {
  for_each = var.detections_topics

  project               = var.project_id
  display_name          = "${var.name}: the sensors of ${each.key} are silent"
  combiner              = "OR"
  severity              = "CRITICAL"
  notification_channels = var.notification_channels
  user_labels           = var.labels

  conditions {
    display_name = "no canary arrives"

    condition_absent {
      filter   = "resource.type = \"pubsub_topic\" AND resource.labels.topic_id = \"${each.value}\" AND metric.type = \"pubsub.googleapis.com/topic/send_request_count\""
      duration = var.silence

      aggregations {
        alignment_period   = "300s"
        per_series_aligner = "ALIGN_RATE"
      }
    }
  }

  documentation {
    mime_type = "text/markdown"
    content   = "Not even the canary was detected: the cluster is not watched.\n\nWhat to do: ${var.playbook_url}#silence"
  }
}
