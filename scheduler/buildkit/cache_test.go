package buildkit_test

import (
	"log/slog"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"github.com/image-builder-ha/image-builder/scheduler/buildkit"
)

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func mountTmpfs(at, size string) error {
	return syscall.Mount("tmpfs", at, "tmpfs", 0, "size="+size)
}

func unmount(at string) error { return syscall.Unmount(at, syscall.MNT_DETACH) }

// exported returns all files of an image, by name.
func exported(t *testing.T, img v1.Image) map[string]string {
	t.Helper()
	rc := mutate.Extract(img)
	defer func() { _ = rc.Close() }()
	return untar(t, rc)
}

// Test_Run_RegistryCacheServesASecondDaemon builds on one daemon and again on a new one, which
// finds the steps in the registry.
func Test_Run_RegistryCacheServesASecondDaemon(t *testing.T) {
	t.Parallel()
	first := newRig(t, func(o *buildkit.Options) {})
	repository := first.reg.Addr + "/build-cache"
	withCache := func(o *buildkit.Options) { o.CacheRepository = repository }
	a := rigWith(t, sharedDaemon(t), first.reg, withCache)
	b := rigWith(t, startDaemon(t), first.reg, withCache)
	files := map[string]string{"Dockerfile": "FROM " + a.base + " AS build\nRUN head -c 100 /dev/urandom > /random\nFROM " + a.base + "\nCOPY --from=build /random /random\n"}
	one, _ := a.mustRun(t, a.upload(t, files))
	two, s := b.mustRun(t, b.upload(t, files))
	if step := s.step("RUN head"); step != nil && !step.Cached {
		t.Errorf("the second daemon ran the step again: %v\n%s", step, s.text())
	}
	if x, y := read(t, a.reg.Pull(t, "bases@"+one.Digest), "random"), read(t, b.reg.Pull(t, "bases@"+two.Digest), "random"); x != y {
		t.Error("the two daemons made different files")
	}
}
