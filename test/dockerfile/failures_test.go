package dockerfile

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/proto/builder"
	"github.com/image-builder-ha/image-builder/proto/contentservice"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/harness/buildkittest"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// failureClass describes how a Dockerfile fails.
type failureClass struct {
	dockerfile string
	blame      imagebuilderv1.Blame
	says       []string // texts of the message in both APIs
}

// gitpodBlamesUser reports whether Gitpod's server blames the user for a message (section 5 of the
// contract).
func gitpodBlamesUser(message string) bool {
	return strings.HasPrefix(message, "build failed:") || strings.Contains(message, "headless task failed:") || strings.Contains(message, "cannot resolve image")
}

// checkFailure builds by the native API and by Gitpod's API, and checks message, blame and status
// of both.
func checkFailure(t *testing.T, w *buildkittest.Node, repo *testkit.GitRepo, c failureClass) {
	t.Helper()
	ctx := testkit.Context(t, 5*time.Minute)
	title := strings.ReplaceAll(filepath.Base(t.Name()), "_", "-")
	repo.Commit(map[string]string{title: c.dockerfile})
	b := w.Wait(t, ctx, strings.TrimSpace(harness.MustCLI(t, w.GRPC, "build", repo.URL, "-f", title, "--detach")))
	if b.GetPhase() != imagebuilderv1.Phase_PHASE_FAILED || b.Blame != c.blame || harness.DigestAt(t, b.Ref) != "" || harness.DigestAt(t, b.BaseRef) != "" {
		t.Errorf("native: %s, blame %s, tagged %q %q; want the blame %s", b.GetPhase(), b.GetBlame(), harness.DigestAt(t, b.Ref), harness.DigestAt(t, b.BaseRef), c.blame)
	}
	if c.blame != imagebuilderv1.Blame_BLAME_INFRASTRUCTURE && len(b.Attempts) != 1 {
		t.Errorf("native: %d attempts at what another attempt does not mend", len(b.Attempts))
	}
	t.Log(b.Message)
	all, err := w.BuildGitpod(ctx, &builder.BuildRequest{Source: gitpodFile(&contentservice.GitInitializer{
		RemoteUri: repo.URL, TargetMode: contentservice.CloneTargetMode_REMOTE_BRANCH, CloneTaget: "main",
	}, title, "."), TriggeredBy: "gitpod"})
	if err != nil || len(all) < 2 || all[0].Status != builder.BuildStatus_running {
		t.Fatalf("Gitpod's API: %v, %v", all, err)
	}
	end := all[len(all)-1]
	if end.Status != builder.BuildStatus_done_failure {
		t.Errorf("Gitpod's API: %v", end)
	}
	messages := map[string]string{"native": b.Message, "Gitpod": end.Message}
	for api, m := range messages {
		for _, say := range c.says {
			if !strings.Contains(m, say) {
				t.Errorf("%s: the message lacks %q:\n%s", api, say, m)
			}
		}
	}
	if m := messages["Gitpod"]; gitpodBlamesUser(m) != (c.blame == imagebuilderv1.Blame_BLAME_USER) {
		t.Errorf("Gitpod's server would blame the wrong one (the user: %v) by %q", gitpodBlamesUser(m), m)
	}
}

