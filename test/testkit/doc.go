// Package testkit has helpers for the tests of all packages: polling, ports, a git server, a search
// for secrets. It imports the standard library only, so that the unit tests of every package can
// use it. The package harness, which runs nodes as processes, is for the tests below test.
package testkit
