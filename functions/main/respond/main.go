// Package function is the program that is deployed as Respond.
package function

import (
	_ "github.com/GoogleCloudPlatform/functions-framework-go/funcframework"
	_ "github.com/GoogleCloudPlatform/functions-framework-go/functions"

	"github.com/contraband-dev/contraband/functions/respond"
)

func init() { respond.Register() }
