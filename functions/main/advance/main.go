// Package function is the program that is deployed as Advance.
package function

import (
	_ "github.com/GoogleCloudPlatform/functions-framework-go/funcframework"
	_ "github.com/GoogleCloudPlatform/functions-framework-go/functions"

	"github.com/contraband-dev/contraband/functions/advance"
)

func init() { advance.Register() }
