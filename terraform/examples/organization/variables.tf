variable "organization" {
  description = "Number of the organization."
  type        = string
}

variable "project_id" {
  description = "The security team's project."
  type        = string
}

variable "project_number" {
  description = "Its number."
  type        = string
}

variable "clusters" {
  description = "The clusters, by a short key."
  type = map(object({
    project_id      = string
    project_number  = string
    location        = string
    name            = string
    service_account = optional(string, "contraband-sensor")
    canary          = optional(bool, false)
  }))
}

variable "package" {
  description = "The functions' zip: contraband package --out contraband-functions.zip."
  type        = string
}

variable "slack_channel" {
  description = "Id of the Slack channel that is paged."
  type        = string
}

variable "approvers" {
  description = "Who may press buttons: ids of Slack users and e-mail addresses."
  type        = list(string)
}

variable "secrets" {
  description = "Slack's token and signing secret, and VirusTotal's key."
  type = object({
    slack_token          = string
    slack_signing_secret = string
    virustotal_key       = string
  })
  ephemeral = true
}

variable "kms_key" {
  description = "Key that encrypts everything that takes one."
  type        = string
}

variable "notification_channels" {
  description = "Who is told when the pipeline itself does not work."
  type        = list(string)
}
