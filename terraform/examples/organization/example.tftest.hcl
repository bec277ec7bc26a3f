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
    project_id            = "acme-security"
    project_number        = "123456789012"
    package               = "../../tests/package.zip"
    slack_channel         = "C0123456789"
    organization          = "123456789"
    approvers             = ["U0123456789", "ann@example.com"]
    secrets               = { slack_token = "xoxb-1", slack_signing_secret = "s", virustotal_key = "v" }
    kms_key               = "projects/acme-security/locations/europe-west1/keyRings/r/cryptoKeys/k"
    notification_channels = ["projects/acme-security/notificationChannels/1"]
    clusters = {
      shop = { project_id = "acme-shop", project_number = "210987654321", location = "europe-west1", name = "prod" }
      bank = { project_id = "acme-bank", project_number = "310987654321", location = "europe-west1-b", name = "prod" }
    }
  }
  assert {
    condition     = toset(keys(output.manifests)) == toset(["shop", "bank"])
    error_message = "Each cluster has its manifests."
  }
}
