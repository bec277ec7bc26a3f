variable "project_id" {
  description = "Project that everything is deployed to: best one of the security team's own."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project_id))
    error_message = "project_id is a project's id, such as \"acme-security\", not its name or number."
  }
}

variable "project_number" {
  description = "Number of that project. (It is asked for instead of looked up so that a plan needs no access.)"
  type        = string

  validation {
    condition     = can(regex("^[0-9]{5,}$", var.project_number))
    error_message = "project_number is the project's number: gcloud projects describe PROJECT --format='value(projectNumber)'."
  }
}

variable "region" {
  description = "Region of everything that has one: cases do not leave it."
  type        = string

  validation {
    condition     = can(regex("^[a-z]+-[a-z]+[0-9]+$", var.region))
    error_message = "region is a region, such as \"europe-west1\"."
  }
}

variable "name" {
  description = "What the names of all resources begin with; another one for a second deployment in the project."
  type        = string
  default     = "contraband"

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{2,14}$", var.name))
    error_message = "name is 3 to 15 lower-case letters, digits and hyphens, and begins with a letter."
  }
}

variable "scope" {
  description = "Where findings are listened for: exactly one of organization (its number), folder (its number), project (its id)."
  type = object({
    organization = optional(string)
    folder       = optional(string)
    project      = optional(string)
  })

  validation {
    condition     = length([for v in [var.scope.organization, var.scope.folder, var.scope.project] : v if v != null]) == 1
    error_message = "scope has exactly one of organization, folder and project."
  }

  validation {
    condition     = can(regex("^[0-9]+$", coalesce(var.scope.organization, var.scope.folder, "1")))
    error_message = "scope.organization and scope.folder are numbers: gcloud organizations list."
  }
}

variable "source_name" {
  description = "An existing source of Security Command Center that findings are written to: organizations/N/sources/N. null: one is made when the scope is an organization; else nothing is written to SCC, and escalations live in the case and on the page."
  type        = string
  default     = null

  validation {
    condition     = can(regex("^organizations/[0-9]+/sources/[0-9]+$", coalesce(var.source_name, "organizations/1/sources/1")))
    error_message = "source_name has the form organizations/NUMBER/sources/NUMBER: gcloud scc sources describe."
  }
}

variable "detector_sources" {
  description = "The sources of Google's container detectors: organizations/N/sources/N, as gcloud scc sources list shows them (Container Threat Detection, Cloud Run Threat Detection). Findings of other sources than these and Contraband's own notify people and contain nothing. Without it Google's are recognised by display name and class, which whoever may create a source can imitate."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for s in var.detector_sources : can(regex("^organizations/[0-9]+/sources/[0-9]+$", s))])
    error_message = "detector_sources has the form organizations/NUMBER/sources/NUMBER: gcloud scc sources list."
  }
}

variable "listen" {
  description = "Listen for Security Command Center's findings in scope. false where it is not switched on: the sensors' findings then come the direct way alone."
  type        = bool
  default     = true
}

variable "clusters" {
  description = "The clusters that have our sensor, or whose pods may be contained, by a short key of yours. Two clusters of one project need different service accounts of their sensors: they share an identity pool, and so does every other cluster of that project (docs/permissions.md)."
  type = map(object({
    project_id      = string
    project_number  = string
    location        = string
    name            = string
    service_account = optional(string, "contraband-sensor")
    canary          = optional(bool, false) # a job of yours runs `contraband canary` there every hour: silence is an alert
  }))

  validation {
    condition     = alltrue([for key, _ in var.clusters : can(regex("^[a-z][a-z0-9-]{0,30}$", key))])
    error_message = "A cluster's key is up to 31 lower-case letters, digits and hyphens, and begins with a letter."
  }

  validation {
    condition     = length(distinct([for c in var.clusters : "${c.project_id}/${c.service_account}"])) == length(var.clusters)
    error_message = "Two clusters of one project have sensors with the same service account: they would be one identity, and either could speak for the other. Give one of them another service_account."
  }
}

variable "package" {
  description = "The functions' zip, as `contraband package` makes it."
  type        = string

  validation {
    condition     = endswith(var.package, ".zip")
    error_message = "package is the path of a zip: run `contraband package --out contraband-functions.zip`."
  }
}

variable "runtime" {
  description = "Runtime of the functions."
  type        = string
  default     = "go126"
}

