// Package function is the program that is deployed as Raise.
package function

import (
	_ "github.com/GoogleCloudPlatform/functions-framework-go/funcframework"
	_ "github.com/GoogleCloudPlatform/functions-framework-go/functions"

	"github.com/contraband-dev/contraband/functions/raise"
)

func init() { raise.Register() }
