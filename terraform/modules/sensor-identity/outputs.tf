output "member" {
  description = "The sensor's principal."
  value       = local.member
}
