package harness

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/sync/errgroup"

	"github.com/image-builder-ha/image-builder/registry/registrytest"
)

// PushImages pushes n images that differ in their config only, and returns their
// references.
func PushImages(t testing.TB, reg *registrytest.Registry, n int) []string {
	t.Helper()
	base := registrytest.RandomImage(t, 1, 1<<10)
	refs := make([]string, n)
	push, err := remote.NewPusher()
	if err != nil {
		t.Fatal(err)
	}
	var g errgroup.Group
	g.SetLimit(8)
	for i := range refs {
		refs[i] = fmt.Sprintf("%s/many/app:%d", reg.Addr, i)
		g.Go(func() error {
			img, err := mutate.Config(base, v1.Config{Labels: map[string]string{"n": strconv.Itoa(i)}})
			if err != nil {
				return err
			}
			tag, err := name.NewTag(refs[i])
			if err != nil {
				return err
			}
			return push.Push(t.Context(), tag, img)
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	return refs
}

// DigestAt returns the digest that a registry has at a reference, "" if it has
// none.
func DigestAt(t testing.TB, ref string) string {
	t.Helper()
	parsed, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	d, err := remote.Head(parsed)
	if err != nil {
		return ""
	}
	return d.Digest.String()
}

// FileAt returns the content of a file of the image that a registry has at a
// reference, "" if the image has no such file.
func FileAt(t testing.TB, ref, file string) string {
	t.Helper()
	parsed, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	img, err := remote.Image(parsed)
	if err != nil {
		t.Fatal(err)
	}
	return FileOf(t, img, file)
}

// FileOf returns the content of a file of an image, "" if the image has no such
// file.
func FileOf(t testing.TB, img v1.Image, file string) string {
	t.Helper()
	rc := mutate.Extract(img)
	defer rc.Close()
	tr := tar.NewReader(rc)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return ""
		}
		if err != nil {
			t.Fatal(err)
		}
		if strings.TrimPrefix(h.Name, "/") == file {
			raw, err := io.ReadAll(tr)
			if err != nil {
				t.Fatal(err)
			}
			return string(raw)
		}
	}
}
