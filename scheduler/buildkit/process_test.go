package buildkit_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/buildkit"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// sleeper returns a Dockerfile whose step can be found among the processes of this machine, and the
// text to search for.
func sleeper(r *rig) (dockerfile, mark string) {
	mark = "sleep 3600." + fmt.Sprint(time.Now().UnixNano())
	return "FROM " + r.base + "\nRUN echo " + uuid.NewString() + "; " + mark + "\n", mark
}

// running starts a workload and returns once its step runs.
func running(t *testing.T, ctx context.Context, r *rig, w *workload.Workload, mark string) <-chan error {
	t.Helper()
	done := make(chan error, 1)
	s := &sink{}
	go func() {
		_, err := r.Run(ctx, w, s)
		done <- err
	}()
	testkit.Eventually(t, 20*time.Second, "the step runs", func() bool {
		select {
		case err := <-done:
			t.Fatalf("the workload ended: %v\n%s", err, s.text())
		default:
		}
		return len(processes(t, mark)) > 0
	})
	return done
}

func Test_Run_CancelEndsTheProcessWithinASecond(t *testing.T) {
	r := newRig(t)
	dockerfile, mark := sleeper(r)
	w := r.upload(t, map[string]string{"Dockerfile": dockerfile})
	ctx, cancel := context.WithCancel(t.Context())
	done := running(t, ctx, r, w, mark)
	if names, err := r.List(t.Context()); err != nil || !slices.Contains(names, w.Name()) {
		t.Errorf("list: %v, %v, want %s in it", names, err, w.Name())
	}

	begin := time.Now()
	cancel()
	err := <-done
	took := time.Since(begin)
	if left := processes(t, mark); len(left) > 0 {
		t.Errorf("Run returned while processes %v of the step were left", left)
	}
	if !errors.Is(err, context.Canceled) || took > time.Second {
		t.Errorf("run: %v after %v", err, took)
	}
	if names, err := r.List(t.Context()); err != nil || slices.Contains(names, w.Name()) {
		t.Errorf("list after the end: %v, %v", names, err)
	}
	t.Logf("cancelled in %v", took)
}

func Test_Stop_EndsAWorkloadAndIsIdempotent(t *testing.T) {
	r := newRig(t)
	dockerfile, mark := sleeper(r)
	w := r.upload(t, map[string]string{"Dockerfile": dockerfile})
	done := running(t, t.Context(), r, w, mark)
	for range 2 {
		if err := r.Stop(t.Context(), w.Name()); err != nil {
			t.Fatalf("stop: %v", err)
		}
		if left := processes(t, mark); len(left) > 0 {
			t.Fatalf("processes %v are left", left)
		}
	}
	if err := <-done; err == nil {
		t.Error("a stopped workload succeeded")
	}
	if err := r.Stop(t.Context(), "ib-nobody-1"); err != nil {
		t.Errorf("stop a workload that does not run: %v", err)
	}
}

func Test_Run_TheSameNameAgainEndsTheFormer(t *testing.T) {
	r := newRig(t)
	dockerfile, mark := sleeper(r)
	w := r.upload(t, map[string]string{"Dockerfile": dockerfile})
	done := running(t, t.Context(), r, w, mark)
	next := r.upload(t, map[string]string{"Dockerfile": "FROM " + r.base + "\nRUN true\n"})
	next.BuildID = w.BuildID
	r.mustRun(t, next)
	if err := <-done; err == nil {
		t.Error("the former workload succeeded")
	}
}

func Test_Run_DeadlineIsATimeout(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	dockerfile, mark := sleeper(r)
	w := r.upload(t, map[string]string{"Dockerfile": dockerfile})
	w.Deadline = time.Now().Add(2 * time.Second)
	r.mustFail(t, w, timeout, "before its deadline")
	if left := processes(t, mark); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
}

