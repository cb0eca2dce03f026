package dockerfile

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/harness/buildkittest"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

func Test_Dockerfile_StagesArgsBothRefs(t *testing.T) {
	w := buildkittest.Start(t, nil)
	dir := w.Context(t, "FROM base AS one\nARG WHO=x\nCOPY in.txt /in.txt\nRUN echo hello $WHO > /out.txt && cat /in.txt >> /out.txt\nFROM base AS two\nCOPY --from=one /out.txt /out.txt\nFROM base AS three\nRUN false\n",
		map[string]string{"in.txt": "input\n", ".dockerignore": "ignored\n", "ignored": "x"})
	out, errOut, status := harness.CLI(t, w.GRPC, "build", dir, "--build-arg", "WHO=you", "--target", "two", "-t", w.Registry.Addr+"/base-images:mine")
	if status != 0 {
		t.Fatalf("status %d: %s %s", status, out, errOut)
	}
	list, err := w.Native.ListBuilds(t.Context(), &imagebuilderv1.ListBuildsRequest{})
	if err != nil || len(list.Builds) != 1 {
		t.Fatal(list, err)
	}
	b := list.Builds[0]
	if b.Digest == "" || harness.DigestAt(t, b.Ref) != b.Digest || harness.DigestAt(t, b.BaseRef) != b.Digest || harness.DigestAt(t, w.Registry.Addr+"/base-images:mine") != b.Digest {
		t.Errorf("base ref has %s, workspace ref %s, the build %s", harness.DigestAt(t, b.BaseRef), harness.DigestAt(t, b.Ref), b.Digest)
	}
	if got := harness.FileAt(t, b.Ref, "out.txt"); got != "hello you\ninput\n" {
		t.Errorf("the image holds %q", got)
	}
	if !strings.HasSuffix(harness.LastLine(out), "@"+b.Digest) || len(b.Attempts[0].Steps) == 0 {
		t.Errorf("last line %q, %d steps", harness.LastLine(out), len(b.Attempts[0].Steps))
	}
	// The same context and options are the same image; another argument is not.
	if _, errOut, _ := harness.CLI(t, w.GRPC, "build", dir, "--build-arg", "WHO=you", "--target", "two"); !strings.Contains(errOut, "the image exists") {
		t.Errorf("again: %s", errOut)
	}
	if _, errOut, _ := harness.CLI(t, w.GRPC, "build", dir, "--build-arg", "WHO=me", "--target", "two"); strings.Contains(errOut, "the image exists") {
		t.Errorf("another argument: %s", errOut)
	}
}

func Test_Dockerfile_SecretIsUsedAndNowhereElse(t *testing.T) {
	const secret = "a-build-secret-nobody-sees"
	w := buildkittest.Start(t, nil)
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	var shown bytes.Buffer
	build := func(dockerfile string) string {
		t.Helper()
		out, errOut, status := harness.CLI(t, w.GRPC, "build", w.Context(t, dockerfile, nil), "--secret", "id=token,src="+file)
		if status != 0 {
			t.Fatalf("status %d: %s %s", status, out, errOut)
		}
		shown.WriteString(out + errOut)
		return out
	}
	out := build("FROM base\nRUN --mount=type=secret,id=token wc -c /run/secrets/token > /size\n")
	if got := harness.FileAt(t, harness.LastLine(out), "size"); !strings.HasPrefix(got, fmt.Sprint(len(secret))) {
		t.Errorf("the step saw a secret of %q bytes", got)
	}
	testkit.NoSecretBelow(t, w.Root, secret) // the cache, history and layers of the daemon
	// A step that prints its secret.
	if out = build("FROM base\nRUN --mount=type=secret,id=token cat /run/secrets/token\n"); !strings.Contains(out, "[redacted]") {
		t.Errorf("the log: %s", out)
	}
	// A step that prints it in base64, with a line break within the secret as base64(1) writes it.
	out = build("FROM base\nRUN --mount=type=secret,id=token (seq -s - 1 17; cat /run/secrets/token) | busybox base64\n")
	if joined := regexp.MustCompile(`\n#\d+ \d+\.\d+ `).ReplaceAllString(out, ""); !strings.Contains(joined, "[redacted]") {
		t.Errorf("the log: %s", out)
	} else {
		testkit.NoSecret(t, "the lines of base64", []byte(joined), secret)
	}
	w.Stop()
	testkit.NoSecretBelow(t, w.Root, secret)
	testkit.NoSecretBelow(t, w.Dir, secret)
	testkit.NoSecret(t, "the output", shown.Bytes(), secret)
}

