package dev

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/image-builder-ha/image-builder/cmd/image-builder/cli"
)

// registryConfig is the configuration of the registry, with verbs for its directory and its address.
const registryConfig = `version: 0.1
log: {level: warn}
storage:
  filesystem: {rootdirectory: %s}
  delete: {enabled: true}
http:
  addr: %s
`

// startRegistry starts Debian's docker-registry, and waits until it is ready. It keeps its images.
func startRegistry(ctx context.Context, dir string, o options) (*process, error) {
	program, err := exec.LookPath("docker-registry")
	if err != nil {
		return nil, cli.ExitWith(cli.ExitUnavailable, errors.New("docker-registry is not installed: run 'make deps' as root, or install the Debian package docker-registry"))
	}
	conf := filepath.Join(dir, "registry.yml")
	text := fmt.Sprintf(registryConfig, filepath.Join(dir, "registry"), o.registryAddress)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return nil, fmt.Errorf("write the registry's config: %w", err)
	}
	c, err := startProcess(dir, "registry", o.verbose, program, "serve", conf)
	if err != nil {
		return nil, err
	}
	if err := c.awaitHTTP(ctx, "the registry", "http://"+o.registryAddress+"/v2/"); err != nil {
		return nil, errors.Join(err, c.stop())
	}
	return c, nil
}

// pushBase pushes an image with this machine's static busybox, and returns its ref.
func pushBase(ctx context.Context, registryAddress string) (string, error) {
	ref, err := name.NewTag(registryAddress+"/examples/busybox:1", name.Insecure)
	if err != nil {
		return "", fmt.Errorf("name the base image: %w", err)
	}
	if _, err := remote.Head(ref, remote.WithContext(ctx)); err == nil {
		return ref.String(), nil
	}
	img, err := busyboxImage()
	if err != nil {
		return "", fmt.Errorf("create the base image: %w", err)
	}
	if err := remote.Write(ref, img, remote.WithContext(ctx)); err != nil {
		return "", fmt.Errorf("push the base image: %w", err)
	}
	return ref.String(), nil
}

// busyboxImage returns an image of one layer with a static busybox and links to its commands.
func busyboxImage() (v1.Image, error) {
	path, err := exec.LookPath("busybox")
	if err != nil {
		return nil, cli.ExitWith(cli.ExitUnavailable, errors.New("busybox is not installed: run 'make deps' as root, or install the Debian package busybox-static"))
	}
	program, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	add := func(h tar.Header, body []byte) {
		h.Size = int64(len(body))
		err = errors.Join(err, w.WriteHeader(&h))
		_, werr := w.Write(body)
		err = errors.Join(err, werr)
	}
	for _, d := range []string{"bin/", "etc/", "tmp/", "workspace/"} {
		add(tar.Header{Typeflag: tar.TypeDir, Name: d, Mode: 0o1777 &^ 0o1022}, nil)
	}
	add(tar.Header{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755}, program)
	for _, c := range []string{"sh", "ls", "cat", "echo", "cp", "mkdir", "sleep", "seq", "id", "env", "true", "false", "wc", "head", "dd", "sha256sum", "rm", "grep", "sed", "date"} {
		add(tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + c, Linkname: "busybox", Mode: 0o777}, nil)
	}
	add(tar.Header{Typeflag: tar.TypeReg, Name: "etc/passwd", Mode: 0o644}, []byte("root:x:0:0:root:/root:/bin/sh\n"))
	if err = errors.Join(err, w.Close()); err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	if err != nil {
		return nil, err
	}
	img, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		return nil, err
	}
	conf, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	conf = conf.DeepCopy()
	conf.OS, conf.Architecture = "linux", "amd64"
	conf.Config.Env = []string{"PATH=/bin"}
	conf.Config.Cmd = []string{"/bin/sh"}
	return mutate.ConfigFile(img, conf)
}
