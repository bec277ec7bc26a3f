variable "project_id" {
  description = "The project."
  type        = string
}

variable "project_number" {
  description = "Its number."
  type        = string
}

variable "region" {
  description = "Region of the functions."
  type        = string
  default     = "europe-west1"
}

variable "cluster" {
  description = "Name of the cluster."
  type        = string
}

variable "cluster_location" {
  description = "The cluster's region or zone: gcloud container clusters list. null: region."
  type        = string
  default     = null
}

variable "viewers" {
  description = "Who may read the cases: members such as user:ann@example.com, group:security@example.com."
  type        = list(string)
}

variable "notification_channels" {
  description = "Who is told when the pipeline itself does not work: projects/P/notificationChannels/N, gcloud beta monitoring channels list."
  type        = list(string)
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
