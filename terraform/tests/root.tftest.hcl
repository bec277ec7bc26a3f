mock_provider "google" {
  mock_resource "google_service_account" {
    defaults = {
      id    = "projects/acme-security/serviceAccounts/contraband-mock@acme-security.iam.gserviceaccount.com"
      name  = "projects/acme-security/serviceAccounts/contraband-mock@acme-security.iam.gserviceaccount.com"
      email = "contraband-mock@acme-security.iam.gserviceaccount.com"
    }
  }

  mock_resource "google_artifact_registry_repository" {
    defaults = { id = "projects/acme-security/locations/europe-west1/repositories/contraband" }
  }

  mock_resource "google_secret_manager_secret_version" {
    defaults = { version = "1" }
  }

  mock_resource "google_scc_v2_organization_source" {
    defaults = { name = "organizations/123456789/sources/42" }
  }

  mock_resource "google_scc_v2_organization_notification_config" {
    defaults = { service_account = "service-org-123456789@gcp-sa-scc-notification.iam.gserviceaccount.com" }
  }

  mock_resource "google_scc_v2_folder_notification_config" {
    defaults = { service_account = "service-folder-1@gcp-sa-scc-notification.iam.gserviceaccount.com" }
  }

  mock_resource "google_scc_v2_project_notification_config" {
    defaults = { service_account = "service-project-1@gcp-sa-scc-notification.iam.gserviceaccount.com" }
  }

  mock_resource "google_project_iam_custom_role" {
    defaults = { name = "projects/acme-shop/roles/contraband_reach" }
  }
}

variables {
  project_id     = "acme-security"
  project_number = "123456789012"
  region         = "europe-west1"
  scope          = { organization = "123456789" }
  package        = "tests/package.zip"
  slack          = { channel = "C0123456789" }
  secrets        = { slack_token = "xoxb-1", slack_signing_secret = "s" }
  clusters = {
    prod = { project_id = "acme-shop", project_number = "210987654321", location = "europe-west1", name = "prod" }
  }
}

run "an_organization" {
  command = apply

  assert {
    condition     = google_scc_v2_organization_notification_config.findings[0].streaming_config[0].filter == "(finding_class=\"THREAT\" OR finding_class=\"SCC_ERROR\") AND (-category=\"Execution: Added Malicious Binary Executed\" OR (-parent=\"organizations/123456789/sources/42\" AND -parent=\"organizations/123456789/sources/42/locations/global\"))"
    error_message = "The filter takes threats and detector errors, without our own escalations."
  }
  assert {
    condition     = output.source == "organizations/123456789/sources/42" && length(google_scc_v2_organization_source.contraband) == 1
    error_message = "An organization without a source gets one."
  }
  assert {
    condition     = output.slack_request_url == "https://contraband-interact-123456789012.europe-west1.run.app"
    error_message = "The address of Interact is known."
  }
  assert {
    condition     = toset(keys(google_service_account.identity)) == toset(["raise", "respond", "advance", "contain", "interact", "casebook", "sweep", "workflow", "scheduler", "push-raise", "push-respond", "build"])
    error_message = "A service account for each function and each trigger."
  }
  assert {
    condition     = google_storage_bucket_object.package.name == "functions-${filesha256("tests/package.zip")}.zip"
    error_message = "The package is named by what is in it."
  }
  assert {
    condition     = strcontains(output.manifests["prod"], "contraband-detections-prod")
    error_message = "The manifests name the cluster's topic."
  }
  assert {
    condition     = keys(google_secret_manager_secret.secret) == ["slack-signing-secret", "slack-token"]
    error_message = "VirusTotal's key is asked for only where it is wanted."
  }
}

