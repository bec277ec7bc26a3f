mock_provider "google" {}

variables {
  project_id      = "acme-security"
  region          = "europe-west1"
  name            = "contraband-respond"
  description     = "x"
  entry_point     = "Respond"
  service_account = "r@p.iam.gserviceaccount.com"
  build           = { runtime = "go126", service_account = "projects/p/serviceAccounts/b@p.iam.gserviceaccount.com", bucket = "b", object = "o", repository = "projects/p/locations/europe-west1/repositories/r" }
  environment     = { A = "b" }
  secrets         = { SLACK_TOKEN = "contraband-slack-token" }
  files           = { policy = { secret = "contraband-policy", version = "3" } }
  invokers        = { push = "serviceAccount:p@p.iam.gserviceaccount.com" }
}

run "no_trigger" {
  command = apply

  assert {
    condition     = length(google_cloudfunctions2_function.this.event_trigger) == 0
    error_message = "An Eventarc trigger cannot dead-letter."
  }
  assert {
    condition     = google_cloudfunctions2_function.this.service_config[0].environment_variables["CONTRABAND_POLICY"] == "/etc/contraband/policy/text" && one(google_cloudfunctions2_function.this.service_config[0].secret_volumes[0].versions).version == "3"
    error_message = "The policy that runs is a version of it."
  }
  assert {
    condition     = google_cloudfunctions2_function.this.service_config[0].ingress_settings == "ALLOW_INTERNAL_ONLY" && google_cloud_run_v2_service_iam_member.invoker["push"].role == "roles/run.invoker"
    error_message = "Closed unless told otherwise."
  }
}

run "an_unknown_function" {
  command         = plan
  expect_failures = [var.entry_point]
  variables {
    entry_point = "Explode"
  }
}
