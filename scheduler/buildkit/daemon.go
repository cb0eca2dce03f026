package buildkit

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/moby/buildkit/client"
)

const (
	startTimeout = 20 * time.Second
	// stopTimeout bounds the time between SIGTERM and SIGKILL.
	stopTimeout  = 10 * time.Second
	cleanTimeout = 5 * time.Second
	// maxSocketPath is the kernel's limit for the path of a unix socket, in bytes.
	maxSocketPath = 107
)

// DaemonOptions configures a local daemon.
type DaemonOptions struct {
	// Binary is the path of buildkitd; if empty, it is looked up in PATH. It needs root and, in
	// PATH, runc and, for git contexts, git.
	Binary string
	// Root is the folder of the daemon. It outlives the daemon, so that the next one finds a warm
	// cache. Only one daemon can use it at a time.
	Root string
	// Logger receives the log of the daemon at level debug. Required.
	Logger *slog.Logger
	// GCBytes is the size to which the daemon trims its cache, in bytes; 10 GiB if zero.
	GCBytes int64
}

// Daemon is a local buildkitd for `dev` and for tests. It runs in pid and mount namespaces of its
// own, so that all processes that it has started end with it, however it ends. Its containers use
// the network of this machine.
type Daemon struct {
	addr string
	lock *os.File
	root string
	temp string // folder of the socket; "" if the socket is in root
	pid  int    // of unshare
	done chan struct{}
	stop sync.Once
	err  error // the result of Stop
}

// StartDaemon starts a daemon and returns once it responds, or an error after 20 s. The caller
// stops the daemon. The kernel kills it if this process ends.
func StartDaemon(ctx context.Context, o DaemonOptions) (_ *Daemon, err error) {
	if o.Binary == "" {
		o.Binary = "buildkitd"
	}
	binary, err := exec.LookPath(o.Binary)
	if err != nil {
		return nil, fmt.Errorf("start BuildKit: %w", err)
	}
	root, err := filepath.Abs(o.Root)
	if err != nil {
		return nil, fmt.Errorf("start BuildKit: %w", err)
	}
	d := &Daemon{root: root, done: make(chan struct{})}
	if d.lock, err = lockRoot(root); err != nil {
		return nil, fmt.Errorf("start BuildKit: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.release())
		}
	}()
	// A daemon that was killed may have left mounts and control groups behind.
	if err := clean(root); err != nil {
		return nil, fmt.Errorf("start BuildKit: %w", err)
	}
	if err := d.start(binary, o); err != nil {
		return nil, fmt.Errorf("start BuildKit: %w", err)
	}
	if err := d.ready(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start BuildKit: %w", err), d.kill())
	}
	return d, nil
}

// Addr returns the URL that the daemon listens on.
func (d *Daemon) Addr() string { return d.addr }

// Stop ends the daemon: with SIGTERM, and with SIGKILL when ctx ends or after 10 s, which is usual
// while solves run. When it returns, no process and no mount of the daemon is left. Further calls
// return the result of the first.
func (d *Daemon) Stop(ctx context.Context) error {
	d.stop.Do(func() { d.err = d.shutDown(ctx) })
	return d.err
}

func (d *Daemon) shutDown(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	if pid, ok := childOf(d.pid); ok {
		_ = syscall.Kill(pid, syscall.SIGTERM) // ESRCH: it has ended already
	}
	select {
	case <-d.done:
	case <-ctx.Done():
	}
	return errors.Join(d.kill(), clean(d.root), d.release())
}

// clean removes the mounts and control groups that a daemon left in the kernel when it ended.
func clean(root string) error {
	ctx, cancel := context.WithTimeout(context.Background(), cleanTimeout)
	defer cancel()
	return errors.Join(unmountUnder(root), removeCgroups(ctx, cgroupOf(root)))
}

// kill ends the pid namespace and all processes in it.
func (d *Daemon) kill() error {
	select {
	case <-d.done:
		return nil
	default:
	}
	if err := syscall.Kill(d.pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("kill BuildKit: %w", err)
	}
	<-d.done
	return nil
}

// release releases the lock and removes the folder of the socket.
func (d *Daemon) release() error {
	err := d.lock.Close()
	if d.temp != "" {
		err = errors.Join(err, os.RemoveAll(d.temp))
	}
	return err
}

// start starts the processes and returns without waiting for the daemon to be ready.
func (d *Daemon) start(binary string, o DaemonOptions) error {
	socket := filepath.Join(d.root, "buildkitd.sock")
	if len(socket) > maxSocketPath {
		temp, err := os.MkdirTemp("", "buildkitd-")
		if err != nil {
			return fmt.Errorf("make a folder for the socket: %w", err)
		}
		d.temp, socket = temp, filepath.Join(temp, "buildkitd.sock")
	}
	d.addr = "unix://" + socket
	config := filepath.Join(d.root, "buildkitd.toml")
	if err := os.WriteFile(config, []byte(daemonConfig(o.GCBytes, cgroupOf(d.root))), 0o600); err != nil {
		return fmt.Errorf("write its configuration: %w", err)
	}
	cmd := exec.Command("unshare", "--pid", "--fork", "--kill-child=SIGKILL", "--mount-proc",
		binary, "--config", config, "--root", filepath.Join(d.root, "root"), "--addr", d.addr,
		"--oci-worker=true", "--containerd-worker=false", "--oci-worker-net=host")
	// The daemon does not limit output; the log store does.
	cmd.Env = append(os.Environ(), "BUILDKIT_STEP_LOG_MAX_SIZE=-1", "BUILDKIT_STEP_LOG_MAX_SPEED=-1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	output, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	started := make(chan error)
	go func() {
		defer close(d.done)
		// Pdeathsig is bound to the thread that starts the child: the thread must not end before
		// the child does.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		if err == nil {
			d.pid = cmd.Process.Pid
		}
		started <- err
		if err != nil {
			return
		}
		logLines(output, o.Logger)
		_ = cmd.Wait() // it always ends by a signal
	}()
	return <-started
}

// ready blocks until the daemon responds.
func (d *Daemon) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	c, err := client.New(ctx, d.addr)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }() // used for the check only
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err = c.ListWorkers(ctx); err == nil {
			return nil
		}
		select {
		case <-d.done:
			return errors.New("buildkitd has ended: see its log at level debug")
		case <-ctx.Done():
			return fmt.Errorf("buildkitd does not answer: %w", err)
		case <-tick.C:
		}
	}
}

func daemonConfig(gcBytes int64, cgroup string) string {
	if gcBytes == 0 {
		gcBytes = 10 << 30
	}
	return fmt.Sprintf(`[worker.oci]
  gc = true
  reservedSpace = "%[1]d"
  maxUsedSpace = "%[1]d"
  defaultCgroupParent = %[2]q

[history]
  maxAge = 3600
  maxEntries = 20
`, gcBytes, cgroup)
}

// logLines logs each line until the writer of output has ended.
func logLines(output io.Reader, log *slog.Logger) {
	scan := bufio.NewScanner(output)
	scan.Buffer(nil, 1<<20)
	for scan.Scan() {
		log.Debug("buildkitd", "line", strings.TrimSpace(scan.Text()))
	}
	_, _ = io.Copy(io.Discard, output) // a line longer than the buffer has ended the scan
}
