# Contraband: findings in, cases out. Read it from here: each module is one part of the
# way that docs/architecture.md draws.

locals {
  labels = merge({ app = var.name }, var.labels)

  # Functions call each other: their addresses are known before they are made.
  url = { for f in local.functions : f => "https://${var.name}-${f}-${var.project_number}.${var.region}.run.app" }

  functions    = ["raise", "respond", "advance", "contain", "interact", "casebook", "sweep"]
  identities   = toset(concat(local.functions, ["workflow", "scheduler", "push-raise", "push-respond", "build"]))
  member       = { for i in local.identities : i => "serviceAccount:${google_service_account.identity[i].email}" }
  casebook_url = coalesce(var.casebook.url, local.url.casebook)

  # Times nest: a step ends before its function, the function before the case's lease
  # (420 s), the lease before Pub/Sub delivers again.
  step_seconds     = 60
  function_seconds = 300
  ack_seconds      = 600

  makes_source = var.source_name == null && var.scope.organization != null
  scope        = var.scope.organization != null ? "organizations/${var.scope.organization}" : var.scope.folder != null ? "folders/${var.scope.folder}" : "projects/${var.scope.project}"
  writes_scc   = local.makes_source || var.source_name != null
  source       = local.makes_source ? google_scc_v2_organization_source.contraband[0].name : var.source_name

  # Threats and errors of detectors, without our own escalations. Any other finding of ours
  # is wanted: an analyst may close it. Security Command Center's filters negate single
  # restrictions only.
  filter_classes = "(finding_class=\"THREAT\" OR finding_class=\"SCC_ERROR\")"
  filter_ours    = local.writes_scc ? " AND (-category=\"Execution: Added Malicious Binary Executed\" OR (-parent=\"${local.source}\" AND -parent=\"${local.source}/locations/global\"))" : ""
  filter         = "${local.filter_classes}${local.filter_ours}"

  apis = concat(var.casebook.iap_audience == null ? [] : ["iap"], var.owners.essential_contacts ? ["essentialcontacts"] : [], [
    "artifactregistry", "cloudbuild", "cloudfunctions", "cloudresourcemanager", "cloudscheduler", "container", "iam", "iamcredentials", "monitoring",
    "pubsub", "run", "secretmanager", "securitycenter", "storage", "workflowexecutions", "workflows",
  ])
}

resource "google_project_service" "api" {
  for_each = var.enable_apis ? toset(local.apis) : []

  project            = var.project_id
  service            = "${each.key}.googleapis.com"
  disable_on_destroy = false
}

# One identity for each function, and one for each that calls one.
resource "google_service_account" "identity" {
  for_each = local.identities

  project      = var.project_id
  account_id   = "${var.name}-${each.key}"
  display_name = "Contraband: ${each.key}"

  depends_on = [google_project_service.api]
}

# ---- Security Command Center

resource "google_scc_v2_organization_source" "contraband" {
  count = local.makes_source ? 1 : 0

  organization = var.scope.organization
  display_name = var.name # unique in the organization, and never removed
  description  = "Programs that were not in a container's image."

  depends_on = [google_project_service.api]
}

locals {
  source_parts = local.writes_scc ? split("/", local.source) : []
  writers      = local.writes_scc ? toset(["raise", "respond", "advance"]) : toset([])
  readers      = toset(["respond", "advance"])
  # What respond and advance may read, or link a case to, in the scope.
  scope_roles = concat(
    local.writes_scc ? ["roles/securitycenter.findingsViewer", "roles/securitycenter.externalSystemsEditor"] : [],
    var.owners.essential_contacts ? ["roles/essentialcontacts.viewer"] : [],
    var.owners.project_owners ? ["roles/browser"] : [],
  )
  scc_roles = {
    for pair in setproduct(local.readers, local.scope_roles) :
    "${pair[0]} ${pair[1]}" => { member = local.member[pair[0]], role = pair[1] }
  }
}

resource "google_scc_v2_organization_source_iam_member" "writes" {
  for_each = local.writers

  organization = local.source_parts[1]
  source       = local.source_parts[3]
  role         = "roles/securitycenter.findingsEditor"
  member       = local.member[each.key]
}

resource "google_organization_iam_member" "scc" {
  for_each = var.scope.organization == null ? {} : local.scc_roles

  org_id = var.scope.organization
  role   = each.value.role
  member = each.value.member
}

