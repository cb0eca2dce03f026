//go:build kubernetes

package kubelet

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// Environment of the processes of a test binary.
const (
	stageVar  = "IMAGE_BUILDER_KUBELET_STAGE" // "" for the first process
	dirVar    = "IMAGE_BUILDER_KUBELET_DIR"
	cgroupVar = "IMAGE_BUILDER_KUBELET_CGROUP"
	keepVar   = "IMAGE_BUILDER_KUBELET_KEEP" // keeps logs and data, for who looks for a fault
	stageInit = "init"
	stageTest = "test"
)

// Main is for TestMain: it boots a cluster, calls run with it and answers the
// exit code of the test binary. run is called in the third of three processes
// that execute the test binary: the first one prepares and tidies up, the
// second one is the first of a process namespace, which ends with it.
func Main(run func(*Cluster) int) int { return stages(nil, run) }

// MainSimulated is Main for a cluster whose nodes and pods are simulated by
// kwok, with these stages of theirs: nothing of a pod runs. Containerd and
// Kubelet of the cluster are nil.
func MainSimulated(kwokStages []byte, run func(*Cluster) int) int { return stages(kwokStages, run) }

func stages(kwokStages []byte, run func(*Cluster) int) int {
	var code int
	var err error
	switch os.Getenv(stageVar) {
	case "":
		code, err = outer(kwokStages != nil)
	case stageInit:
		code, err = first()
	default:
		code, err = inner(kwokStages, run)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "a Kubernetes for tests:", err)
		return 1
	}
	return code
}

// outer makes what the tests need, runs them in new namespaces and removes
// what they leave.
func outer(simulated bool) (code int, err error) {
	if err := missing(simulated); err != nil {
		return 0, err
	}
	sweep()
	dir, err := os.MkdirTemp("", "ibk-") // short: the paths of sockets are bounded
	if err != nil {
		return 0, err
	}
	defer func() {
		if os.Getenv(keepVar) == "" {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	// Compiled here: there is no network in the namespaces, and the module cache
	// may be cold.
	if err := harness.CopyBinary(harness.Variant{}, filepath.Join(dir, "image-builder")); err != nil {
		return 0, err
	}
	cgroup := cgroupPrefix + fmt.Sprint(os.Getpid())
	if err := makeCgroups(cgroup); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, removeCgroups(cgroup)) }()
	kernel := rememberSysctls()
	defer func() { err = errors.Join(err, kernel.restore()) }()

	cmd := again(stageInit)
	cmd.Env = append(cmd.Env, dirVar+"="+dir, cgroupVar+"="+cgroup)
	cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET
	// The kernel ends the child with the thread that started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start in new namespaces: %w", err)
	}
	ended := make(chan struct{})
	told := make(chan struct{})
	go func() {
		defer close(told)
		select {
		case <-signals:
			_ = cmd.Process.Kill() // everything in the namespace ends with it
		case <-ended:
		}
	}()
	err = cmd.Wait()
	close(ended)
	<-told
	return exitCode(err)
}

// again is this test binary, executed for another stage.
func again(stage string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), stageVar+"="+stage)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

func exitCode(err error) (int, error) {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if code := exit.ExitCode(); code >= 0 {
			return code, nil
		}
		return 1, nil
	}
	return 0, err
}

// first is process 1 of the namespaces: it prepares the file system, starts
// the tests and waits for all processes that lost their parents.
func first() (int, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := mounts(); err != nil {
		return 0, err
	}
	cmd := again(stageTest)
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return 0, fmt.Errorf("wait for the tests: %w", err)
		case pid == cmd.Process.Pid && status.Exited():
			return status.ExitStatus(), nil
		case pid == cmd.Process.Pid:
			return 0, fmt.Errorf("the tests were ended by %s", status.Signal())
		}
	}
}

// mounts makes a file system whose changes the machine does not see: folders
// of Kubernetes and of the container runtime that cannot be configured are
// empty ones in memory.
func mounts() error {
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	// Some kernels show the network's settings by the mount of /sys; cgroups
	// below it stay those of the machine.
	for _, dir := range []string{"/run", "/var/log", "/var/lib/cni", "/var/lib/kubelet", "/etc/cni"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=755"); err != nil {
			return fmt.Errorf("mount an empty %s: %w", dir, err)
		}
	}
	return nil
}

// missing names what is not installed.
func missing(simulated bool) error {
	if os.Getuid() != 0 {
		return errors.New("it needs root, for namespaces and containers")
	}
	programs := []string{"etcd", "ip", "docker-registry"}
	files := []string{programFile("kube-apiserver")}
	if simulated {
		files = append(files, programFile("kwok"))
	} else {
		programs = append(programs, "containerd", "ctr", "runc", "rootlesskit", "newuidmap", "git", "busybox")
		files = append(files, cniDir+"/bridge", cniDir+"/host-local", programFile("kubelet"), buildkitd())
	}
	var none []string
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			none = append(none, p)
		}
	}
	for _, f := range files {
		if _, err := os.Stat(f); err != nil {
			none = append(none, f)
		}
	}
	if len(none) == 0 {
		return nil
	}
	return fmt.Errorf("missing are %s: run `make test-kubernetes`, which installs and compiles them", strings.Join(none, ", "))
}

func buildkitd() string { return testkit.File("bin/buildkitd") }

// Program is a program of test/kubernetes/bin.
func Program(name string) string { return programFile(name) }

// programFile is a program of test/kubernetes/bin.
func programFile(name string) string {
	return testkit.File("test/kubernetes/bin/" + name)
}
