# What waits: the workflow makes it prompt, the sweep alone suffices. (A sweep that
# fails is not tried again: the next minute is.)

resource "google_workflows_workflow" "case" {
  project             = var.project_id
  region              = var.region
  name                = "${var.name}-case"
  description         = "Drives one case through what functions cannot do: waiting."
  labels              = var.labels
  service_account     = var.service_account
  source_contents     = var.source_contents
  call_log_level      = "LOG_ERRORS_ONLY"
  crypto_key_name     = var.kms_key
  deletion_protection = var.deletion_protection

  user_env_vars = {
    ADVANCE_URL      = var.advance_url
    ADVANCE_AUDIENCE = var.advance_url
  }
}

resource "google_cloud_scheduler_job" "sweep" {
  project          = var.project_id
  region           = var.region
  name             = "${var.name}-sweep"
  description      = "Has every case whose time has come go on."
  schedule         = "* * * * *"
  time_zone        = "Etc/UTC"
  attempt_deadline = "320s"

  http_target {
    http_method = "POST"
    uri         = var.sweep.url

    oidc_token {
      service_account_email = var.sweep.caller
      audience              = var.sweep.url
    }
  }
}
