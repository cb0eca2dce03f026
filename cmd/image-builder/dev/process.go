package dev

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/image-builder-ha/image-builder/cmd/image-builder/cli"
	"github.com/image-builder-ha/image-builder/node"
)

const (
	readyTimeout = 60 * time.Second // for a process to become ready
	stopTimeout  = 30 * time.Second // for a process to end after SIGTERM
)

// process is a started process.
type process struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{} // closed after the end
	err  error         // valid after done is closed
}

// startProcess starts a program whose output goes to dir/name.log, or to standard error if verbose.
func startProcess(dir, name string, verbose bool, program string, args ...string) (*process, error) {
	p := &process{cmd: exec.Command(program, args...), log: filepath.Join(dir, name+".log"), done: make(chan struct{})}
	f, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	defer f.Close()
	p.cmd.Stdout, p.cmd.Stderr = f, f
	if verbose {
		p.cmd.Stdout, p.cmd.Stderr = os.Stderr, os.Stderr
	}
	// In a process group of its own it does not get Ctrl-C: dev stops the processes in order.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// exitText returns how the process ended. It has to have ended.
func (p *process) exitText() string {
	if p.err == nil {
		return "status 0"
	}
	return p.err.Error()
}

// stop ends the process with SIGTERM, or SIGKILL after stopTimeout, and waits for it.
func (p *process) stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(stopTimeout):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
	return nil
}

// awaitHTTP waits until url returns 200. It returns an error if the process ends or readyTimeout is
// over. name is the subject of the error.
func (p *process) awaitHTTP(ctx context.Context, name, url string) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		if res, err := http.DefaultClient.Do(req); err == nil {
			_ = res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-p.done:
			return cli.ExitWith(cli.ExitUnavailable, fmt.Errorf("%s did not start (%w); its log is %s", name, p.err, p.log))
		case <-ctx.Done():
			return cli.ExitWith(cli.ExitUnavailable, fmt.Errorf("%s did not become ready; its log is %s", name, p.log))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// checkFree returns an error if another process listens on an address.
func checkFree(flag, address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return cli.ExitWith(cli.ExitUnavailable, node.ListenError(flag, address, err))
	}
	return l.Close()
}
