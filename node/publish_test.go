package node

import (
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/registry"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
)

// warned is closed by the first line of a log.
type warned struct {
	once sync.Once
	done chan struct{}
}

func (w *warned) Write(p []byte) (int, error) {
	if strings.Contains(string(p), "a build waits for a registry") {
		w.once.Do(func() { close(w.done) })
	}
	return len(p), nil
}

// Test_Publish_ARegistryThatRestarts: an image that is built is looked for and
// tagged when the registry is back.
func Test_Publish_ARegistryThatRestarts(t *testing.T) {
	storage := t.TempDir()
	reg := registrytest.Start(t, registrytest.Options{Storage: storage})
	image := reg.Addr + "/base-images@" + reg.Push(t, "base-images:1", registrytest.RandomImage(t, 1, 100))
	for name, work := range map[string]func(a registryAdapter) error{
		"publish": func(a registryAdapter) error { return a.Publish(t.Context(), image, reg.Addr+"/workspace-images:1") },
		"exists": func(a registryAdapter) error {
			found, err := a.Exists(t.Context(), image)
			if err == nil && !found {
				t.Error("the image is not found")
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			log := &warned{done: make(chan struct{})}
			client, err := registry.New(registry.Options{AllowLoopback: true, Retries: 1, RetryBase: time.Millisecond, Logger: slog.New(slog.NewTextHandler(log, nil))})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = client.Close() })
			reg.Stop()
			done := make(chan error, 1)
			go func() { done <- work(registryAdapter{client}) }()
			select {
			case err := <-done:
				t.Fatalf("ended while the registry was away: %v", err)
			case <-log.done:
			}
			reg = registrytest.Start(t, registrytest.Options{Storage: storage, Addr: reg.Addr})
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}
