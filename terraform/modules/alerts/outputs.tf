output "policies" {
  description = "Names of the alert policies."
  value       = concat([google_monitoring_alert_policy.sweep.display_name], [for a in google_monitoring_alert_policy.alert : a.display_name], [for a in google_monitoring_alert_policy.silence : a.display_name])
}