func Test_Dockerfile_Failures(t *testing.T) {
	w := buildkittest.Start(t, nil)
	for title, c := range map[string]struct {
		dockerfile string
		want       []string
		blame      imagebuilderv1.Blame
		timeout    string
	}{
		"failing RUN":  {"FROM base\nRUN echo why it fails && exit 7\n", []string{"7", "Dockerfile:2", "why it fails"}, imagebuilderv1.Blame_BLAME_USER, "1m"},
		"syntax":       {"FROM base\nRUNN x\n", []string{"Dockerfile:2"}, imagebuilderv1.Blame_BLAME_USER, "1m"},
		"missing file": {"FROM base\nCOPY nothere /x\n", []string{"nothere"}, imagebuilderv1.Blame_BLAME_USER, "1m"},
		"missing base": {"FROM " + w.Registry.Addr + "/none:1\n", []string{"base image does not exist"}, imagebuilderv1.Blame_BLAME_USER, "1m"},
		"deadline":     {"FROM base\nRUN sleep 60\n", []string{"deadline"}, imagebuilderv1.Blame_BLAME_TIMEOUT, "3s"},
	} {
		t.Run(title, func(t *testing.T) {
			dir := w.Context(t, c.dockerfile, nil)
			out, errOut, status := harness.CLI(t, w.GRPC, "build", dir, "--timeout", c.timeout, "--requester", title)
			if status != 1 {
				t.Fatalf("status %d: %s %s", status, out, errOut)
			}
			list, err := w.Native.ListBuilds(t.Context(), &imagebuilderv1.ListBuildsRequest{Filter: &imagebuilderv1.BuildFilter{Requester: title}})
			if err != nil || len(list.Builds) != 1 {
				t.Fatal(list, err)
			}
			b := list.Builds[0]
			if b.Blame != c.blame || len(b.Attempts) != 1 {
				t.Errorf("blame %s, %d attempts, want %s, 1: %s", b.Blame, len(b.Attempts), c.blame, b.Message)
			}
			for _, want := range c.want {
				if !strings.Contains(errOut+out, want) {
					t.Errorf("the output lacks %q:\n%s\n%s", want, out, errOut)
				}
			}
		})
	}
}

// cancelTimeout is how long a build may take to end after the cancel was acknowledged.
const cancelTimeout = 2 * time.Second

// Test_Dockerfile_Cancel cancels builds in the queue, in RUN and in the pull. They end within two
// seconds, and nothing is tagged.
func Test_Dockerfile_Cancel(t *testing.T) {
	w := buildkittest.Start(t, harness.Config{"builds": map[string]any{"runningPerNode": 1}})
	w2 := registrytest.NewProxy(t, w.Registry)
	// The layers of this image are new to the daemon.
	w.Registry.Push(t, "library/other:1", registrytest.RandomImage(t, 2, 1<<20))
	run := w.Context(t, "FROM base\nRUN sleep 100\n", nil)
	queued := w.Context(t, "FROM base\nRUN sleep 101\n", nil)
	pull := w.Context(t, "FROM "+w2.Addr+"/library/other:1\nCOPY Dockerfile /x\n", nil)
	start := func(dir string) string {
		out, errOut, status := harness.CLI(t, w.GRPC, "build", dir, "--detach")
		if status != 0 {
			t.Fatalf("%s %s", out, errOut)
		}
		return strings.TrimSpace(out)
	}
	cancel := func(what, id string) {
		if out, errOut, status := harness.CLI(t, w.GRPC, "cancel", id); status != 0 {
			t.Fatalf("%s: %s %s", what, out, errOut)
		}
		began := time.Now() // the cancel is acknowledged
		b := w.Wait(t, testkit.Context(t, time.Minute), id)
		took := time.Since(began)
		if b.Phase != imagebuilderv1.Phase_PHASE_CANCELLED || harness.DigestAt(t, b.Ref) != "" || harness.DigestAt(t, b.BaseRef) != "" {
			t.Errorf("%s: %s, tagged %q %q", what, b.Phase, harness.DigestAt(t, b.Ref), harness.DigestAt(t, b.BaseRef))
		}
		t.Logf("cancelled in %s after %s", what, took.Round(time.Millisecond))
		if took > cancelTimeout {
			t.Errorf("%s: cancelling took %s", what, took)
		}
	}
	running := func(id string) {
		testkit.Eventually(t, 30*time.Second, "the build runs", func() bool {
			log := logNow(t, w, id)
			return strings.Contains(log, "sleep") || statusOf(t, w, id).Phase == imagebuilderv1.Phase_PHASE_RUNNING
		})
	}
	first := start(run)
	running(first)
	second := start(queued)
	cancel("the queue", second)
	cancel("RUN", first)
	release := w2.Hold(registrytest.Blobs)
	asked := w2.Count(registrytest.Blobs)
	third := start(pull)
	testkit.Eventually(t, 30*time.Second, "BuildKit waits for a blob of the base image", func() bool { return w2.Count(registrytest.Blobs) > asked })
	cancel("the pull", third)
	release()
}

