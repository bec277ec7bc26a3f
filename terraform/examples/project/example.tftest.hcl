mock_provider "google" {
  source = "../../tests/mocks"
}

run "it_applies" {
  command = apply
  variables {
    project_id     = "acme-security"
    project_number = "123456789012"
    package        = "../../tests/package.zip"
    slack_channel  = "C0123456789"
    cluster        = "prod"
    secrets        = { slack_token = "xoxb-1", slack_signing_secret = "s" }
  }
  assert {
    condition     = output.slack_request_url != "" && keys(output.manifests) == ["prod"]
    error_message = "People are told what to do next."
  }
}
