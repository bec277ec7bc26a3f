variable "project_id" {
  description = "Project of the workflow."
  type        = string
}

variable "region" {
  description = "Region of the workflow and of the scheduler's job."
  type        = string
}

variable "name" {
  description = "What the names of the resources begin with."
  type        = string
}

variable "source_contents" {
  description = "The workflow: workflows/case.yaml."
  type        = string
}

variable "service_account" {
  description = "E-mail of the identity that the workflow runs as."
  type        = string
}

variable "advance_url" {
  description = "URL of the function Advance; also its audience."
  type        = string
}

variable "sweep" {
  description = "The function Sweep, and the identity that calls it every minute."
  type = object({
    url    = string
    caller = string
  })
}

variable "kms_key" {
  description = "Key that encrypts the workflow; null: Google's."
  type        = string
  default     = null
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
