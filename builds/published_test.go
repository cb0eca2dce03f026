package builds_test

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/buildstest"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// dockerfile makes Create request a build from a Dockerfile that also publishes at the given refs.
func dockerfile(base string, tags ...string) func(*buildsv1.CreateBuild) {
	return func(c *buildsv1.CreateBuild) {
		c.BaseRef = base
		c.Source = &imagebuilderv1.Source{From: &imagebuilderv1.Source_Dockerfile{Dockerfile: &imagebuilderv1.DockerfileSource{ExtraTags: tags}}}
	}
}

// Test_Published: the digest of a ref is that of the last success, whatever failed since. It is the
// same after a restore, and is gone with the build.
func Test_Published(t *testing.T) {
	m := buildstest.NewMachine(t)
	set := builds.DefaultSettings()
	set.HistoryMaxAgeNanos, set.HistoryMinAgeNanos = int64(time.Hour), 1
	m.Must(&buildsv1.PutSettings{Settings: set})
	want := func(step string, digests map[string]string) {
		t.Helper()
		restored := builds.NewStore()
		if err := restored.Restore(bytes.NewReader(buildstest.Dump(t, m.Store))); err != nil {
			t.Fatal(err)
		}
		for name, view := range map[string]*builds.State{"applied": m.Store.View(), "restored": restored.View()} {
			for ref, digest := range digests {
				if got := view.CommittedDigest(ref); got != digest {
					t.Errorf("%s: in the state that was %s %s has the digest %q, want %q", step, name, ref, got, digest)
				}
			}
		}
	}
	publish := func(n int, opts ...func(*buildsv1.CreateBuild)) {
		id := m.Create(fmt.Sprintf("r:%d", n), append(opts, func(c *buildsv1.CreateBuild) { c.Force = true })...).Build.Id
		e, digest := m.Assign(id), fmt.Sprintf("sha256:%d-%d", n, m.Index)
		m.Report(id, e, builds.Pushing, digest)
		m.Finish(id, e, &buildsv1.FinishAttempt{Phase: builds.Succeeded, Digest: digest})
	}
	digest := func(n int) string { return fmt.Sprintf("sha256:%d-%d", n, m.Index-2) }
	publish(1)
	first := digest(1)
	publish(2, dockerfile("r:base", "r:extra"))
	second := digest(2)
	want("two successes", map[string]string{"r:1": first, "r:2": second, "r:base": second, "r:extra": second, "r:3": ""})

	id := m.Create("r:1", func(c *buildsv1.CreateBuild) { c.Force = true }).Build.Id
	want("a build is queued", map[string]string{"r:1": first})
	e := m.Assign(id)
	m.Report(id, e, builds.Pushing, "sha256:pushing")
	want("it is published", map[string]string{"r:1": "sha256:pushing"})
	m.Finish(id, e, buildstest.Failed(builds.BlameUser, "it broke"))
	want("it has failed", map[string]string{"r:1": first})

	publish(3, dockerfile("r:other", "r:extra"))
	third := digest(3)
	want("another build takes a tag", map[string]string{"r:2": second, "r:extra": third, "r:base": second})
	older := m.Create("r:4", dockerfile("r:base4", "r:extra")).Build.Id
	oldEpoch := m.Assign(older)
	publish(5, dockerfile("r:base5", "r:extra"))
	want("the younger build ends first", map[string]string{"r:extra": digest(5)})
	m.Report(older, oldEpoch, builds.Pushing, "sha256:4")
	m.Finish(older, oldEpoch, &buildsv1.FinishAttempt{Phase: builds.Succeeded, Digest: "sha256:4"})
	want("the older one ends last", map[string]string{"r:extra": "sha256:4"})
	m.Now = m.Now.Add(2 * time.Hour)
	m.Must(&buildsv1.Reap{})
	want("the builds are removed", map[string]string{"r:1": "", "r:2": "", "r:extra": "", "r:base": ""})
}
