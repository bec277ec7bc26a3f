terraform {
  required_version = ">= 1.11"

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = ">= 7.39, < 8.0"
    }
  }
}

# With a person's own credentials Security Command Center asks which project's quota is
# used; Terraform does not take it from gcloud.
provider "google" {
  project               = var.project_id
  billing_project       = var.project_id
  user_project_override = true
}
