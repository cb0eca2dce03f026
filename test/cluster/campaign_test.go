//go:build faults

package cluster

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/image-builder-ha/image-builder/client"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/test/harness"
)

// Test_Campaign_RandomKills requests images, each from two clients at once, while every few seconds
// a node is killed and started again. All builds succeed, each image can be pulled, and only one
// build made each image. CAMPAIGN=5m runs it for five minutes.
func Test_Campaign_RandomKills(t *testing.T) {
	length, every, images := 30*time.Second, 5*time.Second, 60
	if s := os.Getenv("CAMPAIGN"); s != "" {
		var err error
		if length, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
		every, images = 10*time.Second, 300
	}
	c, refs := harness.StartClusterWithImages(t, 3, images, nil)
	ctx, cancel := context.WithTimeout(t.Context(), length+3*time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	results := make([][2]string, images) // digests, by image and client
	for who := range 2 {
		var o client.Options
		for i := range c.Nodes {
			o.Servers = append(o.Servers, c.Nodes[(i+who)%len(c.Nodes)].GRPC)
		}
		cl, err := client.New(o)
		if err != nil {
			t.Fatal(err)
		}
		defer cl.Close()
		for i, ref := range refs {
			wg.Go(func() {
				<-time.After(length * time.Duration(i) / time.Duration(images))
				digest, err := imageOf(ctx, cl, ref, fmt.Sprint("r", who))
				if err != nil {
					t.Errorf("image %d: %v", i, err)
				}
				results[i][who] = digest
			})
		}
	}
	kills := 0
	for begin := time.Now(); time.Since(begin) < length; kills++ {
		n := c.Nodes[rand.IntN(len(c.Nodes))]
		n.Kill()
		<-time.After(every / 4)
		n.Run()
		<-time.After(every * 3 / 4)
	}
	wg.Wait()
	all := allBuilds(t, c.Nodes[0])
	byRef, attempts := map[string]*imagebuilderv1.Build{}, 0
	for _, b := range all {
		if other := byRef[b.Ref]; other != nil {
			t.Errorf("%s was built by %s and %s", b.Ref, other.Id, b.Id)
		}
		if b.Phase != imagebuilderv1.Phase_PHASE_SUCCEEDED {
			t.Errorf("build %s is %s: %s", b.Id, b.Phase, b.Message)
		}
		byRef[b.Ref] = b
		attempts += len(b.Attempts)
		pull(t, b.Ref, b.Digest)
	}
	if len(all) != images {
		t.Errorf("%d builds for %d images", len(all), images)
	}
	digests := map[string]bool{}
	for _, b := range all {
		digests[b.Digest] = true
	}
	for i, a := range results {
		if a[0] != a[1] || !digests[a[0]] {
			t.Errorf("image %d: two clients got %v", i, a)
		}
	}
	t.Logf("%d kills, %d builds of %d images with %d attempts; each image can be pulled", kills, len(all), images, attempts)
	harness.AwaitSameBuilds(t, c)
}

// imageOf requests an image, waits until it exists and returns its digest.
func imageOf(ctx context.Context, cl *client.Client, ref, who string) (digest string, err error) {
	res, err := cl.Build(ctx, &imagebuilderv1.BuildImageRequest{Source: harness.RefSource(ref), Requester: who})
	if err != nil || res.Exists {
		return res.GetBuild().GetDigest(), err
	}
	b, err := cl.Wait(ctx, res.Build.Id)
	if err == nil && b.Phase != imagebuilderv1.Phase_PHASE_SUCCEEDED {
		err = fmt.Errorf("build %s is %s: %s", b.Id, b.Phase, b.Message)
	}
	return b.GetDigest(), err
}

// allBuilds returns the builds that a node knows.
func allBuilds(t *testing.T, n *harness.Node) (out []*imagebuilderv1.Build) {
	t.Helper()
	req := &imagebuilderv1.ListBuildsRequest{PageSize: 1000, Linearizable: true}
	for {
		res, err := harness.Persist(t.Context(), func(ctx context.Context) (*imagebuilderv1.ListBuildsResponse, error) {
			return n.Native.ListBuilds(ctx, req)
		})
		if err != nil {
			t.Fatal(err)
		}
		if out = append(out, res.Builds...); res.NextPageToken == "" {
			return out
		}
		req.PageToken = res.NextPageToken
	}
}

// pull reads all of an image by its tag, and checks that the tag has the digest.
func pull(t *testing.T, ref, digest string) {
	t.Helper()
	tag, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	img, err := remote.Image(tag)
	if err != nil {
		t.Errorf("pull %s: %v", ref, err)
		return
	}
	if got, err := img.Digest(); err != nil || got.String() != digest {
		t.Errorf("the registry has %s at %s (%v), the build says %s", got, ref, err, digest)
	}
	if err := validate.Image(img); err != nil { // reads and checks every blob
		t.Errorf("pull %s: %v", ref, err)
	}
}
