package main

import (
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/registry"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
)

// Test_PushedImage_IsNeverTheCachedOne: a workspace pushes by itself, so that
// the node's cache knows nothing of it. The digest that a build ends with, and
// that is tagged at its end, is the one pushed.
func Test_PushedImage_IsNeverTheCachedOne(t *testing.T) {
	reg := registrytest.Start(t, registrytest.Options{})
	client, err := registry.New(registry.Options{AllowLoopback: true, CacheFor: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	s := &server{registry: client}
	ref := reg.Addr + "/workspace-images:1"
	for range 2 {
		want := reg.Push(t, "workspace-images:1", registrytest.RandomImage(t, 1, 100))
		if img, err := s.pushedImage(t.Context(), ref); err != nil || img.Digest != want {
			t.Fatalf("the workspace pushed %s, the node sees %s, %v", want, img.Digest, err)
		}
	}
	if err := (registryAdapter{client}).Publish(t.Context(), reg.Addr+"/workspace-images@"+reg.Digest(t, "workspace-images:1"), ref); err != nil {
		t.Fatal(err)
	}
}
