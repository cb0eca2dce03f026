// Package placement chooses nodes for copies of logs, and ranks nodes for a key. All functions are
// pure: they depend on their arguments only, so that every node that knows the same state makes the
// same choice.
//
// The package does not know how many attempts a node runs. Package scheduler chooses the node of an
// attempt, with the weights of this package.
package placement
