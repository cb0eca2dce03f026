package kubernetes_test

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	"github.com/google/go-cmp/cmp"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes/proxy"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// changing holds credentials that change during a build.
type changing struct {
	credentials
	now atomic.Pointer[string]
}

func (c *changing) Own(_ context.Context, host string) (proxy.Auth, bool, error) {
	p := c.now.Load()
	if p == nil {
		return proxy.Auth{}, false, errors.New("the cloud does not respond")
	}
	return proxy.Auth{User: "install", Password: *p}, host == c.host, nil
}

// Test_Run_Renew checks that changed credentials are written into the Secret of a running build,
// also of an adopted one, and that nothing else in the Secret changes.
func Test_Run_Renew(t *testing.T) {
	c := newCluster(t)
	creds := &changing{credentials: credentials{"reg.example"}}
	set := func(s string) { creds.now.Store(&s) }
	set("first")
	options := func(o *kubernetes.Options) {
		o.Credentials, o.RenewInterval = creds, 10*time.Millisecond
		kubernetes.FastRetries(o)
	}
	w := copyOf(&registrytest.Registry{Addr: "reg.example"}, "b1", "sha256:"+strings.Repeat("a", 64))
	has := func() (conf proxy.Config, job string) {
		s := c.await(t.Context(), w.Name())
		if err := json.Unmarshal(s.Data["proxy.json"], &conf); err != nil {
			t.Fatal(err)
		}
		return conf, string(s.Data["job.json"])
	}
	ctx, cancel := context.WithCancel(testContext(t))
	x := start(ctx, newRuntime(t, c, "node-a", "", options), w, newSink())
	first, job := has()
	set("second")
	testkit.Eventually(t, 20*time.Second, "the Secret has the second one", func() bool { conf, _ := has(); return conf.Own["reg.example"].Password == "second" })
	creds.now.Store(nil)
	cancel()
	_, _ = x.wait(t)

	set("third")
	w.Epoch++
	ctx, cancel = context.WithCancel(testContext(t))
	x = start(ctx, newRuntime(t, c, "node-b", "", options), w, newSink())
	testkit.Eventually(t, 20*time.Second, "the Secret has the third one", func() bool { conf, _ := has(); return conf.Own["reg.example"].Password == "third" })
	conf, job2 := has()
	conf.Own, first.Own = nil, nil
	if d := cmp.Diff(first, conf); d != "" || job != job2 {
		t.Errorf("something else has changed: %s, job the same: %v", d, job == job2)
	}
	cancel()
	_, _ = x.wait(t)
}

// partly adds credentials of two more hosts. One of them is unavailable at times.
type partly struct {
	*changing
	fails atomic.Bool
}

func (c *partly) Readable(context.Context, *buildsv1.Rights) (map[string]proxy.Auth, map[string]error) {
	found := map[string]proxy.Auth{"other.example": {User: "u", Password: *c.now.Load()}}
	if c.fails.Load() {
		return found, map[string]error{"cloud.example": errors.New("the cloud does not respond")}
	}
	found["cloud.example"] = proxy.Auth{User: "u", Password: "cloud"}
	return found, nil
}

