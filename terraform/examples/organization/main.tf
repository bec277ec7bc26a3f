# An organization: all its findings, a source of our own, two clusters of two projects,
# a policy that contains, keys of our own, a locked retention, alerts.

module "contraband" {
  source = "../.."

  project_id            = var.project_id
  project_number        = var.project_number
  region                = "europe-west1"
  scope                 = { organization = var.organization }
  package               = var.package
  policy                = file("${path.module}/policy.yaml")
  virustotal            = true
  secrets               = var.secrets
  kms_key               = var.kms_key
  notification_channels = var.notification_channels
  min_instances         = 1
  labels                = { team = "security" }

  slack = {
    channel   = var.slack_channel
    approvers = var.approvers
  }

  casebook = {
    viewers = ["group:security@example.com"]
  }

  bucket = {
    retention_days = 400
    lock_retention = true
  }

  clusters = var.clusters
}
