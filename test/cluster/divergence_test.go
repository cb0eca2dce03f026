//go:build faults

package cluster

import (
	"context"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// Test_Divergence changes a field of the state of a follower and then of the leader, while commands
// go on. A leader finds each change, the process replaces its state without a restart, and the
// operator sees nothing else.
func Test_Divergence(t *testing.T) {
	c, _ := harness.StartClusterWithImages(t, 3, 1, nil)
	ctx, cancel := context.WithCancel(t.Context())
	var callers sync.WaitGroup
	defer func() { cancel(); callers.Wait() }()
	for i := range 16 {
		client := imagebuilderv1.NewImageBuilderClient(c.Nodes[i%3].OperatorConn())
		callers.Go(func() {
			for ctx.Err() == nil {
				if _, err := client.SetCacheInterval(ctx, &imagebuilderv1.SetCacheIntervalRequest{Interval: durationpb.New(time.Hour)}); err != nil {
					time.Sleep(10 * time.Millisecond) // the node replaces its state, or there is an election
				}
			}
		})
	}
	for _, leads := range []bool{false, true} {
		n := c.Leader()
		if !leads {
			n = c.Others(n)[0]
		}
		testkit.Eventually(t, 30*time.Second, "a leader compares states", func() bool {
			return metricOf(c.Leader(), "image_builder_state_compared_index") > 0
		})
		n.Hurt(map[string]any{"diverge": 3}) // the zone of a node
		testkit.Eventually(t, 30*time.Second, n.Name+" replaces its state", func() bool {
			return metricOf(n, "image_builder_state_replacements_total") == 1
		})
		if log := n.Log(); !strings.Contains(log, "the replicated state of this node differs from that of the majority") {
			t.Errorf("the log of %s does not name the divergence", n.Name)
		}
		harness.AwaitMembers(t, c, "no member reports a problem", func(r *imagebuilderv1.MembersResponse) bool {
			for _, m := range r.Members {
				if m.State != "alive" || m.Trouble != "" {
					return false
				}
			}
			return r.FailureTolerance == 1 && r.Divergence == ""
		})
	}
	for _, n := range c.Nodes {
		if n.Log() == "" || strings.Contains(n.Log(), "no majority shows") {
			t.Errorf("the log of %s says that no majority agrees", n.Name)
		}
	}
}

// metricOf returns the value of a metric of a node without labels; -1 if the node does not export
// it.
func metricOf(n *harness.Node, name string) float64 {
	body, _ := n.Get("http://" + n.Metrics + "/metrics")
	m := regexp.MustCompile(`(?m)^` + name + ` (\S+)$`).FindStringSubmatch(body)
	if m == nil {
		return -1
	}
	v, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		return -1
	}
	return v
}