run "a_folder_with_a_source_that_is_there" {
  command = plan
  variables {
    scope       = { folder = "987654321" }
    source_name = "organizations/123456789/sources/7"
  }
  assert {
    condition     = strcontains(google_scc_v2_folder_notification_config.findings[0].streaming_config[0].filter, "organizations/123456789/sources/7") && length(google_scc_v2_organization_source.contraband) == 0
    error_message = "An existing source is used as it is."
  }
}

run "a_project_without_a_source" {
  command = plan
  variables {
    scope = { project = "acme-shop" }
  }
  assert {
    condition     = length(google_scc_v2_organization_source_iam_member.writes) == 0 && length(google_project_iam_member.scc) == 0 && output.source == null
    error_message = "Without a source nothing may be written to Security Command Center."
  }
}

run "no_containment" {
  command = plan
  variables {
    contain = false
  }
  assert {
    condition     = !contains(keys(google_project_iam_member.reach), "acme-shop contain") && strcontains(output.manifests["prod"], "$patch: delete")
    error_message = "Contain must have no way to a cluster, nor a right in it."
  }
}

run "slack_that_must_not_be_public" {
  command = plan
  variables {
    slack = { channel = "C0123456789", public = false }
  }
  assert {
    condition     = length(local.function.interact.invokers) == 0 && local.function.respond.environment.CONTRABAND_BUTTONS == "false"
    error_message = "Nobody may call it, so pages have no buttons."
  }
}

run "security_command_center_is_not_there" {
  command = plan
  variables {
    scope  = { project = "acme-shop" }
    listen = false
  }
  assert {
    condition     = length(google_scc_v2_project_notification_config.findings) == 0 && length(google_pubsub_topic_iam_member.scc_publishes) == 0
    error_message = "Nothing is asked of Security Command Center."
  }
}

run "rights_are_bounded" {
  command = plan
  assert {
    condition     = google_project_iam_member.builds["sources"].condition[0].expression == "resource.name.startsWith(\"projects/_/buckets/gcf-v2-sources-\")"
    error_message = "What builds reads its sources, and no case."
  }
  assert {
    condition     = google_project_iam_custom_role.reach["acme-shop"].permissions == toset(["container.clusters.get", "container.clusters.connect"]) && google_project_iam_custom_role.resume.permissions == toset(["workflows.callbacks.send"])
    error_message = "The roles of our own have what docs/permissions.md says."
  }
  assert {
    condition     = local.store_access.interact.creates == ["clicks", "wakes"] && local.store_access.interact.only == ["events", "callbacks"] && !can(local.store_access.interact.removes)
    error_message = "Whoever can be called by anybody may append presses and wakes."
  }
}

run "a_lock_of_nothing" {
  command         = plan
  expect_failures = [var.bucket]
  variables {
    bucket = { lock_retention = true }
  }
}

run "evidence_removed_at_once" {
  command         = plan
  expect_failures = [var.bucket]
  variables {
    bucket = { delete_after_days = 0 }
  }
}

run "a_key_of_elsewhere" {
  command         = plan
  expect_failures = [var.kms_key]
  variables {
    kms_key = "projects/p/locations/us-central1/keyRings/r/cryptoKeys/k"
  }
}

run "behind_identity_aware_proxy" {
  command = plan
  variables {
    enable_apis = true
    casebook    = { iap_audience = "/projects/123456789012/global/backendServices/1" }
  }
  assert {
    condition     = contains(keys(google_project_service.api), "iap") && local.function.casebook.invokers.iap == "serviceAccount:service-123456789012@gcp-sa-iap.iam.gserviceaccount.com"
    error_message = "The proxy may call the casebook."
  }
}

run "nobody_could_press" {
  command         = plan
  expect_failures = [var.casebook]
  variables {
    slack = { channel = "C0123456789", public = false, approvers = ["ann@example.com"] }
  }
}