// Test_Failures_ByBothAPIs causes each kind of failure with a real BuildKit.
func Test_Failures_ByBothAPIs(t *testing.T) {
	const (
		user    = imagebuilderv1.Blame_BLAME_USER
		quota   = imagebuilderv1.Blame_BLAME_QUOTA
		timeout = imagebuilderv1.Blame_BLAME_TIMEOUT
	)
	w := buildkittest.Start(t, nil)
	repo := testkit.NewGitRepo(t, testkit.GitServer{})
	private := registrytest.Start(t, registrytest.Options{Users: map[string]string{"alice": "wonder-land"}})
	private.Push(t, "team/base:1", registrytest.BusyboxImage(t))
	from := "FROM " + w.Base + "\n"
	group, procs := newMemoryCgroup(t)
	for title, c := range map[string]failureClass{
		"failing RUN":  {from + "RUN echo one\nRUN echo why it fails && exit 7\n", user, []string{"failing-RUN:3", ">>> RUN echo why it fails", "exit code 7", "last output:\n  why it fails"}},
		"syntax":       {from + "RUNN x\n", user, []string{"syntax:2", "unknown instruction: RUNN", "did you mean RUN?"}},
		"missing file": {from + "COPY nothere /x\n", user, []string{"missing-file:2", `"/nothere": not found`, ".dockerignore"}},
		"missing base": {"FROM " + w.Registry.Addr + "/none:1\n", user, []string{"base image does not exist", w.Registry.Addr + "/none:1"}},
		"no rights":    {"FROM " + private.Addr + "/team/base:1\n", user, []string{"no right to use the base image", private.Addr + "/team/base"}},
		"out of memory": {
			from + "RUN until grep -q " + group + " /proc/self/cgroup; do sleep 0.05; done; busybox awk 'BEGIN { s = \"x\"; while (1) s = s s }'\n",
			quota,
			[]string{"out-of-memory:2", "exit code 137", "memory"},
		},
	} {
		t.Run(title, func(t *testing.T) {
			if title == "out of memory" {
				moveProcesses(t, procs, "until grep -q "+group)
			}
			checkFailure(t, w, repo, c)
		})
	}
	// Gitpod's API has no timeout: the node's timeout applies.
	w.Stop()
	w.Override(harness.Config{"builds": map[string]any{"timeout": "4s"}})
	w.Run()
	t.Run("deadline", func(t *testing.T) {
		checkFailure(t, w, repo, failureClass{from + "RUN sleep 600\n", timeout, []string{"deadline"}})
	})
}

// Test_Failures_DiskFull builds with a daemon whose disk is too small: for a base image, for which
// the operator is to blame, and for the output of a step.
func Test_Failures_DiskFull(t *testing.T) {
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=32m"); err != nil {
		t.Fatalf("mount a small disk (needs root): %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	w := buildkittest.StartAt(t, filepath.Join(disk, "daemon"), nil)
	w.Registry.Push(t, "library/large:1", registrytest.RandomImage(t, 1, 64<<20))
	repo := testkit.NewGitRepo(t, testkit.GitServer{})
	t.Run("disk full in the pull", func(t *testing.T) {
		checkFailure(t, w, repo, failureClass{
			"FROM " + w.Registry.Addr + "/library/large:1\nCOPY . /x\n", imagebuilderv1.Blame_BLAME_INFRASTRUCTURE,
			[]string{"the disk of the BuildKit daemon " + w.Daemon.Addr() + " is full"},
		})
	})
	t.Run("disk full in RUN", func(t *testing.T) {
		checkFailure(t, w, repo, failureClass{
			"FROM " + w.Base + "\nRUN dd if=/dev/zero of=/f bs=1000000 count=64\n", imagebuilderv1.Blame_BLAME_QUOTA,
			[]string{"disk-full-in-RUN:2", "no space left on device", "write less"},
		})
	})
}

// newMemoryCgroup makes a control group with 64 MiB of memory, by version 1 or 2 of cgroups. It
// returns the name of the group and the file that takes process ids.
func newMemoryCgroup(t *testing.T) (group, procs string) {
	t.Helper()
	group = "image-builder-test-" + strconv.FormatInt(time.Now().UnixNano(), 10)
	dir, limit := filepath.Join("/sys/fs/cgroup/memory", group), "memory.limit_in_bytes"
	if _, err := os.Stat(filepath.Dir(dir)); err != nil {
		dir, limit = filepath.Join("/sys/fs/cgroup", group), "memory.max"
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatalf("this test needs control groups: %v", err)
	}
	t.Cleanup(func() {
		testkit.Eventually(t, 10*time.Second, "the control group is removed", func() bool { return os.Remove(dir) == nil })
	})
	if err := os.WriteFile(filepath.Join(dir, limit), []byte(strconv.Itoa(64<<20)), 0o600); err != nil {
		t.Fatal(err)
	}
	return group, filepath.Join(dir, "cgroup.procs")
}

// moveProcesses moves processes whose command line contains text to a control group, until the test
// ends.
func moveProcesses(t *testing.T, procs, text string) {
	t.Helper()
	end := make(chan struct{})
	var mover sync.WaitGroup
	mover.Go(func() {
		for tick := time.NewTicker(50 * time.Millisecond); ; {
			select {
			case <-end:
				return
			case <-tick.C:
			}
			for _, pid := range testkit.Processes(t, text) {
				_ = os.WriteFile(procs, []byte(strconv.Itoa(pid)), 0o600) // it may have ended
			}
		}
	})
	t.Cleanup(func() {
		close(end)
		mover.Wait()
	})
}