resource "google_folder_iam_member" "scc" {
  for_each = var.scope.folder == null ? {} : local.scc_roles

  folder = "folders/${var.scope.folder}"
  role   = each.value.role
  member = each.value.member
}

resource "google_project_iam_member" "scc" {
  for_each = var.scope.project == null ? {} : local.scc_roles

  project = var.scope.project
  role    = each.value.role
  member  = each.value.member
}

resource "google_scc_v2_organization_notification_config" "findings" {
  count = var.listen && var.scope.organization != null ? 1 : 0

  organization = var.scope.organization
  config_id    = var.name
  description  = "Findings for Contraband."
  pubsub_topic = module.pipeline.findings_topic.id

  streaming_config {
    filter = local.filter
  }
}

resource "google_scc_v2_folder_notification_config" "findings" {
  count = var.listen && var.scope.folder != null ? 1 : 0

  folder       = var.scope.folder
  config_id    = var.name
  description  = "Findings for Contraband."
  pubsub_topic = module.pipeline.findings_topic.id

  streaming_config {
    filter = local.filter
  }
}

resource "google_scc_v2_project_notification_config" "findings" {
  count = var.listen && var.scope.project != null ? 1 : 0

  project      = var.scope.project
  config_id    = var.name
  description  = "Findings for Contraband."
  pubsub_topic = module.pipeline.findings_topic.id

  streaming_config {
    filter = local.filter
  }
}

# The config's own service account publishes.
resource "google_pubsub_topic_iam_member" "scc_publishes" {
  count = var.listen ? 1 : 0

  project = var.project_id
  topic   = module.pipeline.findings_topic.name
  role    = "roles/pubsub.publisher"
  member = "serviceAccount:${one(concat(
    google_scc_v2_organization_notification_config.findings[*].service_account,
    google_scc_v2_folder_notification_config.findings[*].service_account,
    google_scc_v2_project_notification_config.findings[*].service_account,
  ))}"
}

# ---- what carries messages, and what keeps cases

module "pipeline" {
  source = "./modules/pipeline"

  project_id           = var.project_id
  project_number       = var.project_number
  name                 = var.name
  detections           = toset(keys(var.clusters))
  ack_deadline_seconds = local.ack_seconds
  kms_key              = var.kms_key
  regions              = [var.region]
  labels               = local.labels

  raise   = { url = local.url.raise, pusher = google_service_account.identity["push-raise"].email }
  respond = { url = local.url.respond, pusher = google_service_account.identity["push-respond"].email }

  depends_on = [google_project_service.api]
}

resource "google_pubsub_topic_iam_member" "publishes" {
  for_each = {
    raise-findings       = { who = "raise", topic = module.pipeline.findings_topic.name }
    raise-dead-letters   = { who = "raise", topic = module.pipeline.dead_letter_topic.name }
    respond-dead-letters = { who = "respond", topic = module.pipeline.dead_letter_topic.name }
  }

  project = var.project_id
  topic   = each.value.topic
  role    = "roles/pubsub.publisher"
  member  = local.member[each.value.who]
}

module "store" {
  source = "./modules/store"

  project_id        = var.project_id
  name              = coalesce(var.bucket.name, "${var.project_id}-${var.name}-cases")
  location          = var.region
  kms_key           = var.kms_key
  retention_days    = var.bucket.retention_days
  lock_retention    = var.bucket.lock_retention
  delete_after_days = var.bucket.delete_after_days
  on_destroy        = var.bucket.on_destroy
  labels            = local.labels

  access = local.store_access

  depends_on = [google_project_service.api]
}

# Which keys each may create, and also replace or remove; docs/permissions.md has the same.
locals {
  store_access = {
    respond = {
      member  = local.member.respond
      shares  = ["people"]
      creates = concat(["events", "findings", "occurrences", "clicks", "wakes"], var.keep_notifications ? ["notifications"] : [])
    }
    advance = {
      member  = local.member.advance
      shares  = ["people"]
      creates = ["events", "findings", "occurrences", "clicks", "wakes", "executions"]
      removes = ["callbacks"]
    }
    contain = {
      member  = local.member.contain
      creates = ["evidence", "budgets"]
      removes = ["uploads", "holds", "frozen"]
    }
    interact = { member = local.member.interact, only = ["events", "callbacks"], creates = ["clicks", "wakes"] }
    casebook = { member = local.member.casebook, creates = ["clicks", "wakes"] }
    sweep    = { member = local.member.sweep, reads = ["work"], removes = ["wakes"] }
  }
}