variable "policy" {
  description = "Text of the policy file: file(\"policy.yaml\"). null: the built-in policy, which pages and contains nothing."
  type        = string
  default     = null

  validation {
    condition     = length(coalesce(var.policy, "-")) <= 65536
    error_message = "policy is longer than a secret can be (64 KiB)."
  }

  validation {
    condition     = can(yamldecode(coalesce(var.policy, "{}")))
    error_message = "policy is no YAML. `contraband policy FILE` reports every mistake with its place."
  }
}

variable "indicators" {
  description = "Text of a list of your own of known malware, lines of \"SHA-256 label\": file(\"indicators.txt\"). Without it, and without VirusTotal, only our own test program is ever malicious."
  type        = string
  default     = null

  validation {
    condition     = length(coalesce(var.indicators, "-")) <= 65536
    error_message = "indicators is longer than a secret can be (64 KiB, about 700 lines): VirusTotal knows more."
  }

  validation {
    condition     = alltrue([for line in split("\n", coalesce(var.indicators, "#")) : can(regex("^\\s*(#.*|[0-9a-fA-F]{64}(\\s.*)?)?$", line))])
    error_message = "indicators has a line that is neither \"SHA-256 label\" nor a comment (#)."
  }
}

variable "exceptions" {
  description = "Text of a file of exceptions beside those of the policy, as the sensors read it: file(\"exceptions.yaml\")."
  type        = string
  default     = null

  validation {
    condition     = length(coalesce(var.exceptions, "-")) <= 65536
    error_message = "exceptions is longer than a secret can be (64 KiB)."
  }

  validation {
    condition     = can(yamldecode(coalesce(var.exceptions, "[]")))
    error_message = "exceptions is not YAML. `contraband policy explain` reports every mistake with its place."
  }
}

variable "slack" {
  description = "The Slack app: the id of the channel, and ids of users (and, for the casebook, e-mail addresses) who may press buttons; none: whoever sees the channel. public: the endpoint for buttons can be called by anybody, and verifies Slack's signature; false where an organization policy forbids allUsers (docs/permissions.md says what to do instead). buttons: pages have them; by default where the endpoint is public."
  type = object({
    channel       = string
    approvers     = optional(list(string), [])
    public        = optional(bool, true)
    buttons       = optional(bool)
    min_instances = optional(number, 1)
  })

  validation {
    condition     = can(regex("^[CG][A-Z0-9]{7,}$", var.slack.channel))
    error_message = "slack.channel is a channel's id, such as \"C0123456789\": it is at the end of the channel's link."
  }

  validation {
    condition     = alltrue([for a in var.slack.approvers : can(regex("^([UW][A-Z0-9]{7,}|[^@ ]+@[^@ ]+)$", a))])
    error_message = "slack.approvers are ids of users, such as \"U0123456789\", and e-mail addresses."
  }
}

variable "channels" {
  description = "Notify through further channels: PagerDuty, Google Chat, signed webhooks and e-mail. secrets.channels has their addresses and keys (docs/notify.md)."
  type        = bool
  default     = false
}

variable "owners" {
  description = "Where owners are looked up besides labels, annotations and the finding. essential_contacts: the projects' Essential Contacts (grants roles/essentialcontacts.viewer in scope). project_owners: members of the projects' Owner role (grants roles/browser in scope, which shows the members of every role). keys: labels and annotations that name an owner, tried before those that are built in."
  type = object({
    essential_contacts = optional(bool, false)
    project_owners     = optional(bool, false)
    keys               = optional(list(string), [])
  })
  default = {}

  validation {
    condition     = alltrue([for key in var.owners.keys : can(regex("^([a-z0-9.-]+/)?[A-Za-z0-9][A-Za-z0-9._-]{0,62}$", key))])
    error_message = "owners.keys are labels or annotations such as example.com/owner."
  }
}

variable "virustotal" {
  description = "Ask VirusTotal, with a key of your own that its terms allow for this. Hashes are looked up; nothing is ever uploaded."
  type        = bool
  default     = false
}

