// Package function is the program that is deployed as Sweep.
package function

import (
	_ "github.com/GoogleCloudPlatform/functions-framework-go/funcframework"
	_ "github.com/GoogleCloudPlatform/functions-framework-go/functions"

	"github.com/contraband-dev/contraband/functions/sweep"
)

func init() { sweep.Register() }
