# One project: findings of that project, one cluster in it, pages and nothing contained.

module "contraband" {
  source = "../.."

  project_id     = var.project_id
  project_number = var.project_number
  region         = var.region
  scope          = { project = var.project_id }
  package        = var.package
  slack          = { channel = var.slack_channel }
  secrets        = var.secrets
  contain        = false # the built-in policy pages alone: say true with a policy that contains

  casebook              = { viewers = var.viewers }
  notification_channels = var.notification_channels

  clusters = {
    prod = {
      project_id     = var.project_id
      project_number = var.project_number
      location       = coalesce(var.cluster_location, var.region)
      name           = var.cluster
    }
  }
}
