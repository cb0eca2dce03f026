package buildkit_test

import (
	"archive/tar"
	"errors"
	"io"
	"strings"
	"testing"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

const (
	user           = imagebuilderv1.Blame_BLAME_USER
	infrastructure = imagebuilderv1.Blame_BLAME_INFRASTRUCTURE
	quota          = imagebuilderv1.Blame_BLAME_QUOTA
	timeout        = imagebuilderv1.Blame_BLAME_TIMEOUT
)

// untar reads a small archive into memory.
func untar(t *testing.T, r io.Reader) map[string]string {
	t.Helper()
	files := map[string]string{}
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatalf("read a tar: %v", err)
		}
		content, err := io.ReadAll(tr)
		if err != nil {
			t.Fatalf("read a tar: %v", err)
		}
		files[strings.TrimPrefix(h.Name, "/")] = string(content)
	}
}

func Test_Run_FailuresOfTheDockerfile(t *testing.T) {
	r := newRig(t)
	from := "FROM " + r.base + "\n"
	for name, test := range map[string]struct {
		dockerfile string
		change     func(*imagebuilderv1.DockerfileSource)
		blame      imagebuilderv1.Blame
		parts      []string
	}{
		"failing step": {
			dockerfile: from + "RUN echo one\nRUN echo a word before the end && exit 7\n",
			blame:      user, parts: []string{"build failed: Dockerfile:3", ">>> RUN echo a word", "exit code 7", "last output:\n  a word before the end"},
		},
		"syntax":             {dockerfile: from + "RUNN echo\n", blame: user, parts: []string{"build failed: Dockerfile:2", "unknown instruction: RUNN", "did you mean RUN?"}},
		"missing file":       {dockerfile: from + "COPY nothing.txt /\n", blame: user, parts: []string{"Dockerfile:2", `"/nothing.txt": not found`}},
		"missing base":       {dockerfile: "FROM " + r.reg.Addr + "/library/nothing:1\n", blame: user, parts: []string{"base image does not exist", "library/nothing:1"}},
		"missing tag":        {dockerfile: "FROM " + r.reg.Addr + "/library/busybox:99\n", blame: user, parts: []string{"base image does not exist"}},
		"missing other base": {dockerfile: from + "COPY --from=" + r.reg.Addr + "/library/nothing:2 /a /a\n", blame: user, parts: []string{"base image does not exist", "library/nothing:2"}},
		"missing stage":      {dockerfile: from, change: func(d *imagebuilderv1.DockerfileSource) { d.Target = "none" }, blame: user, parts: []string{`target stage "none"`}},
		"empty":              {dockerfile: "# nothing\n", blame: user, parts: []string{"build failed:"}},
		"killed":             {dockerfile: from + "RUN sh -c 'kill -9 $$'; exit $?\n", blame: quota, parts: []string{"build failed: Dockerfile:2", "137", "memory"}},
		"full tmpfs": {
			dockerfile: from + "RUN --mount=type=tmpfs,target=/t,size=1000000 dd if=/dev/zero of=/t/f bs=1000000 count=5\n",
			blame:      quota, parts: []string{"no space left on device", "write less"},
		},
		"missing secret":     {dockerfile: from + "RUN --mount=type=secret,id=nobody,required=true true\n", blame: user, parts: []string{"nobody"}},
		"privileged":         {dockerfile: from + "RUN --security=insecure true\n", blame: user, parts: []string{"security.insecure"}},
		"host network":       {dockerfile: from + "RUN --network=host true\n", blame: user, parts: []string{"network.host"}},
		"unknown executable": {dockerfile: from + "RUN [\"/nothing\"]\n", blame: user, parts: []string{"Dockerfile:2", "/nothing"}},
	} {
		t.Run(name, func(t *testing.T) {
			change := test.change
			if change == nil {
				change = func(*imagebuilderv1.DockerfileSource) {}
			}
			m := r.mustFail(t, r.upload(t, map[string]string{"Dockerfile": test.dockerfile}, change), test.blame, test.parts...)
			if !strings.HasPrefix(m, "build failed:") {
				t.Errorf("the message does not begin as Gitpod wants it: %s", m)
			}
			t.Log(m)
		})
	}
}

func Test_Run_FailuresOfTheContext(t *testing.T) {
	r := newRig(t)
	r.mustFail(t, r.upload(t, map[string]string{"a": ""}), user, "no Dockerfile at Dockerfile")
	r.mustFail(t, r.upload(t, map[string]string{"../a": ""}), user, "leaves it")
	r.mustFail(t, r.upload(t, map[string]string{"Dockerfile": ""}, func(d *imagebuilderv1.DockerfileSource) { d.ContextPath = "a/../../b" }), user, "leaves the build context")
	r.mustFail(t, r.upload(t, map[string]string{"Dockerfile": "FROM scratch"}, func(d *imagebuilderv1.DockerfileSource) {
		d.ContextPath, d.DockerfilePath = "b", "Dockerfile"
	}), user, `no folder "b"`)
	r.mustFail(t, r.uploadTar(t, []byte(strings.Repeat("not a tar ", 100))), user, "not a tar archive")
	gone := r.upload(t, map[string]string{"Dockerfile": ""})
	clear(r.contexts)
	r.mustFail(t, gone, infrastructure, "open the uploaded build context")
}
