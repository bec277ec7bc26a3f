mock_provider "google" {}

variables {
  project_id      = "acme-security"
  region          = "europe-west1"
  name            = "contraband"
  source_contents = "main: {steps: []}"
  service_account = "projects/p/serviceAccounts/w@p.iam.gserviceaccount.com"
  advance_url     = "https://advance"
  sweep           = { url = "https://sweep", caller = "s@p.iam.gserviceaccount.com" }
}

run "every_minute" {
  command = apply

  assert {
    condition     = google_cloud_scheduler_job.sweep.schedule == "* * * * *" && google_cloud_scheduler_job.sweep.http_target[0].oidc_token[0].audience == "https://sweep"
    error_message = "The sweep comes every minute, and says who it is."
  }
  assert {
    condition     = google_workflows_workflow.case.user_env_vars == tomap({ ADVANCE_URL = "https://advance", ADVANCE_AUDIENCE = "https://advance" }) && google_workflows_workflow.case.deletion_protection
    error_message = "The workflow knows whom to call, and is protected."
  }
}
