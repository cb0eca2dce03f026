package registrytest

import (
	"os/exec"
	"syscall"
)

// dieWithParent ends the registry with a test binary that was killed.
func dieWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
