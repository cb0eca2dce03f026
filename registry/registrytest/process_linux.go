package registrytest

import (
	"os/exec"
	"syscall"
)

// dieWithParent lets the kernel kill the registry when the test binary dies.
func dieWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
