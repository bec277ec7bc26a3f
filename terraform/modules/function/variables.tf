variable "project_id" {
  description = "Project of the function."
  type        = string
}

variable "region" {
  description = "Region of the function."
  type        = string
}

variable "name" {
  description = "Name of the function, and of its Cloud Run service."
  type        = string
}

variable "description" {
  description = "What it does, for whoever finds it in the console."
  type        = string
}

variable "entry_point" {
  description = "The registered function that is served: Raise, Respond, Advance, Contain, Interact, Casebook or Sweep."
  type        = string

  validation {
    condition     = contains(["Raise", "Respond", "Advance", "Contain", "Interact", "Casebook", "Sweep"], var.entry_point)
    error_message = "entry_point is one of Raise, Respond, Advance, Contain, Interact, Casebook, Sweep."
  }
}

variable "service_account" {
  description = "E-mail of the identity that it runs as."
  type        = string
}

variable "build" {
  description = "What builds it: the runtime, the identity of the build, the zip in its bucket, and the repository of the image."
  type = object({
    runtime         = string
    service_account = string
    bucket          = string
    object          = string
    repository      = string
  })
}

variable "environment" {
  description = "Environment variables; nothing secret."
  type        = map(string)
  default     = {}
}

variable "secrets" {
  description = "Environment variables from Secret Manager: name => secret's id."
  type        = map(string)
  default     = {}
}

variable "files" {
  description = "Files that it reads (policy, indicators, exceptions), by name: the secret and version that hold each. CONTRABAND_POLICY, for one, is where it finds it."
  type = map(object({
    secret  = string
    version = string
  }))
  default = {}
}

variable "invokers" {
  description = "Members that may call it, by a name of ours for each."
  type        = map(string)
  default     = {}
}

variable "timeout_seconds" {
  description = "Time that one call may take."
  type        = number
  default     = 300
}

variable "memory" {
  description = "Memory of an instance."
  type        = string
  default     = "256Mi"
}

variable "min_instances" {
  description = "Instances that are kept warm; each costs about USD 2 to 3 a month at 256Mi, idle."
  type        = number
  default     = 0
}

variable "max_instances" {
  description = "Most instances at once."
  type        = number
  default     = 20
}

variable "ingress" {
  description = "From where it can be reached: ALLOW_ALL, ALLOW_INTERNAL_ONLY or ALLOW_INTERNAL_AND_GCLB. Pub/Sub, Scheduler and Workflows of the project count as internal."
  type        = string
  default     = "ALLOW_INTERNAL_ONLY"

  validation {
    condition     = contains(["ALLOW_ALL", "ALLOW_INTERNAL_ONLY", "ALLOW_INTERNAL_AND_GCLB"], var.ingress)
    error_message = "ingress is ALLOW_ALL, ALLOW_INTERNAL_ONLY or ALLOW_INTERNAL_AND_GCLB."
  }
}

variable "network" {
  description = "Network and subnetwork of direct VPC egress, for clusters that are reached by a private address; null: none."
  type = object({
    network    = string
    subnetwork = string
  })
  default = null
}

variable "kms_key" {
  description = "Key that encrypts the function's source and image; null: Google's."
  type        = string
  default     = null
}

variable "labels" {
  description = "Labels of every resource that takes them."
  type        = map(string)
  default     = {}
}