// Test_Run_DaemonKilledIsInfrastructure kills a daemon in the middle of a step. It checks that
// nothing of the daemon is left, that another one can use the same root, and that the runtime uses
// the new one.
func Test_Run_DaemonKilledIsInfrastructure(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	start := func() *buildkit.Daemon {
		d, err := buildkit.StartDaemon(t.Context(), buildkit.DaemonOptions{Binary: buildkitd(t), Root: root, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatalf("start a daemon: %v", err)
		}
		return d
	}
	d := start()
	r := newRigOn(t, d)
	dockerfile, mark := sleeper(r)
	done := running(t, t.Context(), r, r.upload(t, map[string]string{"Dockerfile": dockerfile}), mark)
	cgroup := cgroupOfProcess(t, processes(t, mark)[0])
	if _, err := buildkit.StartDaemon(t.Context(), buildkit.DaemonOptions{Binary: buildkitd(t), Root: root, Logger: slog.New(slog.DiscardHandler)}); err == nil || !strings.Contains(err.Error(), "another daemon uses "+root) {
		t.Errorf("a second daemon over the same root: %v", err)
	}

	pids := processes(t, "buildkitd --config "+root)
	if err := exec.Command("kill", append([]string{"-9"}, pids...)...).Run(); err != nil {
		t.Fatalf("kill %v: %v", pids, err)
	}
	begin := time.Now()
	err := <-done
	t.Logf("noticed in %v: %v", time.Since(begin), err)
	var f *workload.Failure
	if !errors.As(err, &f) || f.Blame != infrastructure || time.Since(begin) > 5*time.Second {
		t.Errorf("run: %v after %v", err, time.Since(begin))
	}
	testkit.Eventually(t, 5*time.Second, "no process is left", func() bool { return len(processes(t, mark)) == 0 && len(processes(t, root)) == 0 })
	waiting := &sink{}
	waited := make(chan error, 1)
	other := r.upload(t, map[string]string{"Dockerfile": "FROM " + r.base + "\nRUN echo after the wait\n"})
	go func() {
		_, err := r.Run(t.Context(), other, waiting)
		waited <- err
	}()
	testkit.Eventually(t, 20*time.Second, "a build waits for the daemon", func() bool { return strings.Contains(waiting.text(), "no BuildKit daemon answers: "+d.Addr()) })
	if err := d.Stop(t.Context()); err != nil {
		t.Errorf("stop a daemon that was killed: %v", err)
	}

	d = start()
	if err := <-waited; err != nil || !strings.Contains(waiting.text(), "after the wait") || waiting.step("wait for") != nil {
		t.Errorf("the build that waited: %v\n%s", err, waiting.text())
	}
	r.mustRun(t, r.upload(t, map[string]string{"Dockerfile": "FROM " + r.base + "\nRUN true\n"}))
	dockerfile, mark = sleeper(r)
	done = running(t, t.Context(), r, r.upload(t, map[string]string{"Dockerfile": dockerfile}), mark)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := d.Stop(ctx); err != nil {
		t.Errorf("stop a daemon that works: %v", err)
	}
	if left := append(processes(t, mark), processes(t, root)...); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
	if err := <-done; !errors.As(err, &f) || f.Blame != infrastructure {
		t.Errorf("run: %v", err)
	}
	if groups, err := filepath.Glob("/sys/fs/cgroup/*/" + cgroup); err != nil || len(groups) > 0 {
		t.Errorf("control groups %v are left, %v", groups, err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), root) {
		t.Errorf("mounts are left: %v\n%s", err, mounts)
	}
}

// cgroupOfProcess returns the name of the topmost control group of a process.
func cgroupOfProcess(t *testing.T, pid string) string {
	t.Helper()
	text, err := os.ReadFile("/proc/" + pid + "/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if _, path, ok := strings.Cut(line, ":/image-builder-"); ok {
			name, _, _ := strings.Cut(path, "/")
			return "image-builder-" + name
		}
	}
	t.Fatalf("the step is in no control group of its daemon:\n%s", text)
	return ""
}

