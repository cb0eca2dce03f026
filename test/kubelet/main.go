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
	keepVar   = "IMAGE_BUILDER_KUBELET_KEEP" // not empty: keep logs and data for debugging
	stageInit = "init"
	stageTest = "test"
)

// Main is for TestMain: it boots a cluster, calls run with it and returns the exit code of the test
// binary. Three processes execute the test binary. The first one prepares and cleans up. The second
// one is process 1 of a process namespace, which ends with it. The third one calls run.
func Main(run func(*Cluster) int) int { return stages(nil, run) }

// MainSimulated is Main for a cluster in which kwok simulates nodes and pods by the given stages.
// No process of a pod runs. Containerd and Kubelet of the cluster are nil.
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
		fmt.Fprintln(os.Stderr, "run Kubernetes for tests:", err)
		return 1
	}
	return code
}

// outer compiles the service and makes folders and control groups, runs the tests in new
// namespaces, and cleans up.
func outer(simulated bool) (code int, err error) {
	if err := missing(simulated); err != nil {
		return 0, err
	}
	sweep()
	dir, err := os.MkdirTemp("", "ibk-") // a short path: paths of unix sockets have a limit
	if err != nil {
		return 0, err
	}
	defer func() {
		if os.Getenv(keepVar) == "" {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	// Compile before the namespaces, which have no network: the go command may download modules.
	if err := harness.CopyBinary(harness.Variant{}, filepath.Join(dir, "image-builder")); err != nil {
		return 0, err
	}
	cgroup := cgroupPrefix + fmt.Sprint(os.Getpid())
	if err := makeCgroups(cgroup); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, removeCgroups(cgroup)) }()
	if !simulated { // only a kubelet changes the settings
		kernel := rememberSysctls()
		defer func() { err = errors.Join(err, kernel.restore()) }()
	}

	cmd := stageCommand(stageInit)
	cmd.Env = append(cmd.Env, dirVar+"="+dir, cgroupVar+"="+cgroup)
	cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET
	// The kernel kills the child when the thread that started it ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start in new namespaces: %w", err)
	}
	ended := make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-signals:
			_ = cmd.Process.Kill() // ends all processes of the namespace
		case <-ended:
		}
	}()
	err = cmd.Wait()
	close(ended)
	<-watched
	return exitCode(err)
}

// stageCommand returns a command that executes this test binary for another stage.
func stageCommand(stage string) *exec.Cmd {
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

// first is process 1 of the namespaces: it prepares the file system, starts the tests and waits for
// all processes whose parents have ended.
func first() (int, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := mounts(); err != nil {
		return 0, err
	}
	cmd := stageCommand(stageTest)
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
			return 0, fmt.Errorf("the tests ended by the signal %s", status.Signal())
		}
	}
}

// mounts hides changes of the file system from the machine: it mounts empty folders in memory over
// the folders of Kubernetes and of the container runtime that cannot be configured.
func mounts() error {
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	// /sys is not mounted again, because the control groups below it must be those of the machine.
	// On some kernels it therefore shows network settings of the machine.
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

// missing returns an error that names the programs that are not installed.
func missing(simulated bool) error {
	if os.Getuid() != 0 {
		return errors.New("namespaces and containers need root")
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
	return fmt.Errorf("%s not found: run `make test-kubernetes`, which installs and compiles them", strings.Join(none, ", "))
}

func buildkitd() string { return testkit.File("bin/buildkitd") }

// Program returns the path of a program of test/kubernetes/bin.
func Program(name string) string { return programFile(name) }

func programFile(name string) string {
	return testkit.File("test/kubernetes/bin/" + name)
}
