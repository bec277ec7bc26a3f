# One function without a trigger: what calls it are push subscriptions, the scheduler,
# the workflow and other functions, each with an identity of its own. (An Eventarc
# trigger could not dead-letter what fails.)

resource "google_cloudfunctions2_function" "this" {
  project      = var.project_id
  location     = var.region
  name         = var.name
  description  = var.description
  labels       = var.labels
  kms_key_name = var.kms_key

  build_config {
    runtime           = var.build.runtime
    entry_point       = var.entry_point
    service_account   = var.build.service_account
    docker_repository = var.build.repository

    # The zip holds one program for each function, selected by a build tag. Without a tag
    # the program with all functions is built, which needs more memory.
    environment_variables = {
      GOFLAGS = "-tags=contraband_${lower(var.entry_point)},disable_grpc_modules,grpcnotrace"
    }

    source {
      storage_source {
        bucket = var.build.bucket
        object = var.build.object
      }
    }
  }

  service_config {
    service_account_email          = var.service_account
    available_memory               = var.memory
    timeout_seconds                = var.timeout_seconds
    min_instance_count             = var.min_instances
    max_instance_count             = var.max_instances
    ingress_settings               = var.ingress
    all_traffic_on_latest_revision = true
    environment_variables          = merge(var.environment, { for name, _ in var.files : "CONTRABAND_${upper(name)}" => "/etc/contraband/${name}/text" })
    direct_vpc_egress              = var.network == null ? null : "VPC_EGRESS_PRIVATE_RANGES_ONLY"

    dynamic "secret_environment_variables" {
      for_each = var.secrets
      content {
        key        = secret_environment_variables.key
        project_id = var.project_id
        secret     = secret_environment_variables.value
        version    = "latest"
      }
    }

    dynamic "secret_volumes" {
      for_each = var.files
      content {
        mount_path = "/etc/contraband/${secret_volumes.key}"
        project_id = var.project_id
        secret     = secret_volumes.value.secret

        versions {
          path    = "text"
          version = secret_volumes.value.version
        }
      }
    }

    dynamic "direct_vpc_network_interface" {
      for_each = var.network == null ? [] : [var.network]
      content {
        network    = direct_vpc_network_interface.value.network
        subnetwork = direct_vpc_network_interface.value.subnetwork
      }
    }
  }
}

resource "google_cloud_run_v2_service_iam_member" "invoker" {
  for_each = var.invokers

  project  = var.project_id
  location = var.region
  name     = google_cloudfunctions2_function.this.name
  role     = "roles/run.invoker"
  member   = each.value
}
