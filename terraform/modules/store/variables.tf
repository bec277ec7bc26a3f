variable "project_id" {
  description = "Project of the bucket."
  type        = string
}

variable "name" {
  description = "Name of the bucket that keeps cases, unique in the world; the one beside it has -work after it."
  type        = string
}

variable "location" {
  description = "Location of the bucket, such as a region: cases do not leave it."
  type        = string
}

variable "kms_key" {
  description = "Key that encrypts the cases: projects/P/locations/L/keyRings/R/cryptoKeys/K. null: Google's."
  type        = string
  default     = null
}

variable "retention_days" {
  description = "Days for which nothing of a case can be removed or replaced, evidence and events alike. 0: none."
  type        = number
  default     = 0

  validation {
    condition     = var.retention_days >= 0 && var.retention_days <= 3650
    error_message = "retention_days is between 0 (no retention) and 3650."
  }
}

variable "lock_retention" {
  description = "Lock the retention: it can then never be shortened, by nobody, until every object is old enough. Cannot be undone."
  type        = bool
  default     = false
}

variable "delete_after_days" {
  description = "Days after which evidence is removed. What a case says stays. null: kept for ever."
  type        = number
  default     = null
}

variable "on_destroy" {
  description = "What `terraform destroy` does with the cases: \"keep\" leaves the buckets and all that is in them, \"delete\" removes both."
  type        = string
  default     = "keep"

  validation {
    condition     = contains(["keep", "delete"], var.on_destroy)
    error_message = "on_destroy is \"keep\" or \"delete\"."
  }
}

variable "labels" {
  description = "Labels of every resource that takes them."
  type        = map(string)
  default     = {}
}

variable "access" {
  description = "Who may do what to which keys: by the function's name its member, the buckets that it may read (cases, work), to which prefixes that is bounded (none: it is not), the prefixes that it may create, also as a cache for others (shares), and those that it may also replace or remove."
  type = map(object({
    member  = string
    reads   = optional(list(string), ["cases", "work"])
    only    = optional(list(string), [])
    creates = optional(list(string), [])
    shares  = optional(list(string), [])
    removes = optional(list(string), [])
  }))
}
