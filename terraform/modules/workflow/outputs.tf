output "workflow" {
  description = "The workflow: projects/P/locations/L/workflows/W."
  value       = google_workflows_workflow.case.id
}
