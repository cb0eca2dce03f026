package dockerfile

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/harness/buildkittest"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// Test_Dockerfile_TwoPlatforms builds for two platforms at once. Both references name an index with
// an image for each platform.
func Test_Dockerfile_TwoPlatforms(t *testing.T) {
	w := buildkittest.Start(t, nil)
	dir := w.Context(t, "FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /arch\n", map[string]string{"amd64": "of amd64", "arm64": "of arm64"})
	id := strings.TrimSpace(harness.MustCLI(t, w.GRPC, "build", dir, "--platform", "linux/amd64,linux/arm64", "--detach"))
	b := w.Wait(t, testkit.Context(t, 2*time.Minute), id)
	if b.GetPhase() != imagebuilderv1.Phase_PHASE_SUCCEEDED || b.Digest == "" || harness.DigestAt(t, b.Ref) != b.Digest || harness.DigestAt(t, b.BaseRef) != b.Digest {
		t.Fatalf("%v: the base ref has %s, the workspace ref %s", b, harness.DigestAt(t, b.BaseRef), harness.DigestAt(t, b.Ref))
	}
	for _, ref := range []string{b.Ref, b.BaseRef} {
		tag, err := name.ParseReference(ref)
		if err != nil {
			t.Fatal(err)
		}
		index, err := remote.Index(tag)
		if err != nil {
			t.Fatalf("%s is no index: %v", ref, err)
		}
		m, err := index.IndexManifest()
		if err != nil {
			t.Fatal(err)
		}
		found := map[string]string{}
		for _, d := range m.Manifests {
			img, err := index.Image(d.Digest)
			if err != nil {
				t.Fatal(err)
			}
			found[d.Platform.String()] = harness.FileOf(t, img, "arch")
		}
		if len(found) != 2 || found["linux/amd64"] != "of amd64" || found["linux/arm64"] != "of arm64" {
			t.Errorf("%s holds %v", ref, found)
		}
	}
}
