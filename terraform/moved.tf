# What had another name before: an upgrade moves it, and removes nothing.

moved {
  from = google_pubsub_topic_iam_member.scc_publishes
  to   = google_pubsub_topic_iam_member.scc_publishes[0]
}

moved {
  from = google_secret_manager_secret.policy[0]
  to   = google_secret_manager_secret.file["policy"]
}

moved {
  from = google_secret_manager_secret_version.policy[0]
  to   = google_secret_manager_secret_version.file["policy"]
}

moved {
  from = google_secret_manager_secret_iam_member.policy["respond"]
  to   = google_secret_manager_secret_iam_member.file["policy respond"]
}

moved {
  from = google_secret_manager_secret_iam_member.policy["advance"]
  to   = google_secret_manager_secret_iam_member.file["policy advance"]
}

moved {
  from = google_secret_manager_secret_iam_member.policy["contain"]
  to   = google_secret_manager_secret_iam_member.file["policy contain"]
}
