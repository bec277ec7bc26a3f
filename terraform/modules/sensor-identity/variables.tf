variable "topic_project" {
  description = "Project of the detections topic."
  type        = string
}

variable "topic" {
  description = "Name of the cluster's detections topic."
  type        = string
}

variable "cluster" {
  description = "The cluster's project (id and number), and its sensor's service account."
  type = object({
    project_id      = string
    project_number  = string
    service_account = string
  })
}