run "files_of_your_own" {
  command = plan
  variables {
    policy           = "rules: [{name: all, do: [page]}]"
    exceptions       = "exceptions: []"
    detector_sources = ["organizations/1/sources/5", "organizations/1/sources/6"]
    indicators       = "# ours\naaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa a miner\n"
  }
  assert {
    condition     = keys(google_secret_manager_secret_iam_member.file) == ["exceptions advance", "exceptions respond", "indicators advance", "indicators respond", "policy advance", "policy contain", "policy respond"]
    error_message = "Each file is read by those who need it, and by nobody else."
  }
  assert {
    condition     = keys(local.function.respond.files) == ["exceptions", "indicators", "policy"] && keys(local.function.advance.files) == ["exceptions", "indicators", "policy"] && keys(local.function.contain.files) == ["policy"]
    error_message = "Each file is mounted where it is read."
  }
  assert {
    condition     = local.function.respond.environment["CONTRABAND_DETECTOR_SOURCES"] == "organizations/1/sources/5,organizations/1/sources/6" && local.function.advance.environment["CONTRABAND_DETECTOR_SOURCES"] == local.function.respond.environment["CONTRABAND_DETECTOR_SOURCES"]
    error_message = "Whoever decides knows the trusted sources."
  }
}

run "a_detector_source_of_another_form" {
  command         = plan
  expect_failures = [var.detector_sources]
  variables {
    detector_sources = ["Container Threat Detection"]
  }
}

run "indicators_that_are_none" {
  command         = plan
  expect_failures = [var.indicators]
  variables {
    indicators = "aaaa a miner"
  }
}

run "a_policy_that_is_no_yaml" {
  command         = plan
  expect_failures = [var.policy]
  variables {
    policy = "rules: [{name: all"
  }
}

run "two_scopes" {
  command         = plan
  expect_failures = [var.scope]
  variables {
    scope = { organization = "1", project = "p" }
  }
}

run "no_scope" {
  command         = plan
  expect_failures = [var.scope]
  variables {
    scope = {}
  }
}

run "two_sensors_that_are_one" {
  command         = plan
  expect_failures = [var.clusters]
  variables {
    clusters = {
      a = { project_id = "acme-shop", project_number = "210987654321", location = "europe-west1", name = "a" }
      b = { project_id = "acme-shop", project_number = "210987654321", location = "europe-west1", name = "b" }
    }
  }
}

run "two_sensors_told_apart" {
  command = plan
  variables {
    clusters = {
      a = { project_id = "acme-shop", project_number = "210987654321", location = "europe-west1", name = "a" }
      b = { project_id = "acme-shop", project_number = "210987654321", location = "europe-west1", name = "b", service_account = "contraband-sensor-b" }
    }
  }
}

run "a_channel_by_name" {
  command         = plan
  expect_failures = [var.slack]
  variables {
    slack = { channel = "#security" }
  }
}

run "cases_for_everybody" {
  command         = plan
  expect_failures = [var.casebook]
  variables {
    casebook = { viewers = ["allUsers"] }
  }
}

run "a_project_by_its_number" {
  command         = plan
  expect_failures = [var.project_id]
  variables {
    project_id = "123456789012"
  }
}

run "a_source_of_another_form" {
  command         = plan
  expect_failures = [var.source_name]
  variables {
    source_name = "projects/1/sources/2"
  }
}

run "secrets_of_nothing" {
  command         = plan
  expect_failures = [var.secrets]
  variables {
    secrets = null
  }
}

run "secrets_that_you_add" {
  command = plan
  variables {
    secrets         = null
    secrets_version = 0
  }
  assert {
    condition     = length(google_secret_manager_secret_version.secret) == 0
    error_message = "Nothing is written."
  }
}

run "virustotal_without_its_key" {
  command         = plan
  expect_failures = [var.secrets]
  variables {
    virustotal = true
  }
}

run "channels_without_their_addresses" {
  command         = plan
  expect_failures = [var.secrets]
  variables {
    channels = true
  }
}

run "no_zip" {
  command         = plan
  expect_failures = [var.package]
  variables {
    package = "tests"
  }
}