# ---- secrets, and the policy file

locals {
  secrets = toset(concat(["slack-token", "slack-signing-secret"], var.virustotal ? ["virustotal-key"] : [], var.channels ? ["channels"] : []))
  readers_of = merge(
    { for f in ["respond", "advance"] : "slack-token ${f}" => { secret = "slack-token", who = f } },
    { "slack-signing-secret interact" = { secret = "slack-signing-secret", who = "interact" } },
    var.virustotal ? { for f in ["respond", "advance"] : "virustotal-key ${f}" => { secret = "virustotal-key", who = f } } : {},
    var.channels ? { for f in ["respond", "advance"] : "channels ${f}" => { secret = "channels", who = f } } : {},
  )
}

resource "google_secret_manager_secret" "secret" {
  for_each = local.secrets

  project   = var.project_id
  secret_id = "${var.name}-${each.key}"
  labels    = local.labels

  replication {
    user_managed {
      replicas {
        location = var.region

        dynamic "customer_managed_encryption" {
          for_each = var.kms_key == null ? [] : [var.kms_key]
          content {
            kms_key_name = customer_managed_encryption.value
          }
        }
      }
    }
  }

  depends_on = [google_project_service.api]
}

resource "google_secret_manager_secret_version" "secret" {
  for_each = var.secrets_version > 0 ? local.secrets : toset([])

  secret                 = google_secret_manager_secret.secret[each.key].id
  secret_data_wo         = var.secrets == null ? "" : { slack-token = var.secrets.slack_token, slack-signing-secret = var.secrets.slack_signing_secret, virustotal-key = var.secrets.virustotal_key, channels = var.secrets.channels }[each.key]
  secret_data_wo_version = var.secrets_version

  lifecycle {
    create_before_destroy = true # what runs reads the one before until it is replaced
  }
}

resource "google_secret_manager_secret_iam_member" "reads" {
  for_each = local.readers_of

  project   = var.project_id
  secret_id = google_secret_manager_secret.secret[each.value.secret].secret_id
  role      = "roles/secretmanager.secretAccessor"
  member    = local.member[each.value.who]
}

# The policy, the indicator list and the exceptions are no secrets, but are mounted like
# them: a version of each is what runs.
locals {
  file_texts = { policy = var.policy, indicators = var.indicators, exceptions = var.exceptions }
  files      = toset([for name, text in local.file_texts : name if text != null])
  file_readers = {
    policy     = ["respond", "advance", "contain"]
    indicators = ["respond", "advance"]
    exceptions = ["respond", "advance"]
  }
}

resource "google_secret_manager_secret" "file" {
  for_each = local.files

  project   = var.project_id
  secret_id = "${var.name}-${each.key}"
  labels    = local.labels

  replication {
    user_managed {
      replicas {
        location = var.region

        dynamic "customer_managed_encryption" {
          for_each = var.kms_key == null ? [] : [var.kms_key]
          content {
            kms_key_name = customer_managed_encryption.value
          }
        }
      }
    }
  }

  depends_on = [google_project_service.api]
}

resource "google_secret_manager_secret_version" "file" {
  for_each = local.files

  secret      = google_secret_manager_secret.file[each.key].id
  secret_data = local.file_texts[each.key]

  lifecycle {
    create_before_destroy = true
  }
}

resource "google_secret_manager_secret_iam_member" "file" {
  for_each = merge([for name in local.files : { for who in local.file_readers[name] : "${name} ${who}" => { file = name, who = who } }]...)

  project   = var.project_id
  secret_id = google_secret_manager_secret.file[each.value.file].secret_id
  role      = "roles/secretmanager.secretAccessor"
  member    = local.member[each.value.who]
}

# ---- functions

resource "google_storage_bucket" "packages" {
  project                     = var.project_id
  name                        = "${var.project_id}-${var.name}-packages"
  location                    = var.region
  labels                      = local.labels
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = true

  versioning {
    enabled = true
  }

  dynamic "encryption" {
    for_each = var.kms_key == null ? [] : [var.kms_key]
    content {
      default_kms_key_name = encryption.value
    }
  }

  depends_on = [google_project_service.api]
}