variable "secrets" {
  description = "Values of the secrets. They are written, never read back, and are in no plan and no state. null: the secrets are made, and you add versions yourself (secrets_version = 0)."
  type = object({
    slack_token          = string
    slack_signing_secret = string
    virustotal_key       = optional(string)
    channels             = optional(string)
  })
  default   = null
  ephemeral = true

  validation {
    condition     = var.secrets != null || var.secrets_version == 0
    error_message = "secrets has no values to write: give them, or set secrets_version = 0 and add versions of the secrets yourself."
  }

  validation {
    condition     = var.secrets == null || !var.virustotal || try(var.secrets.virustotal_key, null) != null
    error_message = "virustotal is switched on, and secrets.virustotal_key is missing."
  }

  validation {
    condition     = var.secrets == null || !var.channels || try(var.secrets.channels, null) != null
    error_message = "channels is true, and secrets.channels is missing."
  }
}

variable "secrets_version" {
  description = "Raise it by one to write the secrets' values again; 0: you add versions yourself."
  type        = number
  default     = 1
}

variable "casebook" {
  description = "Who may read the cases (members such as group:security@example.com), and, where you put Identity-Aware Proxy in front of it, its address and audience."
  type = object({
    viewers      = optional(list(string), [])
    url          = optional(string)
    iap_audience = optional(string)
  })
  default = {}

  validation {
    condition     = alltrue([for m in var.casebook.viewers : can(regex("^(user|group|serviceAccount|domain):", m))])
    error_message = "casebook.viewers are members such as group:security@example.com; never allUsers: cases hold what attackers wrote and what your people did."
  }

  validation {
    condition     = var.slack.public || length(var.slack.approvers) == 0 || var.casebook.iap_audience != null
    error_message = "Nobody could click a button: slack.public is false, and the casebook knows who clicks only behind Identity-Aware Proxy (casebook.iap_audience). Give that, or no slack.approvers."
  }
}

variable "bucket" {
  description = "The case bucket: its name, days of retention and whether that is locked, days after which evidence is removed, and what `terraform destroy` does with it (\"keep\" or \"delete\")."
  type = object({
    name              = optional(string)
    retention_days    = optional(number, 0)
    lock_retention    = optional(bool, false)
    delete_after_days = optional(number)
    on_destroy        = optional(string, "keep")
  })
  default = {}

  validation {
    condition     = !var.bucket.lock_retention || var.bucket.retention_days > 0
    error_message = "bucket.lock_retention locks a retention, and bucket.retention_days is 0: nothing would be locked. Give the days."
  }

  validation {
    condition     = try(var.bucket.delete_after_days >= 1, var.bucket.delete_after_days == null)
    error_message = "bucket.delete_after_days is 1 or more, or null: evidence is kept for ever."
  }
}

variable "kms_key" {
  description = "Key for everything that takes one: projects/P/locations/L/keyRings/R/cryptoKeys/K. The service agents of Storage, Pub/Sub, Cloud Functions, Artifact Registry, Cloud Run, Secret Manager and Workflows need roles/cloudkms.cryptoKeyEncrypterDecrypter on it. null: Google's keys."
  type        = string
  default     = null

  validation {
    condition     = can(regex("^projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+$", coalesce(var.kms_key, "projects/p/locations/l/keyRings/r/cryptoKeys/k")))
    error_message = "kms_key has the form projects/P/locations/L/keyRings/R/cryptoKeys/K."
  }

  validation {
    condition     = var.kms_key == null || try(split("/", var.kms_key)[3] == var.region, false)
    error_message = "kms_key is of another location than region: Google's services take a key of their own region alone."
  }
}

variable "network" {
  description = "Network and subnetwork through which clusters are reached that have neither a DNS endpoint for outside traffic nor a public address. null: none."
  type = object({
    network    = string
    subnetwork = string
  })
  default = null
}

variable "contain" {
  description = "Let pods be contained. false: the function is there and has no right to reach a cluster, nor one in it (apply the manifests again after a change)."
  type        = bool
  default     = true
}

variable "keep_notifications" {
  description = "Keep each notification as it came, secrets and all. Use a key of your own."
  type        = bool
  default     = false
}

variable "notification_channels" {
  description = "Channels that are notified when the pipeline itself does not work: projects/P/notificationChannels/N."
  type        = list(string)
  default     = []
}

variable "min_instances" {
  description = "Instances of Raise and Respond that are kept warm, each: a first finding then need not wait for a start of a second or two."
  type        = number
  default     = 0
}

variable "enable_apis" {
  description = "Switch on the APIs that are needed. They stay on at a destroy."
  type        = bool
  default     = true
}

variable "deletion_protection" {
  description = "Refuse to remove the workflow."
  type        = bool
  default     = true
}

variable "labels" {
  description = "Labels of every resource that takes them."
  type        = map(string)
  default     = {}
}
