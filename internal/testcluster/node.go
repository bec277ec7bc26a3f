package testcluster

// NodeName of the whole node.
const NodeName = "node-1"

// Image that pods of tests run: testbed's.
const Image = "contraband.invalid/testbed:latest"
