plugin "terraform" {
  enabled = true
  preset  = "all"
}

# Where each thing is in this project is said by the files' names.
rule "terraform_standard_module_structure" {
  enabled = true
}
