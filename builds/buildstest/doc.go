// Package buildstest applies commands to a state as the replicated log does, for tests of packages
// builds and api. It has no log and no network: a Machine applies each command at once.
//
// The files: machine.go (the Machine), build.go (commands of builds), cache.go (commands of cached
// references), keyring.go (sealing keys).
package buildstest
