package test

import (
	"fmt"
	"strconv"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"golang.org/x/sync/errgroup"

	"github.com/image-builder-ha/image-builder/registry/registrytest"
)

// pushMany pushes n images that differ in their config only and answers their
// refs.
func pushMany(t testing.TB, reg *registrytest.Registry, n int) []string {
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