# Named by what is in it: a new package is a new object, and nothing else is a change.
resource "google_storage_bucket_object" "package" {
  bucket = google_storage_bucket.packages.name
  name   = "functions-${filesha256(var.package)}.zip"
  source = var.package
}

# What is built of the package. With a key of yours it must be a repository that has it too.
resource "google_artifact_registry_repository" "functions" {
  project       = var.project_id
  location      = var.region
  repository_id = var.name
  description   = "Images of Contraband's functions."
  format        = "DOCKER"
  kms_key_name  = var.kms_key
  labels        = local.labels

  depends_on = [google_project_service.api]
}

# What builds reads the package and Google's copy of it, writes the image, and can reach
# no case.
resource "google_project_iam_member" "builds" {
  for_each = {
    logs    = { role = "roles/logging.logWriter", only = null }
    sources = { role = "roles/storage.objectViewer", only = "resource.name.startsWith(\"projects/_/buckets/gcf-v2-sources-\")" }
  }

  project = var.project_id
  role    = each.value.role
  member  = local.member.build

  dynamic "condition" {
    for_each = each.value.only == null ? [] : [each.value.only]
    content {
      title      = "sources of functions"
      expression = condition.value
    }
  }
}

resource "google_artifact_registry_repository_iam_member" "builds" {
  project    = var.project_id
  location   = var.region
  repository = google_artifact_registry_repository.functions.name
  role       = "roles/artifactregistry.writer"
  member     = local.member.build
}

resource "google_storage_bucket_iam_member" "builds" {
  bucket = google_storage_bucket.packages.name
  role   = "roles/storage.objectViewer"
  member = local.member.build
}

