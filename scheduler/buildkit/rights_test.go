package buildkit_test

import (
	"strings"
	"testing"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/scheduler/buildkit"
)

// Test_Run_PrivateBase checks that a base image in a private registry requires the credential of
// the request itself, in whatever way the Dockerfile names it, and even if the daemon has it in its
// cache by digest.
func Test_Run_PrivateBase(t *testing.T) {
	private := registrytest.Start(t, registrytest.Options{Users: map[string]string{"alice": "wonder-land"}})
	digest := pushAs(t, private, "team/base:1", "alice", "wonder-land")
	r := newRig(t)
	mine := &buildsv1.Rights{Additional: map[string]*imagebuilderv1.BasicAuth{private.Addr: {Username: "alice", Password: "wonder-land"}}}
	build := func(dockerfile string, rights *buildsv1.Rights) *workload.Workload {
		w := r.upload(t, map[string]string{"Dockerfile": dockerfile}, func(d *imagebuilderv1.DockerfileSource) {
			d.BuildArgs = map[string]string{"DIGEST": digest}
		})
		w.Rights = rights
		return w
	}
	tagged := "FROM " + private.Addr + "/team/base:1\nRUN echo private > /made\n"
	r.mustFail(t, build(tagged, &buildsv1.Rights{}), user, "no right to use the base image", private.Addr+"/team/base")

	_, s := r.mustRun(t, build(tagged, mine))
	r.mustRun(t, build("FROM "+private.Addr+"/team/base@"+digest+"\nRUN echo private > /made\n", mine))
	if strings.Contains(s.text(), "wonder-land") {
		t.Error("the log shows the password")
	}

	for name, dockerfile := range map[string]string{
		"by tag":        tagged,
		"by digest":     "FROM " + private.Addr + "/team/base@" + digest + "\nRUN echo private > /made\n",
		"by argument":   "ARG DIGEST\nFROM " + private.Addr + "/team/base@${DIGEST}\n",
		"by COPY":       "FROM " + r.base + "\nCOPY --from=" + private.Addr + "/team/base@" + digest + " /bin/busybox /stolen\n",
		"by mount":      "FROM " + r.base + "\nRUN --mount=from=" + private.Addr + "/team/base@" + digest + ",target=/m cp /m/bin/busybox /stolen\n",
		"by later FROM": "FROM " + private.Addr + "/team/base@" + digest + " AS a\nFROM " + r.base + "\nCOPY --from=a /bin/busybox /stolen\n",
	} {
		t.Run(name, func(t *testing.T) {
			wrong := &buildsv1.Rights{Additional: map[string]*imagebuilderv1.BasicAuth{private.Addr: {Username: "alice", Password: "guess"}}}
			r.mustFail(t, build(dockerfile, &buildsv1.Rights{}), user, "no right to use the base image")
			r.mustFail(t, build(dockerfile, wrong), user, "no right to use the base image")
		})
	}
}

// Test_Run_OnBuildOfABaseNeedsRights checks the same for an image that only ONBUILD of a base image
// names.
func Test_Run_OnBuildOfABaseNeedsRights(t *testing.T) {
	private := registrytest.Start(t, registrytest.Options{Users: map[string]string{"alice": "wonder-land"}})
	digest := pushAs(t, private, "team/base:1", "alice", "wonder-land")
	r := newRig(t)
	trap, err := mutate.Config(registrytest.BusyboxImage(t), v1.Config{
		Env: []string{"PATH=/bin"}, OnBuild: []string{"COPY --from=" + private.Addr + "/team/base@" + digest + " /bin/busybox /stolen"},
	})
	if err != nil {
		t.Fatal(err)
	}
	r.reg.Push(t, "library/trap:1", trap)
	w := r.upload(t, map[string]string{"Dockerfile": "FROM " + r.reg.Addr + "/library/trap:1\n"})
	r.mustFail(t, w, user, "no right to use the base image", private.Addr)
	w.BuildID, w.Rights = "again", &buildsv1.Rights{Additional: map[string]*imagebuilderv1.BasicAuth{private.Addr: {Username: "alice", Password: "wonder-land"}}}
	r.mustRun(t, w)
}

// Test_Run_InstallsRegistryNeedsRights checks that the credential for pushes does not let a
// Dockerfile read images that the request may not read.
func Test_Run_InstallsRegistryNeedsRights(t *testing.T) {
	reg := registrytest.Start(t, registrytest.Options{Users: map[string]string{"install": "its-own-secret"}})
	pushAs(t, reg, "library/busybox:1", "install", "its-own-secret")
	r := rigWith(t, sharedDaemon(t), reg)
	from := map[string]string{"Dockerfile": "FROM " + r.base + "\nRUN env; cat /proc/*/environ; ! grep -r its-own /etc /run /root\n"}
	r.mustFail(t, r.upload(t, from), user, "no right to use the base image")
	w := r.upload(t, from)
	w.Rights = &buildsv1.Rights{Hosts: []string{reg.Addr}}
	_, s := r.mustRun(t, w)
	if strings.Contains(s.text(), "its-own-secret") {
		t.Error("the build sees the install's credential")
	}
}

func Test_Run_RegistryThatCannotBeAskedIsNobodysFault(t *testing.T) {
	r := newRig(t, func(o *buildkit.Options) {})
	gone := registrytest.Start(t, registrytest.Options{})
	gone.Stop()
	r.mustFail(t, r.upload(t, map[string]string{"Dockerfile": "FROM " + gone.Addr + "/a:1\n"}), infrastructure, "look up the base image", gone.Addr)
}

// pushAs pushes a busybox image and returns its digest.
func pushAs(t *testing.T, reg *registrytest.Registry, repoTag, user, password string) string {
	t.Helper()
	ref, err := name.ParseReference(reg.Addr + "/" + repoTag)
	if err != nil {
		t.Fatal(err)
	}
	img := registrytest.BusyboxImage(t, busyboxCommands...)
	if err := remote.Write(ref, img, remote.WithAuth(&authn.Basic{Username: user, Password: password})); err != nil {
		t.Fatalf("push: %v", err)
	}
	return registrytest.Digest(t, img)
}