// clientEnv turns the test binary into a client that is killed. It holds a clientTask.
const clientEnv = "BUILDKIT_TEST_CLIENT"

type clientTask struct {
	Daemon   string
	Source   []byte
	BuildID  string
	BaseRef  string
	Contexts map[string][]byte
}

// runClient runs a workload until it is killed.
func runClient() {
	var task clientTask
	if err := json.Unmarshal([]byte(os.Getenv(clientEnv)), &task); err != nil {
		panic(err)
	}
	source := &imagebuilderv1.Source{}
	if err := proto.Unmarshal(task.Source, source); err != nil {
		panic(err)
	}
	contexts := uploads{}
	for digest, archive := range task.Contexts {
		contexts[digest] = func() io.ReadCloser { return io.NopCloser(strings.NewReader(string(archive))) }
	}
	r, err := buildkit.New(buildkit.Options{
		Daemons: []buildkit.Address{{URL: task.Daemon}}, Registry: everything{}, HTTP: http.DefaultClient,
		Credentials: func(context.Context, string, *buildsv1.Rights, bool) (string, string, error) { return "", "", nil },
		Contexts:    contexts, Log: slog.New(slog.DiscardHandler), TempDir: os.Getenv("TMPDIR"),
	})
	if err != nil {
		panic(err)
	}
	_, err = r.Run(context.Background(), &workload.Workload{
		BuildID: task.BuildID, Attempt: 1, Source: source, Ref: task.BaseRef, BaseRef: task.BaseRef,
		Rights: &buildsv1.Rights{}, Secrets: &buildsv1.Secrets{},
	}, &sink{})
	panic(fmt.Sprint("the workload ended: ", err))
}

// everything is a registry that has every image.
type everything struct{}

func (everything) Head(context.Context, string, *buildsv1.Rights) (builds.Image, error) {
	return builds.Image{}, nil
}

func (everything) Resolve(context.Context, string, string, *buildsv1.Rights) (builds.Image, error) {
	return builds.Image{}, nil
}

// Test_Stop_SeesTheEndOfADeadOwnersSolve kills a process in the middle of its solve. The daemon
// ends the solve. Another process sees it in List, and its Stop returns once nothing of it runs.
func Test_Stop_SeesTheEndOfADeadOwnersSolve(t *testing.T) {
	r := newRig(t)
	dockerfile, mark := sleeper(r)
	w := r.upload(t, map[string]string{"Dockerfile": dockerfile})
	task := clientTask{Daemon: sharedDaemon(t).Addr(), BuildID: w.BuildID, BaseRef: w.BaseRef, Contexts: map[string][]byte{}}
	var err error
	if task.Source, err = proto.Marshal(w.Source); err != nil {
		t.Fatal(err)
	}
	for digest, open := range r.contexts {
		if task.Contexts[digest], err = io.ReadAll(open()); err != nil {
			t.Fatal(err)
		}
	}
	text, err := json.Marshal(task)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), clientEnv+"="+string(text), "TMPDIR="+t.TempDir())
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatalf("start the client: %v", err)
	}
	testkit.Eventually(t, 20*time.Second, "the step runs", func() bool { return len(processes(t, mark)) > 0 })
	names, err := r.List(t.Context())
	if err != nil || !slices.Contains(names, w.Name()) {
		t.Errorf("list: %v, %v, want %s of the other process in it", names, err, w.Name())
	}

	if err := cmd.Process.Kill(); err != nil {
		t.Fatalf("kill the client: %v", err)
	}
	begin := time.Now()
	_ = cmd.Wait() // it always ends by a signal
	if err := r.Stop(t.Context(), w.Name()); err != nil {
		t.Errorf("stop: %v", err)
	}
	took := time.Since(begin)
	if left := processes(t, mark); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
	if took > 2*time.Second {
		t.Errorf("the solve of a dead owner went on for %v", took)
	}
	t.Logf("ended %v after its owner", took)
}
