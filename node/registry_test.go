package node

import (
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/registry/google"

	"github.com/google/go-cmp/cmp"

	"github.com/image-builder-ha/image-builder/config"
	"github.com/image-builder-ha/image-builder/registry"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
)

// Test_RegistryConfig_EveryKeyReachesTheClient checks that each key below registry sets exactly its
// option of the registry client.
func Test_RegistryConfig_EveryKeyReachesTheClient(t *testing.T) {
	defaults, _, err := loadConfig(t, "{}")
	if err != nil {
		t.Fatal(err)
	}
	plain := RegistryOptions(defaults, slog.Default(), nil)
	reached := map[string]bool{}
	for key, c := range map[string]struct {
		file string
		want func(*registry.Options)
	}{
		"insecureHosts": {`[a.example]`, func(o *registry.Options) { o.Insecure = []string{"a.example"} }},
		"caFile":        {`/ca.pem`, func(o *registry.Options) { o.CAFile = "/ca.pem" }},
		"timeout":       {`7s`, func(o *registry.Options) { o.Timeout = 7 * time.Second }},
		"allowHosts":    {`[b.example]`, func(o *registry.Options) { o.AllowHosts = append(o.AllowHosts, "b.example") }},
		"allowLoopback": {`true`, func(o *registry.Options) { o.AllowLoopback = true }},
		"identities":    {`[google]`, func(o *registry.Options) { o.Providers = []registry.Provider{google.New()} }},
		"cacheFor":      {`8s`, func(o *registry.Options) { o.CacheFor = 8 * time.Second }},
		"concurrency":   {`9`, func(o *registry.Options) { o.Concurrency = 9 }},
		"bandwidth":     {`10`, func(o *registry.Options) { o.Bandwidth = 10 }},
		"hosts": {`{c.example: {mirrors: [m.example/x], caFile: /c.pem, skipVerify: true, requestsPerSecond: 1.5, concurrency: 11}}`, func(o *registry.Options) {
			o.Hosts = map[string]registry.HostOptions{"c.example": {Mirrors: []string{"m.example/x"}, CAFile: "/c.pem", SkipVerify: true, RequestsPerSecond: 1.5, Concurrency: 11}}
		}},
	} {
		reached[key] = true
		cfg, warnings, err := loadConfig(t, "registry:\n  "+key+": "+c.file+"\n")
		if err != nil || len(warnings) > 0 {
			t.Errorf("%s: %v %q", key, err, warnings)
			continue
		}
		want := plain
		c.want(&want)
		got := RegistryOptions(cfg, slog.Default(), nil)
		if d := cmp.Diff(comparableOptions(want), comparableOptions(got)); d != "" {
			t.Errorf("registry.%s sets other options (-want +got):\n%s", key, d)
		}
	}
	keys := reflect.TypeFor[config.Registry]()
	for i := range keys.NumField() {
		if key := keys.Field(i).Tag.Get("json"); !reached[key] {
			t.Errorf("registry.%s is not tested", key)
		}
	}
}

// comparableOptions returns options in a form that can be compared: the names of providers, and
// whether a function is nil.
func comparableOptions(o registry.Options) map[string]any {
	out := map[string]any{}
	v := reflect.ValueOf(o)
	for i := range v.NumField() {
		f := v.Type().Field(i)
		switch {
		case f.Name == "Providers":
			var names []string
			for _, p := range o.Providers {
				names = append(names, p.Name())
			}
			out[f.Name] = names
		case f.Type.Kind() == reflect.Func:
			out[f.Name] = v.Field(i).IsNil()
		case f.Type.Kind() == reflect.Interface || f.Type.Kind() == reflect.Pointer:
		default:
			out[f.Name] = v.Field(i).Interface()
		}
	}
	return out
}

// loadConfig loads the text of one configuration file.
func loadConfig(t *testing.T, text string) (config.Config, []string, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return config.Load([]string{path})
}

// waitsForRegistry is the output of a log. It closes done at the first line about a wait for a
// registry.
type waitsForRegistry struct {
	once sync.Once
	done chan struct{}
}

func (w *waitsForRegistry) Write(p []byte) (int, error) {
	if strings.Contains(string(p), "a build waits for a registry") {
		w.once.Do(func() { close(w.done) })
	}
	return len(p), nil
}

// Test_Publish_WaitsForTheRegistry checks that Publish and Exists wait while the registry is down,
// and succeed when it is back.
func Test_Publish_WaitsForTheRegistry(t *testing.T) {
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
			log := &waitsForRegistry{done: make(chan struct{})}
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
				t.Fatalf("ended while the registry was down: %v", err)
			case <-log.done:
			}
			reg = registrytest.Start(t, registrytest.Options{Storage: storage, Addr: reg.Addr})
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}
