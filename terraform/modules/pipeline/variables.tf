variable "project_id" {
  description = "Project of the topics."
  type        = string
}

variable "project_number" {
  description = "Number of that project: Pub/Sub's own identity is named by it."
  type        = string
}

variable "name" {
  description = "What the names of the resources begin with."
  type        = string
}

variable "detections" {
  description = "A detections topic for each cluster, by the cluster's key."
  type        = set(string)
}

variable "raise" {
  description = "The function that takes detections: its URL, and the identity that pushes to it."
  type = object({
    url    = string
    pusher = string
  })
}

variable "respond" {
  description = "The function that takes findings: its URL, and the identity that pushes to it."
  type = object({
    url    = string
    pusher = string
  })
}

variable "ack_deadline_seconds" {
  description = "How long a push may take. Longer than a case's lease (420 s), which is longer than a function's time."
  type        = number
  default     = 600

  validation {
    condition     = var.ack_deadline_seconds > 420 && var.ack_deadline_seconds <= 600
    error_message = "ack_deadline_seconds is more than a case's lease (420 s), and at most 600 s."
  }
}

variable "max_delivery_attempts" {
  description = "Deliveries after which a message goes to the dead letters."
  type        = number
  default     = 50

  validation {
    condition     = var.max_delivery_attempts >= 5 && var.max_delivery_attempts <= 100
    error_message = "max_delivery_attempts is between 5 and 100."
  }
}

variable "kms_key" {
  description = "Key that encrypts messages; null: Google's."
  type        = string
  default     = null
}

variable "regions" {
  description = "Regions that may store messages; empty: any."
  type        = list(string)
  default     = []
}

variable "labels" {
  description = "Labels of every resource that takes them."
  type        = map(string)
  default     = {}
}
