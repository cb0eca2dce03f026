package cli

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/harness/buildkittest"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// archive returns a tar archive as tar(1) writes it: with owners, times, and names that begin with
// ./.
func archive(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for file, text := range files {
		err := w.WriteHeader(&tar.Header{Name: "./" + file, Mode: 0o755, Uid: 1000, Gid: 1000, Size: int64(len(text))})
		_, werr := io.WriteString(w, text)
		if err := errors.Join(err, werr); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Test_CLI_StandardInput builds archives and Dockerfiles from standard input.
func Test_CLI_StandardInput(t *testing.T) {
	w := buildkittest.Start(t, nil)
	plain := archive(t, map[string]string{
		"Dockerfile": "FROM " + w.Base + "\nCOPY . /all/\n", "a.txt": "of the archive", ".dockerignore": "b.txt\n", "b.txt": "ignored",
		"sub/Second": "FROM " + w.Base + "\nCOPY sub/c.txt /c.txt\n", "sub/c.txt": "of the folder",
	})
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	if _, err := z.Write(plain); err != nil || z.Close() != nil {
		t.Fatal(err)
	}
	build := func(stdin io.Reader, args ...string) string {
		t.Helper()
		out, errOut, status := harness.CLIWith(t, w.GRPC, stdin, nil, append([]string{"build"}, args...)...)
		if status != 0 {
			t.Fatalf("%v: status %d: %s %s", args, status, out, errOut)
		}
		return harness.LastLine(out)
	}
	image := build(bytes.NewReader(plain), "-")
	if a, b := harness.FileAt(t, image, "all/a.txt"), harness.FileAt(t, image, "all/b.txt"); a != "of the archive" || b != "" {
		t.Errorf("an archive: the image holds %q, and of what is ignored %q", a, b)
	}
	if again := build(&zipped, "-"); again != image {
		t.Errorf("zipped, the same archive is %s, not %s", again, image)
	}
	if got := harness.FileAt(t, build(bytes.NewReader(plain), "-", "-f", "sub/Second"), "c.txt"); got != "of the folder" {
		t.Errorf("another Dockerfile of the archive: %q", got)
	}
	dir := w.Context(t, "FROM base\nRUN false\n", map[string]string{"d.txt": "of the directory"})
	if got := harness.FileAt(t, build(strings.NewReader("FROM "+w.Base+"\nCOPY d.txt /d.txt\n"), dir, "-f", "-"), "d.txt"); got != "of the directory" {
		t.Errorf("a Dockerfile from standard input: %q", got)
	}
	for title, c := range map[string]struct {
		stdin string
		args  []string
		want  string
	}{
		"no archive":           {"FROM " + w.Base + "\n", []string{"-"}, "not a tar archive with files"},
		"nothing":              {"", []string{"-"}, "not a tar archive with files"},
		"a broken gzip":        {"\x1f\x8b is not enough", []string{"-"}, "read the context from standard input"},
		"both":                 {"", []string{"-", "-f", "-"}, "both the context and the Dockerfile"},
		"-f - of a repository": {"", []string{"https://example.com/a.git", "-f", "-"}, "name one in it"},
	} {
		if _, errOut, status := harness.CLIWith(t, w.GRPC, strings.NewReader(c.stdin), nil, append([]string{"build"}, c.args...)...); status != 2 || !strings.Contains(errOut, c.want) {
			t.Errorf("%s: status %d: %s", title, status, errOut)
		}
	}
}

// Test_CLI_BuildFlags checks --platform, --secret from the environment, and --progress json.
func Test_CLI_BuildFlags(t *testing.T) {
	w := buildkittest.Start(t, nil)
	// COPY runs no program, so any machine can build for any platform.
	dir := w.Context(t, "FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /arch\n", map[string]string{"amd64": "of amd64", "arm64": "of arm64"})
	image := harness.LastLine(harness.MustCLI(t, w.GRPC, "build", dir, "--platform", "linux/arm64"))
	if img := pullImage(t, image); archOf(t, img) != "arm64" || harness.FileOf(t, img, "arch") != "of arm64" {
		t.Errorf("--platform linux/arm64 is of %s", archOf(t, img))
	}

	const secret = "from-the-environment"
	steps := w.Context(t, "FROM base\nRUN --mount=type=secret,id=token wc -c /run/secrets/token > /size\n", nil)
	out, errOut, status := harness.CLIWith(t, w.GRPC, nil, []string{"MY_TOKEN=" + secret}, "build", steps, "--secret", "id=token,env=MY_TOKEN", "--progress", "json")
	if status != 0 {
		t.Fatalf("status %d: %s %s", status, out, errOut)
	}
	if got := harness.FileAt(t, harness.LastLine(out), "size"); !strings.HasPrefix(got, "20 ") || len(secret) != 20 {
		t.Errorf("the step saw a secret of %q bytes", got)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	var last struct{ Phase, Digest string }
	for _, line := range lines[:len(lines)-1] {
		if err := json.Unmarshal([]byte(line), &last); err != nil {
			t.Fatalf("--progress json wrote %q: %v", line, err)
		}
	}
	if last.Phase != "PHASE_SUCCEEDED" || !strings.HasSuffix(lines[len(lines)-1], "@"+last.Digest) {
		t.Errorf("the last state is %v, the last line %q", last, lines[len(lines)-1])
	}
	testkit.NoSecret(t, "the output", []byte(out+errOut), secret)
	if _, errOut, status := harness.CLI(t, w.GRPC, "build", steps, "--secret", "id=token,env=NOT_THERE"); status != 2 || !strings.Contains(errOut, "the environment has no NOT_THERE") {
		t.Errorf("a secret that is not there: %d %s", status, errOut)
	}
}

func pullImage(t *testing.T, ref string) v1.Image {
	t.Helper()
	tag, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	desc, err := remote.Get(tag)
	if err != nil {
		t.Fatal(err)
	}
	if !desc.MediaType.IsImage() {
		t.Fatalf("%s is no image: %s", ref, desc.MediaType)
	}
	img, err := desc.Image()
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func archOf(t *testing.T, img v1.Image) string {
	t.Helper()
	conf, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	return conf.Architecture
}
