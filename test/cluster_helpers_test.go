package test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/test/harness"
)

// members waits until the cluster is as expected, and answers how it is.
func members(t testing.TB, c *harness.Cluster, what string, ok func(*imagebuilderv1.MembersResponse) bool) *imagebuilderv1.MembersResponse {
	t.Helper()
	var last *imagebuilderv1.MembersResponse
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s: the cluster was, when last asked: %v", what, last)
		}
	})
	harness.Eventually(t, 90*time.Second, what, func() bool {
		res, err := c.Running()[0].Members(t.Context(), false)
		if err == nil {
			last = res
		}
		return err == nil && ok(res)
	})
	return last
}

func voters(res *imagebuilderv1.MembersResponse) (n int) {
	for _, m := range res.Members {
		if m.Voter {
			n++
		}
	}
	return n
}

// sameEverywhere waits until all nodes tell the same of all builds: copies of
// logs may still be on their way.
func sameEverywhere(t testing.TB, c *harness.Cluster) {
	t.Helper()
	tells := func(n *harness.Node) string {
		var all []string
		token := ""
		for {
			res, err := n.Native.ListBuilds(t.Context(), &imagebuilderv1.ListBuildsRequest{PageSize: 1000, PageToken: token, Linearizable: token == ""})
			if err != nil {
				t.Fatal(err)
			}
			for _, b := range res.Builds {
				all = append(all, fmt.Sprintf("%s %s %s %d", b.Id, b.Phase, b.Digest, b.Version))
			}
			if token = res.NextPageToken; token == "" {
				return strings.Join(all, "\n")
			}
		}
	}
	harness.Eventually(t, 30*time.Second, "all nodes tell the same", func() bool {
		want := tells(c.Running()[0])
		for _, n := range c.Running()[1:] {
			if tells(n) != want {
				return false
			}
		}
		return true
	})
}
