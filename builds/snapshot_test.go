package builds_test

import (
	"bytes"
	"testing"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/buildstest"
)

func Test_Snapshot_DamageIsRefused(t *testing.T) {
	m := buildstest.NewMachine(t)
	id := m.Create("r:1").Build.Id
	m.Succeed(id)
	good := buildstest.Dump(t, m.Store)
	for n := range good {
		if err := builds.NewStore().Restore(bytes.NewReader(good[:n])); err == nil {
			t.Fatalf("a snapshot cut after %d of %d bytes was restored", n, len(good))
		}
	}
	if err := builds.NewStore().Restore(bytes.NewReader(append(good, 0))); err == nil {
		t.Error("bytes after the end were ignored")
	}
	if err := m.Store.Restore(bytes.NewReader(good[:10])); err == nil || m.Store.Build(id) == nil {
		t.Error("a failed restore changed the state")
	}
}

func Fuzz_Snapshot(f *testing.F) {
	m := buildstest.NewMachine(f)
	m.Succeed(m.Create("r:1").Build.Id)
	f.Add(buildstest.Dump(f, m.Store))
	f.Fuzz(func(t *testing.T, data []byte) {
		_ = builds.NewStore().Restore(bytes.NewReader(data)) // must not panic
	})
}
