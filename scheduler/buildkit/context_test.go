package buildkit_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/buildkit"
)

// Test_Run_UploadKeepsModesLinksAndIgnores checks which files of a context a build sees.
func Test_Run_UploadKeepsModesLinksAndIgnores(t *testing.T) {
	r := newRig(t)
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	addFile(t, w, "Dockerfile", 0o644, "FROM "+r.base+"\nCOPY . /c/\nRUN stat -c '%a %n' /c/run.sh /c/private /c/dir > /modes\n")
	addFile(t, w, ".dockerignore", 0o644, "ignored\n*.log\n")
	addFile(t, w, "run.sh", 0o755, "#!/bin/sh\n")
	addFile(t, w, "private", 0o600, "p")
	addFile(t, w, "ignored", 0o644, "x")
	addFile(t, w, "a.log", 0o644, "x")
	for _, h := range []*tar.Header{
		{Typeflag: tar.TypeDir, Name: "dir/", Mode: 0o750},
		{Typeflag: tar.TypeSymlink, Name: "dir/absolute", Linkname: "/etc/passwd"},
		{Typeflag: tar.TypeSymlink, Name: "dir/up", Linkname: "../../../etc/passwd"},
		{Typeflag: tar.TypeLink, Name: "hard", Linkname: "run.sh"},
	} {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	out, _ := r.mustRun(t, r.uploadTar(t, b.Bytes()))
	img := r.reg.Pull(t, "bases@"+out.Digest)
	if got, want := read(t, img, "modes"), "755 /c/run.sh\n600 /c/private\n750 /c/dir\n"; got != want {
		t.Errorf("modes:\n%swant\n%s", got, want)
	}
	if got := read(t, img, "c/hard"); got != "#!/bin/sh\n" {
		t.Errorf("the hard link holds %q", got)
	}
	rc := exported(t, img)
	for _, name := range []string{"c/ignored", "c/a.log"} {
		if _, ok := rc[name]; ok {
			t.Errorf("%s was ignored and is in the image", name)
		}
	}
	for _, name := range []string{"c/dir/absolute", "c/dir/up"} {
		if rc[name] != "" {
			t.Errorf("the link %s brought %q", name, rc[name])
		}
	}
}

func Test_New_RemovesTheContextsOfAKilledProcess(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"build-context-1/a", "other/a"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	r, err := buildkit.New(buildkit.Options{
		Daemons: []buildkit.Address{{URL: "unix:///nobody"}}, Registry: everything{}, HTTP: http.DefaultClient, TempDir: dir, Log: discard(),
		Credentials: func(context.Context, string, *buildsv1.Rights, bool) (string, string, error) { return "", "", nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 || left[0].Name() != "other" {
		t.Errorf("left: %v, %v", left, err)
	}
}

func Test_Run_PathsOfAnUpload(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	files := map[string]string{
		"Dockerfile": "FROM " + r.base + "\nCOPY v /v\n", "v": "root",
		"sub/Dockerfile": "FROM " + r.base + "\nCOPY v /v\n", "sub/v": "subb", // the same length as the other
		"sub/Dockerfile.dockerignore": "nothing", "sub/other.Dockerfile": "FROM " + r.base + "\nCOPY v /v\n",
	}
	for _, test := range []struct{ dockerfile, dir, want string }{
		{"", "", "root"},
		{"sub/Dockerfile", "", "root"},
		{"", "sub", "subb"},
		{"sub/other.Dockerfile", "./sub/", "subb"},
		{"Dockerfile", "sub", "subb"},
	} {
		w := r.upload(t, files, func(d *imagebuilderv1.DockerfileSource) {
			d.DockerfilePath, d.ContextPath = test.dockerfile, test.dir
		})
		out, _ := r.mustRun(t, w)
		if got := read(t, r.reg.Pull(t, "bases@"+out.Digest), "v"); got != test.want {
			t.Errorf("Dockerfile %q in %q: the context is that of %q, want %q", test.dockerfile, test.dir, got, test.want)
		}
	}
}

func Test_Run_DownloadContext(t *testing.T) {
	r := newRig(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		switch req.URL.Path {
		case "/d":
			fmt.Fprint(w, "FROM "+r.base+"\nCOPY a /a\n")
		case "/a":
			fmt.Fprint(w, "content")
		case "/broken":
			w.WriteHeader(http.StatusBadGateway)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	defer server.Close()
	file := func(url, path, content string) *imagebuilderv1.DownloadContext_File {
		sum := sha256.Sum256([]byte(content))
		return &imagebuilderv1.DownloadContext_File{Url: server.URL + url, Path: path, Digest: "sha256:" + hex.EncodeToString(sum[:])}
	}
	dockerfile := file("/d", "Dockerfile", "FROM "+r.base+"\nCOPY a /a\n")
	source := func(files ...*imagebuilderv1.DownloadContext_File) *imagebuilderv1.DockerfileSource {
		return &imagebuilderv1.DockerfileSource{Context: &imagebuilderv1.DockerfileSource_Download{
			Download: &imagebuilderv1.DownloadContext{Files: append(files, dockerfile)},
		}}
	}
	out, _ := r.mustRun(t, r.workload(source(file("/a", "a", "content"))))
	if got := read(t, r.reg.Pull(t, "bases@"+out.Digest), "a"); got != "content" {
		t.Errorf("/a holds %q", got)
	}
	r.mustFail(t, r.workload(source(file("/a", "a", "other"))), user, "a has the digest")
	r.mustFail(t, r.workload(source(file("/none", "a", ""))), user, "status 404")
	r.mustFail(t, r.workload(source(file("/a", "../a", "content"))), user, "leaves it")
	m := r.mustFail(t, r.workload(source(file("/broken?signature=secret", "a", ""))), infrastructure, "status 502")
	server.Close()
	m += r.mustFail(t, r.workload(source(file("/a?signature=secret", "a", ""))), infrastructure, "download a")
	if strings.Contains(m, "secret") {
		t.Errorf("the message shows a signed URL: %s", m)
	}
}

// Test_Run_LargeUploadsInBoundedMemory uploads 10,000 files, and one file of 300 MB.
func Test_Run_LargeUploadsInBoundedMemory(t *testing.T) {
	r := newRig(t)
	const files, large = 10_000, 300 << 20
	dockerfile := "FROM " + r.base + " AS a\nCOPY . /c/\nRUN test $(ls /c | wc -l) = 10002\nRUN test $(stat -c %s /c/large) = 314572800\n" +
		"FROM " + r.base + "\nCOPY --from=a /bin/busybox /x\nRUN true\n"
	write := func(out io.Writer) error {
		w := tar.NewWriter(out)
		addFile(t, w, "Dockerfile", 0o644, dockerfile)
		for i := range files {
			addFile(t, w, fmt.Sprintf("file-%05d", i), 0o644, "hello")
		}
		if err := w.WriteHeader(&tar.Header{Name: "large", Mode: 0o644, Size: large}); err != nil {
			return err
		}
		if _, err := io.CopyN(w, zeros{}, large); err != nil {
			return err
		}
		return w.Close()
	}
	w := r.upload(t, nil)
	r.contexts[w.Source.GetDockerfile().GetUpload().Digest] = func() io.ReadCloser {
		pr, pw := io.Pipe()
		go func() { pw.CloseWithError(write(pw)) }()
		return pr
	}
	stop := watchHeap()
	begin := time.Now()
	r.mustRun(t, w)
	grown := stop()
	t.Logf("built in %v, the heap grew by %d MB at most", time.Since(begin).Round(time.Millisecond), grown>>20)
	if grown > 64<<20 {
		t.Errorf("the heap grew by %d MB", grown>>20)
	}
	small := newRig(t, func(o *buildkit.Options) { o.ContextBytes, o.ContextFiles = 100, 3 })
	small.mustFail(t, small.upload(t, map[string]string{"Dockerfile": strings.Repeat("#", 60), "b": strings.Repeat("#", 60)}), user, "larger than 100 bytes")
	small.mustFail(t, small.upload(t, map[string]string{"Dockerfile": "", "b": "", "c": "", "d": ""}), user, "more than 3 files")
}

// Test_Run_OutputIsComplete runs a step that writes 100 MB.
func Test_Run_OutputIsComplete(t *testing.T) {
	r := newRig(t)
	const lines = 1_000_000
	w := r.upload(t, map[string]string{"Dockerfile": "FROM " + r.base + "\nRUN yes " + strings.Repeat("y", 99) + " | head -n 1000000\n"})
	s := &counting{}
	stop := watchHeap()
	begin := time.Now()
	if _, err := r.Run(t.Context(), w, s); err != nil {
		t.Fatalf("run: %v", err)
	}
	t.Logf("%d MB in %v, heap grew by %d MB at most", s.bytes>>20, time.Since(begin).Round(time.Millisecond), stop()>>20)
	if s.lines != lines {
		t.Errorf("%d lines of output, want %d", s.lines, lines)
	}
}

// counting counts the lines that contain the whole text.
type counting struct {
	sink
	lines int
	bytes int64
	rest  []byte
}

func (c *counting) Write(p []byte) (int, error) {
	c.bytes += int64(len(p))
	want := []byte(strings.Repeat("y", 99))
	c.rest = append(c.rest, p...)
	for {
		i := bytes.IndexByte(c.rest, '\n')
		if i < 0 {
			return len(p), nil
		}
		if bytes.HasSuffix(c.rest[:i], append([]byte(" "), want...)) && !bytes.Contains(c.rest[:i], []byte("RUN")) {
			c.lines++
		}
		c.rest = c.rest[i+1:]
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// watchHeap returns a function that returns the largest growth of the heap so far, in bytes.
func watchHeap() func() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	start, most := m.HeapAlloc, m.HeapAlloc
	done := make(chan struct{})
	var group sync.WaitGroup
	group.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				most = max(most, m.HeapAlloc)
			}
		}
	})
	return func() int64 {
		close(done)
		group.Wait()
		return int64(most - start)
	}
}

// Test_Run_DaemonsDiskFull distinguishes a full disk of the daemon from a step that finds no space:
// only the first justifies an attempt on another daemon.
func Test_Run_DaemonsDiskFull(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	if err := mountTmpfs(root, "48m"); err != nil {
		t.Fatalf("mount a small disk: %v", err)
	}
	t.Cleanup(func() {
		if err := unmount(root); err != nil {
			t.Errorf("unmount the small disk: %v", err)
		}
	})
	d, err := buildkit.StartDaemon(t.Context(), buildkit.DaemonOptions{Binary: buildkitd(t), Root: root, Logger: discard()})
	if err != nil {
		t.Fatalf("start a daemon: %v", err)
	}
	t.Cleanup(func() {
		if err := d.Stop(t.Context()); err != nil {
			t.Errorf("stop the daemon: %v", err)
		}
	})
	r := newRigOn(t, d)
	r.mustFail(t, r.upload(t, map[string]string{"Dockerfile": "FROM " + r.base + "\nRUN dd if=/dev/zero of=/f bs=1M count=100\n"}), quota, "no space left on device", "exit code 1")
	m := r.mustFail(t, r.upload(t, map[string]string{"Dockerfile": "FROM " + r.base + "\nCOPY large /large\n", "large": strings.Repeat("x", 60<<20)}), infrastructure, "the disk of the BuildKit daemon", "is full")
	t.Log(m)
	if _, err := os.Stat(root); err != nil {
		t.Error(err)
	}
}