// logNow returns the log of a build so far.
func logNow(t *testing.T, w *buildkittest.Node, id string) string {
	out, errOut, _ := harness.CLI(t, w.GRPC, "logs", id)
	return out + errOut
}

// statusOf returns a build without waiting for it.
func statusOf(t *testing.T, w *buildkittest.Node, id string) *imagebuilderv1.Build {
	res, err := w.Native.BuildStatus(t.Context(), &imagebuilderv1.BuildStatusRequest{Build: &imagebuilderv1.BuildStatusRequest_Id{Id: id}})
	if err != nil {
		t.Fatal(err)
	}
	return res.Build
}

// Test_Dockerfile_CancelInPush delays the uploads to the registry and cancels the build while
// BuildKit pushes. Nothing is tagged.
func Test_Dockerfile_CancelInPush(t *testing.T) {
	reg := registrytest.Start(t, registrytest.Options{})
	reg.Push(t, "library/busybox:1", registrytest.BusyboxImage(t, "echo", "sleep"))
	proxy := registrytest.NewProxy(t, reg)
	bk := buildkittest.StartDaemon(t, t.TempDir())
	w := &buildkittest.Node{Registry: reg, Daemon: bk, Base: reg.Addr + "/library/busybox:1"}
	w.Node = harness.Start(t, reg.Addr, harness.Config{
		"buildkit":     map[string]any{"addresses": []string{bk.Addr()}},
		"orchestrator": map[string]any{"baseImageRepository": proxy.Addr + "/base-images"},
	})
	dir := w.Context(t, "FROM base\nRUN sleep 3 && echo something to push > /x\n", nil)
	out, errOut, status := harness.CLI(t, w.GRPC, "build", dir, "--detach")
	if status != 0 {
		t.Fatalf("%s %s", out, errOut)
	}
	// The context is uploaded, and the step still sleeps.
	defer proxy.Hold(registrytest.Method("PATCH", registrytest.Uploads))()
	defer proxy.Hold(registrytest.Method("PUT", registrytest.Uploads))()
	id := strings.TrimSpace(out)
	pushed := proxy.Count(registrytest.Uploads)
	testkit.Eventually(t, 30*time.Second, "BuildKit pushes", func() bool { return proxy.Count(registrytest.Uploads) > pushed })
	if out, errOut, status := harness.CLI(t, w.GRPC, "cancel", id); status != 0 {
		t.Fatalf("%s %s", out, errOut)
	}
	began := time.Now() // the cancel is acknowledged
	b := w.Wait(t, testkit.Context(t, time.Minute), id)
	took := time.Since(began)
	t.Logf("cancelled in the push after %s", took.Round(time.Millisecond))
	if b.Phase != imagebuilderv1.Phase_PHASE_CANCELLED || harness.DigestAt(t, b.Ref) != "" || harness.DigestAt(t, b.BaseRef) != "" || took > cancelTimeout {
		t.Errorf("%s after %s, tagged %q %q", b.Phase, took, harness.DigestAt(t, b.Ref), harness.DigestAt(t, b.BaseRef))
	}
}
