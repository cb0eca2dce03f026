package gitpod

import (
	"cmp"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/image-builder-ha/image-builder/proto/builder"
	"github.com/image-builder-ha/image-builder/scheduler/wsmanager/wsmanagertest"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// Test_ListBuilds_DefaultLimit lists many active builds (10,000 in a soak) with a client that has
// the default limit of gRPC, 4 MiB. The response has all of them, or with longer descriptions the
// newest that fit.
func Test_ListBuilds_DefaultLimit(t *testing.T) {
	many, labels := 10000, 16
	if !testkit.Soak() {
		many, labels = 3000, 90
	}
	in := newInstall(t)
	in.work = func(string, *wsmanagertest.Workspace) { in.await(nil) }
	instantRegistry(t, in)
	n := in.node(harness.Config{"log": map[string]any{"level": "warn"}})
	rate(64, many, func(i int) {
		if m := first(t, n.Gitpod, dockerfile(i)); m.GetStatus() != builder.BuildStatus_running {
			t.Errorf("got %v", m)
		}
	})
	list := func() []*builder.BuildInfo {
		t.Helper()
		conn, err := grpc.NewClient(n.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		res, err := builder.NewImageBuilderClient(conn).ListBuilds(testkit.Context(t, time.Minute), &builder.ListBuildsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range res.Builds {
			if b.BuildId == "" || b.Ref == "" || b.BaseRef == "" || b.StartedAt == 0 || b.Status != builder.BuildStatus_running || b.GetLogInfo().GetUrl() == "" || len(b.GetLogInfo().GetHeaders()) > 0 {
				t.Fatalf("listed as %v", b)
			}
		}
		if !slices.IsSortedFunc(res.Builds, func(a, b *builder.BuildInfo) int { return cmp.Compare(b.StartedAt, a.StartedAt) }) {
			t.Error("they are not listed newest first")
		}
		return res.Builds
	}
	all := list()
	if len(all) != many {
		t.Errorf("%d of %d builds are listed", len(all), many)
	}
	n.Stop()
	n.Override(harness.Config{"http": map[string]any{"publicURL": "https://example.com/" + strings.Repeat("a-long-label/", labels)}})
	n.Run()
	some := list()
	if len(some) >= many || len(some) < many/2 || some[0].BuildId != all[0].BuildId {
		t.Errorf("%d builds are listed, beginning with %s; want a part of %d, beginning with the newest, %s", len(some), some[0].BuildId, many, all[0].BuildId)
	}
	body, _ := n.Get("http://" + n.Metrics + "/metrics")
	if got := metric(t, body, "image_builder_list_left_off_total"); got != float64(many-len(some)) {
		t.Errorf("%v builds are counted as left off, want %d", got, many-len(some))
	}
}