locals {
  build = {
    runtime         = var.runtime
    service_account = google_service_account.identity["build"].id
    bucket          = google_storage_bucket.packages.name
    object          = google_storage_bucket_object.package.name
    repository      = google_artifact_registry_repository.functions.id
  }
  file = { for name in local.files : name => { secret = google_secret_manager_secret.file[name].secret_id, version = google_secret_manager_secret_version.file[name].version } }

  common = {
    GOOGLE_CLOUD_PROJECT = var.project_id
    CONTRABAND_STORE     = module.store.url
  }
  topics = {
    CONTRABAND_FINDINGS_TOPIC    = module.pipeline.findings_topic.name
    CONTRABAND_DEAD_LETTER_TOPIC = module.pipeline.dead_letter_topic.name
  }
  # What is not configured is not there.
  scc = local.writes_scc ? { CONTRABAND_SCC_SOURCE = "${local.source}/locations/global", CONTRABAND_SCC_SCOPE = local.scope } : {}
  iap = var.casebook.iap_audience == null ? {} : { CONTRABAND_IAP_AUDIENCE = var.casebook.iap_audience }

  # New values of secrets are read when an instance starts: a new version is a change.
  secrets_are = { CONTRABAND_SECRETS_VERSION = tostring(var.secrets_version) }

  owner_sources = merge(
    length(var.owners.keys) > 0 ? { CONTRABAND_OWNER_KEYS = join(",", var.owners.keys) } : {},
    var.owners.essential_contacts ? { CONTRABAND_ESSENTIAL_CONTACTS = "true" } : {},
    var.owners.project_owners ? { CONTRABAND_PROJECT_OWNERS = "true" } : {},
  )
  detector_sources = length(var.detector_sources) == 0 ? {} : { CONTRABAND_DETECTOR_SOURCES = join(",", var.detector_sources) }
  case_environment = merge(local.common, local.topics, local.scc, local.secrets_are, local.owner_sources, local.detector_sources, {
    CONTRABAND_CONTAIN_URL  = local.url.contain
    CONTRABAND_CASEBOOK_URL = local.casebook_url
    CONTRABAND_WORKFLOW     = local.workflow
    CONTRABAND_BUTTONS      = tostring(coalesce(var.slack.buttons, var.slack.public))
    SLACK_CHANNEL           = var.slack.channel
  })
  case_secrets = merge(
    { SLACK_TOKEN = google_secret_manager_secret.secret["slack-token"].secret_id },
    var.channels ? { CONTRABAND_CHANNELS = google_secret_manager_secret.secret["channels"].secret_id } : {},
    var.virustotal ? { VT_API_KEY = google_secret_manager_secret.secret["virustotal-key"].secret_id } : {},
  )
  press = merge(local.common, { CONTRABAND_ADVANCE_URL = local.url.advance },
    length(var.slack.approvers) == 0 ? {} : { CONTRABAND_APPROVERS = join(",", var.slack.approvers) },
  )

  function = {
    raise = {
      what        = "Writes a detection as a finding, and hands it on."
      environment = merge(local.common, local.topics, local.scc, local.places == "" ? {} : { CONTRABAND_CLUSTERS = local.places })
      invokers    = { push = local.member.push-raise }
      min         = var.min_instances
    }
    respond = {
      what        = "Takes a finding to its case, and the case as far as it goes."
      environment = merge(local.case_environment, var.keep_notifications ? { CONTRABAND_KEEP_NOTIFICATIONS = "true" } : {})
      secrets     = local.case_secrets
      files       = local.file
      invokers    = { push = local.member.push-respond }
      memory      = "512Mi"
      min         = var.min_instances
    }
    advance = {
      what        = "Takes every step that a case is due."
      environment = local.case_environment
      secrets     = local.case_secrets
      files       = local.file
      invokers    = { for f in ["workflow", "sweep", "interact", "casebook"] : f => local.member[f] }
      ingress     = "ALLOW_ALL" # another function is not internal to it; its callers' identities are the gate
      memory      = "512Mi"
    }
    contain = {
      what        = "Carries out one claim that is on record; alone may change a cluster."
      environment = local.common
      files       = { for name, f in local.file : name => f if name == "policy" }
      invokers    = { for f in ["respond", "advance"] : f => local.member[f] }
      seconds     = local.step_seconds
      memory      = "512Mi"
      ingress     = "ALLOW_ALL"
    }
    interact = {
      what        = "Takes what people press in Slack, and verifies its signature."
      environment = merge(local.press, local.secrets_are)
      secrets     = { SLACK_SIGNING_SECRET = google_secret_manager_secret.secret["slack-signing-secret"].secret_id }
      invokers    = var.slack.public ? { slack = "allUsers" } : {}
      seconds     = 10
      min         = var.slack.min_instances
      ingress     = "ALLOW_ALL"
    }
    casebook = {
      what        = "The pages that people read."
      environment = merge(local.press, local.iap)
      invokers = merge({ for m in var.casebook.viewers : m => m },
        var.casebook.iap_audience == null ? {} : { iap = "serviceAccount:service-${var.project_number}@gcp-sa-iap.iam.gserviceaccount.com" },
      )
      seconds = local.step_seconds
      ingress = "ALLOW_ALL"
    }
    sweep = {
      what        = "Has every case whose time has come go on."
      environment = merge(local.common, { CONTRABAND_ADVANCE_URL = local.url.advance })
      invokers    = { scheduler = local.member.scheduler }
    }
  }
}

module "function" {
  source   = "./modules/function"
  for_each = local.function

  project_id      = var.project_id
  region          = var.region
  name            = "${var.name}-${each.key}"
  description     = each.value.what
  entry_point     = title(each.key)
  service_account = google_service_account.identity[each.key].email
  build           = local.build
  environment     = each.value.environment
  secrets         = try(each.value.secrets, {})
  files           = try(each.value.files, {})
  invokers        = each.value.invokers
  timeout_seconds = try(each.value.seconds, local.function_seconds)
  memory          = try(each.value.memory, "256Mi")
  min_instances   = try(each.value.min, 0)
  ingress         = try(each.value.ingress, "ALLOW_INTERNAL_ONLY")
  network         = contains(["respond", "advance", "contain"], each.key) ? var.network : null
  kms_key         = var.kms_key
  labels          = local.labels

  depends_on = [
    google_project_iam_member.builds, google_artifact_registry_repository_iam_member.builds, google_storage_bucket_iam_member.builds,
    google_secret_manager_secret_iam_member.reads, google_secret_manager_secret_iam_member.file, google_secret_manager_secret_version.secret,
  ]
}

# ---- what waits

locals {
  workflow = "projects/${var.project_id}/locations/${var.region}/workflows/${var.name}-case"
}

module "workflow" {
  source = "./modules/workflow"

