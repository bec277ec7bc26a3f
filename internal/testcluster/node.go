package testcluster

// NodeName of the whole node.
const NodeName = "node-1"
