//go:build faults

package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/image-builder-ha/image-builder/internal/ctxutil"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/workload"
)

// This file adds a runtime whose workloads a test controls. A binary with the build tag faults
// serves as the node in tests of adoption, lost nodes and lost workloads.

// externalRuntime is a runtime for tests. Its workloads are processes that all nodes of the machine
// share through a directory, and that may outlive their node. They run a script. Then the node
// copies the source image.
type externalRuntime struct {
	dir, script string
	survives    bool
	copyRuntime workload.Runtime
}

// addFaultRuntime adds the runtime if IMAGE_BUILDER_TEST_RUNTIME names its directory. copies is the
// name of the runtime that copies the source image.
func addFaultRuntime(all map[string]workload.Runtime, copies string) {
	if dir := os.Getenv("IMAGE_BUILDER_TEST_RUNTIME"); dir != "" {
		all["external"] = &externalRuntime{dir, os.Getenv("IMAGE_BUILDER_TEST_SCRIPT"), os.Getenv("IMAGE_BUILDER_TEST_SURVIVES") != "", all[copies]}
	}
}

// faultRuntimeOf returns the name of the runtime for sources that are image references, if it was
// added; otherwise "".
func faultRuntimeOf(src *imagebuilderv1.Source) string {
	if os.Getenv("IMAGE_BUILDER_TEST_RUNTIME") != "" && src.GetRef() != nil {
		return "external"
	}
	return ""
}

func (e *externalRuntime) Name() string { return "external" }

func (e *externalRuntime) Survives() bool { return e.survives }

func (e *externalRuntime) path(name, file string) string { return filepath.Join(e.dir, name, file) }

func (e *externalRuntime) Run(ctx context.Context, w *workload.Workload, sink workload.Sink) (workload.Outcome, error) {
	name := w.Name()
	if err := os.Mkdir(filepath.Join(e.dir, name), 0o700); err == nil {
		if err := e.start(name); err != nil {
			return workload.Outcome{}, err
		}
	} else if !errors.Is(err, os.ErrExist) {
		return workload.Outcome{}, err
	}
	sink.Running()
	code, err := e.follow(ctx, name, sink)
	if err != nil {
		if !e.survives {
			_ = e.Stop(context.WithoutCancel(ctx), name)
		}
		return workload.Outcome{}, err
	}
	if code != "0" {
		return workload.Outcome{}, &workload.Failure{Blame: imagebuilderv1.Blame_BLAME_USER, Message: "the script ended with status " + code}
	}
	return e.copyRuntime.Run(ctx, w, quietSink{sink})
}

// quietSink keeps the output of the copy out of the log.
type quietSink struct{ workload.Sink }

func (quietSink) Write(p []byte) (int, error) { return len(p), nil }

func (e *externalRuntime) start(name string) error {
	// The file lists all starts, so that a test sees a workload that was started twice.
	starts, err := os.OpenFile(filepath.Join(e.dir, "starts"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(starts, name)
	if err := errors.Join(err, starts.Close()); err != nil {
		return err
	}
	out, err := os.OpenFile(e.path(name, "out"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.Command("sh", "-c", e.script+"\necho $? >exit.tmp; mv exit.tmp exit")
	cmd.Dir, cmd.Stdout, cmd.Stderr = filepath.Join(e.dir, name), out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if !e.survives {
		cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }()
	return os.WriteFile(e.path(name, "pid"), fmt.Append(nil, cmd.Process.Pid), 0o600)
}

// follow copies the output of a workload to sink, from the sink's offset on, until the workload
// ends. It returns the exit status.
func (e *externalRuntime) follow(ctx context.Context, name string, sink workload.Sink) (string, error) {
	var out *os.File
	for out == nil {
		out, _ = os.Open(e.path(name, "out"))
		if !ctxutil.Sleep(ctx, time.Millisecond) {
			return "", context.Cause(ctx)
		}
	}
	defer out.Close()
	if _, err := out.Seek(sink.Offset(), io.SeekStart); err != nil {
		return "", err
	}
	buf := make([]byte, 256<<10)
	for {
		code, ended := os.ReadFile(e.path(name, "exit"))
		n, err := out.Read(buf)
		if n > 0 {
			if _, err := sink.Write(buf[:n]); err != nil {
				return "", err
			}
			continue
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return "", err
		}
		if ended == nil {
			return strings.TrimSpace(string(code)), nil
		}
		if !ctxutil.Sleep(ctx, 5*time.Millisecond) {
			return "", context.Cause(ctx)
		}
	}
}

func (e *externalRuntime) Stop(_ context.Context, name string) error {
	raw, err := os.ReadFile(e.path(name, "pid"))
	if err != nil {
		return nil //nolint:nilerr // the workload was never started
	}
	var pid int
	if _, err := fmt.Sscan(string(raw), &pid); err == nil {
		_ = syscall.Kill(-pid, syscall.SIGKILL)
	}
	return nil
}

func (e *externalRuntime) List(context.Context) ([]string, error) {
	entries, err := os.ReadDir(e.dir)
	var out []string
	for _, x := range entries {
		if _, err := os.Stat(e.path(x.Name(), "exit")); x.IsDir() && errors.Is(err, os.ErrNotExist) {
			out = append(out, x.Name())
		}
	}
	return out, err
}
