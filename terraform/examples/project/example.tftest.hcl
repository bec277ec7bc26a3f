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

run "it_applies" {
  command = apply
  variables {
    project_id     = "acme-security"
    project_number = "123456789012"
    package        = "../../tests/package.zip"
    slack_channel  = "C0123456789"
    cluster        = "prod"

    cluster_location      = "europe-west1-b"
    viewers               = ["group:security@example.com"]
    notification_channels = ["projects/acme-security/notificationChannels/1"]

    secrets = { slack_token = "xoxb-1", slack_signing_secret = "s" }
  }
  assert {
    condition     = output.slack_request_url != "" && keys(output.manifests) == ["prod"]
    error_message = "People are told what to do next."
  }
  assert {
    condition     = strcontains(output.manifests["prod"], "$patch: delete") && !strcontains(output.manifests["prod"], "contraband-contain@")
    error_message = "Nothing is contained, and nobody has the right to."
  }
}
