output "policies" {
  description = "Names of the alert policies."
  value       = concat([for a in google_monitoring_alert_policy.alert : a.display_name], [for a in google_monitoring_alert_policy.silence : a.display_name])
}
