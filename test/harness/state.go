package harness

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// StartClusterWithImages runs nodes that form one cluster, and a registry with the given number of
// images. It returns the references of the images, too. The nodes log at the level info, unless
// over sets another one.
func StartClusterWithImages(t testing.TB, nodes, images int, over Config) (*Cluster, []string) {
	t.Helper()
	reg := registrytest.Start(t, registrytest.Options{})
	refs := PushImages(t, reg, images)
	conf := Config{"log": map[string]any{"level": "info"}}
	for k, v := range over {
		conf[k] = v
	}
	return StartCluster(t, nodes, reg.Addr, conf), refs
}

// AwaitMembers waits until ok accepts the members of the cluster, and returns them. The argument
// what completes the sentence "it is not true that ...".
func AwaitMembers(t testing.TB, c *Cluster, what string, ok func(*imagebuilderv1.MembersResponse) bool) *imagebuilderv1.MembersResponse {
	t.Helper()
	var last *imagebuilderv1.MembersResponse
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s: the last known members are %v", what, last)
		}
	})
	testkit.Eventually(t, 90*time.Second, what, func() bool {
		res, err := c.Running()[0].Members(t.Context(), false)
		if err == nil {
			last = res
		}
		return err == nil && ok(res)
	})
	return last
}

// Voters returns the number of members that vote.
func Voters(res *imagebuilderv1.MembersResponse) (n int) {
	for _, m := range res.Members {
		if m.Voter {
			n++
		}
	}
	return n
}

// AwaitSameBuilds waits until all running nodes list the same builds. The
// versions of builds still change for a while after their end, when copies of
// their logs are made.
func AwaitSameBuilds(t testing.TB, c *Cluster) {
	t.Helper()
	list := func(n *Node) (string, error) {
		var all []string
		token := ""
		for {
			res, err := n.Native.ListBuilds(t.Context(), &imagebuilderv1.ListBuildsRequest{PageSize: 1000, PageToken: token, Linearizable: token == ""})
			if status.Code(err) == codes.Unavailable { // the node has not found the leader again yet
				return "", err
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, b := range res.Builds {
				all = append(all, fmt.Sprintf("%s %s %s %d", b.Id, b.Phase, b.Digest, b.Version))
			}
			if token = res.NextPageToken; token == "" {
				return strings.Join(all, "\n"), nil
			}
		}
	}
	testkit.Eventually(t, 30*time.Second, "all nodes list the same builds", func() bool {
		want, err := list(c.Running()[0])
		for _, n := range c.Running()[1:] {
			var got string
			if err == nil {
				got, err = list(n)
			}
			if got != want {
				return false
			}
		}
		return err == nil
	})
}
