//go:build kubernetes

package kubelet

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

// Process is one program of the cluster.
type Process struct {
	name, path string
	args       []string
	log        string
	cmd        *exec.Cmd
	done       chan struct{}
}

func newProcess(dir, name, path string, args ...string) *Process {
	return &Process{name: name, path: path, args: args, log: filepath.Join(dir, name+".log")}
}

// with appends arguments to the command.
func (p *Process) with(args ...string) { p.args = append(p.args, args...) }

// Start starts the program, and does not wait until it is ready. A killed program can be started
// again.
func (p *Process) Start() error {
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the program has its own descriptor
	p.cmd, p.done = exec.Command(p.path, p.args...), make(chan struct{})
	p.cmd.Args[0] = p.name
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func(cmd *exec.Cmd, done chan struct{}) {
		defer close(done)
		// The kernel kills the program when the thread that started it ends.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // the program ends by a signal
		}
	}(p.cmd, p.done)
	if err := <-started; err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	return nil
}

// Kill ends the program by SIGKILL and waits for its end.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // fails if the program has ended
	<-p.done
}

// Pid returns the process id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Log returns the last lines of the output of the program.
func (p *Process) Log(lines int) string {
	raw, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(raw)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// Running reports whether the program runs.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}
