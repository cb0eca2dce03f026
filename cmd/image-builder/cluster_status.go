package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/image-builder-ha/image-builder/cmd/image-builder/cli"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// leaderTimeout bounds the first call of `cluster status`, which needs a leader.
const leaderTimeout = 3 * time.Second

func newClusterStatusCommand() *cobra.Command {
	return operatorCommand("status", "Show the health of the cluster", `Shows the leader, how many voters the cluster can lose, and all problems.`, cobra.NoArgs,
		func(ctx context.Context, c *call) error {
			// Without a leader, the node reports its own view.
			short, cancel := context.WithTimeout(ctx, leaderTimeout)
			defer cancel()
			res, err := c.cluster.Members(short, &imagebuilderv1.MembersRequest{})
			if err != nil {
				if res, err = c.cluster.Members(ctx, &imagebuilderv1.MembersRequest{Stale: true}); err != nil {
					return err
				}
			}
			if err := c.print(res, func(w io.Writer) { statusTable(w, res) }); err != nil {
				return err
			}
			if !res.Available {
				return cli.ExitWith(cli.ExitUnavailable, errors.New("the cluster has no leader: writes wait, reads may be stale"))
			}
			return nil
		})
}

func statusTable(w io.Writer, res *imagebuilderv1.MembersResponse) {
	leader := res.Leader
	if leader == "" {
		leader = "unknown"
	}
	fmt.Fprintf(w, "cluster\t%s (id %s, feature level %d)\n", res.Cluster, res.ClusterId, res.FeatureLevel)
	fmt.Fprintf(w, "leader\t%s (term %d)\n", leader, res.Term)
	switch {
	case !res.FromLeader:
		fmt.Fprintf(w, "source\tnode %s, which is not the leader\n", res.AnsweredBy)
	case res.FailureTolerance == 1:
		fmt.Fprintf(w, "can lose\t1 more voter\n")
	default:
		fmt.Fprintf(w, "can lose\t%d more voters\n", res.FailureTolerance)
	}
	for _, line := range problems(res) {
		fmt.Fprintf(w, "problem\t%s\n", line)
	}
}

// maxTrail is the number of entries by which a healthy node may trail the leader.
const maxTrail = 1000

// problems returns the health problems of the members, one line for each.
func problems(res *imagebuilderv1.MembersResponse) (out []string) {
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	sealing, gossip := map[string]bool{}, map[string]bool{}
	for _, m := range res.Members {
		if m.State == "dead" || m.State == "silent" {
			add("node %s is %s (for %s)", m.Name, m.State, m.Silent.AsDuration().Round(time.Second))
		}
		if m.TrailsBy > maxTrail {
			add("node %s is %d entries behind the leader", m.Name, m.TrailsBy)
		}
		if s := m.ClockSkew.AsDuration(); s > time.Second || s < -time.Second {
			add("the clock of node %s differs from the leader's by %s", m.Name, s.Round(time.Millisecond))
		}
		if m.Capacity > 0 && m.OwnedBuilds >= m.Capacity {
			add("node %s is at its limit of %d builds (builds.runningPerNode): further builds go to other nodes", m.Name, m.Capacity)
		}
		if m.Trouble != "" {
			add("node %s: %s", m.Name, m.Trouble)
		}
		if len(m.SealingKeys) > 0 {
			sealing[strings.Join(m.SealingKeys, " ")] = true
		}
		if m.GossipKey != "" {
			gossip[m.GossipKey] = true
		}
	}
	if res.Divergence != "" {
		add("%s", res.Divergence)
	}
	if len(sealing) > 1 {
		add("the nodes have different sealing keys: a rotation is in progress, or a node lacks a key")
	}
	if len(gossip) > 1 {
		add("the nodes encrypt gossip with different keys: a rotation is in progress")
	}
	return out
}
