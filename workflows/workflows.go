// Package workflows holds what is deployed to Cloud Workflows; it decides nothing.
package workflows

import _ "embed"

// Case drives one case.
//
//go:embed case.yaml
var Case []byte