  project_id          = var.project_id
  region              = var.region
  name                = var.name
  source_contents     = file("${path.module}/../workflows/case.yaml")
  service_account     = google_service_account.identity["workflow"].id
  advance_url         = local.url.advance
  sweep               = { url = local.url.sweep, caller = google_service_account.identity["scheduler"].email }
  kms_key             = var.kms_key
  deletion_protection = var.deletion_protection
  labels              = local.labels

  depends_on = [google_project_service.api]
}

# Who starts executions, and who resumes them: a role of the project, as a workflow has
# no policy of its own.
resource "google_project_iam_member" "workflow" {
  for_each = toset(["respond", "advance"])

  project = var.project_id
  role    = "roles/workflows.invoker"
  member  = local.member[each.key]
}

resource "google_project_iam_custom_role" "resume" {
  project     = var.project_id
  role_id     = replace("${var.name}_resume", "-", "_")
  title       = "Contraband: resume what waits"
  permissions = ["workflows.callbacks.send"]

  depends_on = [google_project_service.api]
}

resource "google_project_iam_member" "resume" {
  for_each = toset(["interact", "casebook"])

  project = var.project_id
  role    = google_project_iam_custom_role.resume.name
  member  = local.member[each.key]
}

resource "google_project_iam_member" "workflow_logs" {
  project = var.project_id
  role    = "roles/logging.logWriter"
  member  = local.member.workflow
}

# ---- clusters

locals {
  places           = join(",", [for key, c in var.clusters : "projects/${var.project_id}/topics/${var.name}-detections-${key}=${c.project_id}/${c.location}/${c.name}"])
  cluster_projects = toset([for c in var.clusters : c.project_id])
  reaching = {
    for pair in setproduct(local.cluster_projects, concat(["respond", "advance"], var.contain ? ["contain"] : [])) :
    "${pair[0]} ${pair[1]}" => { project = pair[0], who = pair[1] }
  }
}

# To describe a cluster and to reach it by its DNS endpoint. What may be done inside
# says the cluster's own RBAC (manifests/cluster).
resource "google_project_iam_custom_role" "reach" {
  for_each = local.cluster_projects

  project     = each.key
  role_id     = replace("${var.name}_reach", "-", "_")
  title       = "Contraband: reach clusters"
  permissions = ["container.clusters.get", "container.clusters.connect"]

  depends_on = [google_project_service.api]
}

resource "google_project_iam_member" "reach" {
  for_each = local.reaching

  project = each.value.project
  role    = google_project_iam_custom_role.reach[each.value.project].name
  member  = local.member[each.value.who]
}

# Contain signs the address to which a sensor sends evidence, as itself.
resource "google_service_account_iam_member" "signs" {
  service_account_id = google_service_account.identity["contain"].name
  role               = "roles/iam.serviceAccountTokenCreator"
  member             = local.member.contain
}

# Pub/Sub proves who pushes with a token of the pusher's.
resource "google_service_account_iam_member" "pushes" {
  for_each = toset(["push-raise", "push-respond"])

  service_account_id = google_service_account.identity[each.key].name
  role               = "roles/iam.serviceAccountTokenCreator"
  member             = "serviceAccount:service-${var.project_number}@gcp-sa-pubsub.iam.gserviceaccount.com"

  depends_on = [module.pipeline] # Google makes the agent when Pub/Sub is first used
}

module "sensor" {
  source   = "./modules/sensor-identity"
  for_each = var.clusters

  topic_project = var.project_id
  topic         = "${var.name}-detections-${each.key}"
  cluster       = each.value

  depends_on = [module.pipeline]
}

# ---- what reports that it does not work

module "alerts" {
  source = "./modules/alerts"

  project_id               = var.project_id
  name                     = var.name
  notification_channels    = var.notification_channels
  dead_letter_subscription = module.pipeline.dead_letter_subscription
  push_subscriptions       = module.pipeline.subscriptions
  functions                = [for f in local.functions : "${var.name}-${f}"]
  interact                 = "${var.name}-interact"
  sweep                    = "${var.name}-sweep"
  workflow                 = "${var.name}-case"
  detections_topics        = { for key, c in var.clusters : key => "${var.name}-detections-${key}" if c.canary }
  labels                   = local.labels

  depends_on = [google_project_service.api]
}
