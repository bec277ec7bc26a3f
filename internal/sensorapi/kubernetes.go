package sensorapi

// On Kubernetes an Order is the spec of an object, and its OrderStatus the status:
// kubectl get containmentorders -n contraband.
const (
	OrderGroup     = "contraband.dev"
	OrderVersion   = "v1alpha1"
	OrderKind      = "ContainmentOrder"
	OrderPlural    = "containmentorders"
	OrderNamespace = "contraband"
	OrderNodeLabel = "contraband.dev/node" // what a sensor asks for: its own node's
)