// Test_Run_RenewInPart renews the credentials of all hosts except one that is unavailable, whose
// former credential stays. A new pod waits for such a credential only if the request names the
// host.
func Test_Run_RenewInPart(t *testing.T) {
	c := newCluster(t)
	creds := &partly{changing: &changing{credentials: credentials{"reg.example"}}}
	set := func(s string) { creds.now.Store(&s) }
	set("first")
	options := func(o *kubernetes.Options) {
		o.Credentials, o.RenewInterval, o.RightsTimeout = creds, 10*time.Millisecond, 30*time.Millisecond
		kubernetes.FastRetries(o)
	}
	run := func(build string, hosts ...string) *workload.Workload {
		w := copyOf(&registrytest.Registry{Addr: "reg.example"}, build, "sha256:"+strings.Repeat("a", 64))
		w.Rights = &buildsv1.Rights{Hosts: hosts}
		return w
	}
	read := func(w *workload.Workload) map[string]proxy.Auth {
		var conf proxy.Config
		if err := json.Unmarshal(c.await(t.Context(), w.Name()).Data["proxy.json"], &conf); err != nil {
			t.Fatal(err)
		}
		return conf.Read
	}
	r := newRuntime(t, c, "node-a", "", options)
	ctx, cancel := context.WithCancel(testContext(t))
	old := run("b1")
	x := start(ctx, r, old, newSink())
	if got := read(old); len(got) != 2 {
		t.Errorf("at first %v", slices.Collect(maps.Keys(got)))
	}
	creds.fails.Store(true)
	set("second")
	testkit.Eventually(t, 20*time.Second, "the other host's is renewed", func() bool { return read(old)["other.example"].Password == "second" })
	if read(old)["cloud.example"].Password != "cloud" {
		t.Error("the unavailable credential was removed")
	}
	unnamed := run("b2")
	y := start(ctx, r, unnamed, newSink())
	if got := read(unnamed); len(got) != 1 {
		t.Errorf("a pod that names no host has %v", slices.Collect(maps.Keys(got)))
	}
	_, err := r.Run(testContext(t), run("b3", "cloud.example"), newSink())
	mustFail(t, err, builds.BlameInfrastructure, "ib-b3-1", "the cloud does not respond")
	creds.fails.Store(false)
	testkit.Eventually(t, 20*time.Second, "the pod has it later", func() bool { return len(read(unnamed)) == 2 })
	cancel()
	_, _ = x.wait(t)
	_, _ = y.wait(t)
}

// Test_Run_NoCredentials adopts a pod while the node has no credentials for it: the pod has its
// own. A new pod waits for credentials for a while.
func Test_Run_NoCredentials(t *testing.T) {
	reg, c := startRegistry(t), newCluster(t)
	digest := reg.Push(t, "team/app:1", registrytest.RandomImage(t, 1, 1<<10))
	creds := &changing{credentials: credentials{reg.Addr}} // none yet
	without := func(o *kubernetes.Options) {
		o.Credentials = creds
		kubernetes.FastRetries(o)
	}
	t.Run("adopted", func(t *testing.T) {
		w := copyOf(reg, "b1", digest)
		ctx, cancel := context.WithCancel(testContext(t))
		x := start(ctx, newRuntime(t, c, "node-a", reg.Addr), w, newSink())
		c.await(ctx, w.Name())
		cancel()
		_, _ = x.wait(t)
		w.Epoch = 2
		y := start(testContext(t), newRuntime(t, c, "node-b", reg.Addr, without), w, newSink())
		c.start(c.pod(w.Name()))
		if out, err := y.wait(t); err != nil || out.Digest != digest {
			t.Errorf("Run: %+v, %v", out, err)
		}
	})
	t.Run("new", func(t *testing.T) {
		w := copyOf(reg, "b2", digest)
		r := newRuntime(t, c, "node-b", reg.Addr, without, func(o *kubernetes.Options) { o.RightsTimeout = 30 * time.Millisecond })
		_, err := r.Run(testContext(t), w, newSink())
		mustFail(t, err, builds.BlameInfrastructure, w.Name(), "the cloud does not respond")
	})
	t.Run("new, in time", func(t *testing.T) {
		w := copyOf(reg, "b3", digest)
		x := start(testContext(t), newRuntime(t, c, "node-b", reg.Addr, without), w, newSink())
		testkit.Eventually(t, 20*time.Second, "the pod is there", func() bool { return c.pod(w.Name()) != nil })
		password := "install-password"
		creds.now.Store(&password)
		c.start(c.pod(w.Name()))
		if out, err := x.wait(t); err != nil || out.Digest != digest {
			t.Errorf("Run: %+v, %v", out, err)
		}
	})
}
