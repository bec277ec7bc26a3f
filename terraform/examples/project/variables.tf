variable "project_id" {
  description = "The project."
  type        = string
}

variable "project_number" {
  description = "Its number."
  type        = string
}

variable "region" {
  description = "Region of the functions, and of the cluster."
  type        = string
  default     = "europe-west1"
}

variable "cluster" {
  description = "Name of the cluster."
  type        = string
}

variable "package" {
  description = "The functions' zip: contraband package --out contraband-functions.zip."
  type        = string
}

variable "slack_channel" {
  description = "Id of the Slack channel that is paged."
  type        = string
}

variable "secrets" {
  description = "Slack's token and signing secret."
  type = object({
    slack_token          = string
    slack_signing_secret = string
  })
  ephemeral = true
}
