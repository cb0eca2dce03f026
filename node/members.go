package node

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/cluster"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Members returns the members of the cluster as the leader sees them, or as this node sees them if
// the request is stale.
func (c clusterAPI) Members(ctx context.Context, req *imagebuilderv1.MembersRequest) (*imagebuilderv1.MembersResponse, error) {
	if !req.GetStale() {
		ctx, cancel := withinDeadline(ctx)
		defer cancel()
		client, err := c.leaderClient(ctx)
		if err != nil {
			return nil, err
		}
		if client != nil {
			return client.Members(ctx, req)
		}
	}
	st := c.node.cluster.Status()
	res := &imagebuilderv1.MembersResponse{
		Cluster: c.node.cfg.Cluster.Name, ClusterId: st.ClusterID, AnsweredBy: c.node.cfg.Name, FromLeader: c.node.cluster.Leads(),
		Leader: st.LeaderName, Term: st.Term, FeatureLevel: c.node.level(),
		Divergence: c.node.cluster.Divergence().String(),
		Available:  st.LeaderName != "" && st.LastContact >= 0 && st.LastContact < 5*time.Second,
	}
	last, voters, healthy := st.Applied, 0, 0
	for _, m := range c.node.cluster.Members() {
		w := memberProto(m, last, res.FromLeader)
		c.node.store.Read(func(st *builds.State) {
			w.Drained, w.Capacity = st.Node(m.Name).GetDrained(), st.Node(m.Name).GetCapacity()
		})
		if m.Voter {
			voters++
			if w.State == "alive" {
				healthy++
			}
		}
		res.Members = append(res.Members, w)
	}
	res.FailureTolerance = int32(max(0, healthy-voters/2-1))
	return res, nil
}

// memberProto converts a member. last is the applied index of this node. Only the leader knows how
// long a member has been silent. A node that does not lead knows only that it is alive itself, and
// which members it has heard.
func memberProto(m cluster.Member, last uint64, fromLeader bool) *imagebuilderv1.ClusterMember {
	a := m.Answer
	w := &imagebuilderv1.ClusterMember{
		Name: m.Name, ServerId: m.ServerID, Address: m.Address, Zone: m.Zone, Voter: m.Voter, Leader: m.Leader,
		State: "unknown", AppliedIndex: a.GetApplied(), OwnedBuilds: a.GetOwned(), Trouble: a.GetTrouble(),
		SealingKeys: a.GetSealingKeys(), GossipKey: a.GetGossipKey(), FeatureLevel: a.GetNode().GetFeatureLevel(),
	}
	if a != nil && last > a.GetApplied() {
		w.TrailsBy = last - a.GetApplied()
	}
	if !m.Leader && a.GetLastContactNanos() > 0 {
		w.LastContact = durationpb.New(time.Duration(a.GetLastContactNanos()))
	}
	switch {
	case m.Heard:
		w.State = "alive"
	case !fromLeader && a == nil:
	case m.Dead:
		w.State = "dead"
	case m.Silent > 3*time.Second || a == nil:
		w.State = "silent"
	default:
		w.State = "alive"
	}
	if fromLeader && m.Silent > 0 {
		w.Silent, w.ClockSkew = durationpb.New(m.Silent), durationpb.New(m.Skew)
	}
	return w
}

// listNodesLeaderTimeout is how long ListNodes waits for the leader before it returns the view of
// this node.
const listNodesLeaderTimeout = time.Second

// listNodes returns the properties of the members that every caller may read.
func (n *Node) listNodes(ctx context.Context) (*imagebuilderv1.ListNodesResponse, error) {
	api := clusterAPI{node: n}
	wait, cancel := context.WithTimeout(ctx, listNodesLeaderTimeout)
	defer cancel()
	members, err := api.Members(wait, &imagebuilderv1.MembersRequest{})
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if members, err = api.Members(ctx, &imagebuilderv1.MembersRequest{Stale: true}); err != nil {
			return nil, err
		}
	}
	res := &imagebuilderv1.ListNodesResponse{
		AnsweredBy: n.cfg.Name, FromLeader: members.FromLeader, Leader: members.Leader, FailureTolerance: members.FailureTolerance,
	}
	for _, member := range members.Members {
		res.Nodes = append(res.Nodes, &imagebuilderv1.NodeInfo{
			Name: member.Name, Voter: member.Voter, Leader: member.Leader, State: member.State, AppliedIndex: member.AppliedIndex, TrailsBy: member.TrailsBy,
			RunningBuilds: member.OwnedBuilds, Drained: member.Drained, Silent: member.Silent,
		})
	}
	return res, nil
}
