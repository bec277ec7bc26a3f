variable "project_id" {
  description = "Project of the alert policies."
  type        = string
}

variable "name" {
  description = "What the names of the resources begin with."
  type        = string
}

variable "notification_channels" {
  description = "Channels that are notified: projects/P/notificationChannels/N. Not the Slack channel of the pages alone: these alerts are about what pages."
  type        = list(string)
  default     = []
}

variable "dead_letter_subscription" {
  description = "Name of the subscription that keeps dead letters."
  type        = string
}

variable "push_subscriptions" {
  description = "Names of the push subscriptions."
  type        = list(string)
}

variable "functions" {
  description = "Names of the functions."
  type        = list(string)
}

variable "interact" {
  description = "Name of the function that takes clicks."
  type        = string
}

variable "sweep" {
  description = "Name of the function that the scheduler calls."
  type        = string
}

variable "workflow" {
  description = "Name of the workflow."
  type        = string
}

variable "detections_topics" {
  description = "Detections topics that must not fall silent, by the cluster's key: names of topics. A sensor says nothing while nothing is wrong: list a cluster here when a job of yours runs `contraband canary` in it every hour."
  type        = map(string)
  default     = {}
}

variable "silence" {
  description = "How long such a topic may be silent."
  type        = string
  default     = "7200s"
}

variable "playbook_url" {
  description = "Where the project's docs/troubleshooting.md is read; each alert links to its part."
  type        = string
  default     = "https://github.com/contraband-dev/contraband/blob/main/docs/troubleshooting.md"
}

variable "labels" {
  description = "Labels of every resource that takes them."
  type        = map(string)
  default     = {}
}
