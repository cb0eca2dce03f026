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
	startTime = 20 * time.Second
	// stopTime is how long a daemon may take to end after SIGTERM.
	stopTime  = 10 * time.Second
	cleanTime = 5 * time.Second
	// maxSocketPath is the kernel's limit for the path of a unix socket.
	maxSocketPath = 107
)

// DaemonOptions configure a local daemon.
type DaemonOptions struct {
	// Binary is buildkitd; looked up in PATH if empty. It needs runc and, for
	// git contexts, git in PATH, and root.
	Binary string
	// Root is the daemon's folder. It survives the daemon: a next one finds a
	// warm cache there. Two daemons cannot use it at once.
	Root string
	// Logger takes the daemon's own log at level debug. Required.
	Logger *slog.Logger
	// GCBytes is the size to which the daemon trims its cache; 10 GiB if zero.
	GCBytes int64
}

// Daemon is a local buildkitd for `dev` and for tests. It runs in a pid and a
// mount namespace of its own: when it ends, in whatever way, everything that
// it started ends with it. Its containers share the network of this machine.
type Daemon struct {
	addr string
	lock *os.File
	root string
	temp string // folder of the socket, "" if it is in root
	pid  int    // of unshare
	done chan struct{}
	stop sync.Once
	err  error // of Stop
}

// StartDaemon starts a daemon and returns when it answers, or after 20 s with
// an error. The caller stops it. It is killed with this process.
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
	// What a daemon that was killed left behind.
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

// Addr is where it listens, as a URL.
func (d *Daemon) Addr() string { return d.addr }

// Stop ends the daemon: by SIGTERM, and by SIGKILL when ctx ends or the daemon
// takes longer than 10 s, as it does while solves run. Nothing of it runs and
// nothing is mounted after that. Further calls answer the same.
func (d *Daemon) Stop(ctx context.Context) error {
	d.stop.Do(func() { d.err = d.shutDown(ctx) })
	return d.err
}

func (d *Daemon) shutDown(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stopTime)
	defer cancel()
	if pid, ok := childOf(d.pid); ok {
		_ = syscall.Kill(pid, syscall.SIGTERM) // it may have ended
	}
	select {
	case <-d.done:
	case <-ctx.Done():
	}
	return errors.Join(d.kill(), clean(d.root), d.release())
}

// clean removes what a daemon that ended left in the kernel.
func clean(root string) error {
	ctx, cancel := context.WithTimeout(context.Background(), cleanTime)
	defer cancel()
	return errors.Join(unmountUnder(root), removeCgroups(ctx, cgroupOf(root)))
}

// kill ends the namespace and everything in it.
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

// release gives up the lock and the socket's folder.
func (d *Daemon) release() error {
	err := d.lock.Close()
	if d.temp != "" {
		err = errors.Join(err, os.RemoveAll(d.temp))
	}
	return err
}

// start starts the processes.
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
	// Limits of output are ours, in the log store.
	cmd.Env = append(os.Environ(), "BUILDKIT_STEP_LOG_MAX_SIZE=-1", "BUILDKIT_STEP_LOG_MAX_SPEED=-1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	output, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	started := make(chan error)
	go func() {
		defer close(d.done)
		// The kernel ends the child with the thread that started it.
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
		_ = cmd.Wait() // it ends by a signal
	}()
	return <-started
}

// ready waits until the daemon answers.
func (d *Daemon) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	c, err := client.New(ctx, d.addr)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }() // it has served its purpose
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

// logLines logs until the writer of output has ended.
func logLines(output io.Reader, log *slog.Logger) {
	scan := bufio.NewScanner(output)
	scan.Buffer(nil, 1<<20)
	for scan.Scan() {
		log.Debug("buildkitd", "line", strings.TrimSpace(scan.Text()))
	}
	_, _ = io.Copy(io.Discard, output) // after a line that is too long
}
