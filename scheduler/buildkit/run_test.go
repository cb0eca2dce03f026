package buildkit_test

import (
	"bytes"
	"io"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

func Test_Run_BuildsTheTargetOfTwoStagesWithArgs(t *testing.T) {
	r := newRig(t)
	w := r.upload(t, map[string]string{
		"Dockerfile": "ARG BASE=missing\nFROM ${BASE} AS build\nARG GREETING=none\nRUN echo $GREETING > /greeting\n" +
			"FROM ${BASE} AS middle\nCOPY --from=build /greeting /g\nCOPY data/ /data/\nFROM middle AS last\nRUN false\n",
		"data/a.txt": "content of a",
	}, func(d *imagebuilderv1.DockerfileSource) {
		d.BuildArgs = map[string]string{"GREETING": "hello", "BASE": r.base}
		d.Target = "middle"
		d.ImageLabels = map[string]string{"team": "blue"}
	})
	out, s := r.mustRun(t, w)

	if want := r.reg.Addr + "/bases"; out.Repository != want || out.SizeBytes < 500_000 {
		t.Errorf("outcome %+v, want repository %s and the size of busybox at least", out, want)
	}
	img := r.reg.Pull(t, "bases@"+out.Digest)
	if got := read(t, img, "g"); got != "hello\n" {
		t.Errorf("/g holds %q", got)
	}
	if got := read(t, img, "data/a.txt"); got != "content of a" {
		t.Errorf("/data/a.txt holds %q", got)
	}
	config, err := img.ConfigFile()
	if err != nil || config.Config.Labels["team"] != "blue" {
		t.Errorf("labels %v, %v", config.Config.Labels, err)
	}
	if tags := r.reg.Requests(); !strings.Contains(r.reg.Log(), "bases/manifests/sha256:") || len(tags) == 0 {
		t.Errorf("the image was not pushed by digest")
	}
	for _, line := range []string{"[build 2/2] RUN echo hello > /greeting", "DONE", "exporting to image"} {
		if !strings.Contains(s.text(), line) {
			t.Errorf("log lacks %q:\n%s", line, s.text())
		}
	}
	step := s.step("RUN echo")
	if step == nil || step.StartedAt == nil || step.EndedAt == nil || step.Cached || step.Error != "" {
		t.Errorf("step %v, want one that has ended", step)
	}
	if !s.running {
		t.Error("the sink did not receive that the workload runs")
	}

	_, again := r.mustRun(t, r.upload(t, map[string]string{
		"Dockerfile": "ARG BASE=missing\nFROM ${BASE} AS build\nARG GREETING=none\nRUN echo $GREETING > /greeting\n",
	}, func(d *imagebuilderv1.DockerfileSource) {
		d.BuildArgs = map[string]string{"GREETING": "hello", "BASE": r.base}
	}))
	if step := again.step("RUN echo"); step == nil || !step.Cached {
		t.Errorf("the second build ran the step again: %v", step)
	}
}

func Test_Run_SecretIsUsedAndFoundNowhere(t *testing.T) {
	r := newRig(t)
	w := r.upload(t, map[string]string{"Dockerfile": "FROM " + r.base + "\nRUN --mount=type=secret,id=token test $(wc -c < /run/secrets/token) = 12 && echo used > /used\n"})
	w.Secrets.Build = map[string][]byte{"token": []byte("s3cr3t-v4lue")}
	out, s := r.mustRun(t, w)

	img := r.reg.Pull(t, "bases@"+out.Digest)
	if got := read(t, img, "used"); got != "used\n" {
		t.Errorf("/used holds %q", got)
	}
	raw, err := img.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range layers {
		rc, err := l.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(rc)
		if err != nil {
			t.Fatal(err)
		}
		raw = append(raw, content...)
	}
	if bytes.Contains(raw, []byte("s3cr3t")) || strings.Contains(s.text(), "s3cr3t") {
		t.Error("the secret is in the image or in the log")
	}
}

func Test_Run_OptionsOfTheRequest(t *testing.T) {
	r := newRig(t)
	dockerfile := map[string]string{"Dockerfile": "FROM " + r.base + "\nRUN echo made > /made\n"}
	r.mustRun(t, r.upload(t, dockerfile))
	_, s := r.mustRun(t, r.upload(t, dockerfile, func(d *imagebuilderv1.DockerfileSource) { d.NoCache = true }))
	if step := s.step("RUN echo"); step == nil || step.Cached {
		t.Errorf("with no_cache the step came from the cache: %v", step)
	}
	r.mustFail(t, r.upload(t, dockerfile, func(d *imagebuilderv1.DockerfileSource) { d.NetworkMode = "host" }), user, `network mode "host" is not allowed`)
	r.mustRun(t, r.upload(t, dockerfile, func(d *imagebuilderv1.DockerfileSource) { d.NetworkMode = "none" }))
	r.mustRun(t, r.upload(t, map[string]string{"Dockerfile": "# syntax=docker/dockerfile:1.99\nFROM " + r.base + "\n"}))
	r.mustFail(t, r.upload(t, map[string]string{"Dockerfile": "# syntax=example.com/evil\nFROM " + r.base + "\n"}), user, `"example.com/evil"`)
	r.mustFail(t, r.upload(t, dockerfile, func(d *imagebuilderv1.DockerfileSource) {
		d.BuildArgs = map[string]string{"BUILDKIT_SYNTAX": "example.com/evil"}
	}), user, `"example.com/evil"`)
}

// read returns the content of a file in an image.
func read(t *testing.T, img v1.Image, name string) string {
	t.Helper()
	rc := mutate.Extract(img)
	defer func() { _ = rc.Close() }()
	content, ok := untar(t, rc)[name]
	if !ok {
		t.Fatalf("the image has no %s", name)
	}
	return content
}
