// Package function is the program that is deployed as Interact.
package function

import (
	_ "github.com/GoogleCloudPlatform/functions-framework-go/funcframework"
	_ "github.com/GoogleCloudPlatform/functions-framework-go/functions"

	"github.com/contraband-dev/contraband/functions/interact"
)

func init() { interact.Register() }
