//go:build !linux

package registrytest

import "os/exec"

// dieWithParent does nothing: this system has no such mechanism.
func dieWithParent(*exec.Cmd) {}
