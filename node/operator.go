package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/cluster"
	"github.com/image-builder-ha/image-builder/internal/ctxutil"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// clusterAPI answers operators. Calls that only the leader can answer go
// there, over the peer port, in one hop.
type clusterAPI struct {
	imagebuilderv1.UnimplementedClusterServer
	node *Node
	// peer: the call came from another node, and goes no further.
	peer bool
}

// servePeers adds what nodes ask of each other beside Raft.
func (n *Node) servePeers(r grpc.ServiceRegistrar) {
	n.logs.Register(r)
	imagebuilderv1.RegisterClusterServer(r, clusterAPI{node: n, peer: true})
}

// leader answers the API of the leader: nil if it is this node.
func (c clusterAPI) leaderClient(ctx context.Context) (imagebuilderv1.ClusterClient, error) {
	for {
		if c.node.cluster.Leads() {
			return nil, nil
		}
		if conn, err := c.node.cluster.LeaderConn(); err == nil && !c.peer {
			return imagebuilderv1.NewClusterClient(conn), nil
		}
		if !ctxutil.Sleep(ctx, 20*time.Millisecond) {
			return nil, status.Error(codes.Unavailable, "no leader is known: ask again, or ask for what this node knows (--stale)")
		}
	}
}

// leaderSoon is leader for calls that may take long once it is found.
func (c clusterAPI) boundedLeaderClient(ctx context.Context) (imagebuilderv1.ClusterClient, error) {
	ctx, cancel := withinDeadline(ctx)
	defer cancel()
	return c.leaderClient(ctx)
}

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
		Available: st.LeaderName != "" && st.LastContact >= 0 && st.LastContact < 5*time.Second,
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

func (c clusterAPI) TransferLeadership(ctx context.Context, req *imagebuilderv1.TransferLeadershipRequest) (*imagebuilderv1.TransferLeadershipResponse, error) {
	ctx, cancel := withinDeadline(ctx)
	defer cancel()
	client, err := c.leaderClient(ctx)
	if err != nil {
		return nil, err
	}
	if client != nil {
		return client.TransferLeadership(ctx, req)
	}
	if err := c.node.cluster.TransferLeadership(ctx, req.GetTo()); err != nil {
		return nil, operatorError(fmt.Errorf("leadership stays where it is: %w", err))
	}
	for c.node.cluster.Leads() || c.node.cluster.Status().LeaderName == "" || c.node.cluster.Status().LeaderName == c.node.cfg.Name {
		if !ctxutil.Sleep(ctx, 5*time.Millisecond) {
			return nil, status.Error(codes.Unavailable, "leadership was given up, and no other leader is known yet")
		}
	}
	return &imagebuilderv1.TransferLeadershipResponse{Leader: c.node.cluster.Status().LeaderName}, nil
}

// refusal is the answer of a leader that did not do what it was asked for. That
// it does not lead any more is none.
func operatorError(err error) error {
	switch {
	case errors.Is(err, cluster.ErrNoLeader), errors.Is(err, cluster.ErrClosed):
		return codedError{err, codes.Unavailable}
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return err
	}
	return codedError{err, codes.FailedPrecondition}
}

func (c clusterAPI) RemoveNode(ctx context.Context, req *imagebuilderv1.RemoveNodeRequest) (*imagebuilderv1.RemoveNodeResponse, error) {
	ctx, cancel := withinDeadline(ctx)
	defer cancel()
	client, err := c.leaderClient(ctx)
	if err != nil {
		return nil, err
	}
	if client != nil {
		return client.RemoveNode(ctx, req)
	}
	if err := c.node.cluster.Remove(ctx, req.GetNode()); err != nil {
		if !c.node.cluster.Leads() { // it may have lost that in between
			err = fmt.Errorf("%w (%w)", cluster.ErrNoLeader, err)
		}
		return nil, operatorError(fmt.Errorf("%q was not removed: %w", req.GetNode(), err))
	}
	return &imagebuilderv1.RemoveNodeResponse{}, nil
}

func (c clusterAPI) DrainNode(ctx context.Context, req *imagebuilderv1.DrainNodeRequest) (*imagebuilderv1.DrainNodeResponse, error) {
	if c.node.level() < 2 {
		return nil, status.Error(codes.FailedPrecondition, "not all nodes run a version that knows drained nodes")
	}
	ctx, cancel := withinDeadline(ctx)
	defer cancel()
	_, _, err := builds.Propose(ctx, c.node.raft, &buildsv1.DrainNode{Name: req.GetNode(), Drained: !req.GetUndrain()})
	if errors.Is(err, builds.ErrNotFound) {
		return nil, status.Errorf(codes.NotFound, "there is no node %q", req.GetNode())
	}
	if err != nil {
		return nil, err
	}
	res := &imagebuilderv1.DrainNodeResponse{}
	c.node.store.View().Live(func(r *buildsv1.Record) bool {
		if builds.LastAttempt(r.Build).GetOwner() == req.GetNode() {
			res.Running++
		}
		return true
	})
	return res, nil
}

// snapshotChunk is the size of one message of a snapshot, in bytes.
const snapshotChunkBytes = 256 << 10

func (c clusterAPI) SaveSnapshot(req *imagebuilderv1.SaveSnapshotRequest, stream grpc.ServerStreamingServer[imagebuilderv1.SaveSnapshotResponse]) error {
	// Linearizable: it holds everything that was acknowledged before.
	ctx := stream.Context()
	index, err := c.node.raft.ReadIndex(ctx)
	if err != nil {
		return err
	}
	if err := c.node.raft.WaitApplied(ctx, index); err != nil {
		return err
	}
	if err := c.node.cluster.SaveSnapshot(chunkWriter(func(b []byte) error {
		return stream.Send(&imagebuilderv1.SaveSnapshotResponse{Chunk: b})
	})); err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	return nil
}

// chunkWriter sends what is written in messages of bounded size.
type chunkWriter func([]byte) error

func (w chunkWriter) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		n := min(len(rest), snapshotChunkBytes)
		if err := w(rest[:n]); err != nil {
			return 0, err
		}
		rest = rest[n:]
	}
	return len(p), nil
}

func (c clusterAPI) RestoreSnapshot(stream grpc.ClientStreamingServer[imagebuilderv1.RestoreSnapshotRequest, imagebuilderv1.RestoreSnapshotResponse]) error {
	ctx := stream.Context()
	client, err := c.boundedLeaderClient(ctx)
	if err != nil {
		return err
	}
	if client != nil {
		return forwardSnapshot(ctx, client, stream)
	}
	var b strings.Builder
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if b.Len()+len(m.GetChunk()) > maxSnapshotBytes {
			return status.Errorf(codes.ResourceExhausted, "the snapshot is greater than %d bytes", maxSnapshotBytes)
		}
		b.Write(m.GetChunk())
	}
	res, err := c.node.restore(ctx, []byte(b.String()))
	if err != nil {
		return err
	}
	return stream.SendAndClose(res)
}

// restore replaces the state of the cluster, as its leader. Once it has begun
// it goes on to its end, also when the caller has gone: Raft does, and what ran
// when the snapshot was taken would never end. A leader that dies meanwhile
// leaves it so: the snapshot has to be restored again (docs/runbooks.md).
func (n *Node) restore(ctx context.Context, raw []byte) (*imagebuilderv1.RestoreSnapshotResponse, error) {
	ctx, cancel := ctxutil.Join(context.WithoutCancel(ctx), n.work)
	defer cancel()
	level := n.level()
	n.restoring.Store(true)
	defer n.restoring.Store(false)
	if err := n.cluster.RestoreSnapshot(ctx, raw); err != nil {
		return nil, operatorError(fmt.Errorf("restore the snapshot: %w", err))
	}
	n.log.Warn("the replicated state was replaced by a snapshot")
	// The snapshot may have brought a lower level, which is raised again.
	for wait := 0; n.level() < level && wait < 100 && ctxutil.Sleep(ctx, 20*time.Millisecond); wait++ {
	}
	if level >= 2 {
		if err := n.markNodesLost(ctx); err != nil {
			return nil, status.Errorf(codes.Unavailable, "the snapshot is restored, but attempts that ran then were not ended, restore it again: %v", err)
		}
	}
	failed, err := n.failUnsealable(ctx)
	if err != nil {
		return nil, status.Errorf(codes.Unavailable, "the snapshot is restored, but builds whose secrets cannot be opened were not ended: %v", err)
	}
	var count uint64
	n.store.Read(func(st *builds.State) { count = uint64(st.Counts().Builds) })
	return &imagebuilderv1.RestoreSnapshotResponse{Builds: count, Failed: uint64(failed)}, nil
}

// loseNodes ends the attempts that ran when a snapshot was taken: their nodes
// may have ended them since, and run on, and so may workloads that outlive them.
// Nodes that live make themselves known again. Nothing is assigned meanwhile,
// least of all to those that are next.
func (n *Node) markNodesLost(ctx context.Context) error {
	var all []*buildsv1.Node
	n.store.Read(func(st *builds.State) {
		st.Nodes(func(node *buildsv1.Node) bool { all = append(all, node); return true })
	})
	for _, node := range all {
		if _, _, err := builds.Propose(ctx, n.raft, &buildsv1.NodeLost{
			Name: node.Name, StoreId: node.StoreId, BootId: node.BootId, Reason: "a snapshot of the state was restored", AllAttempts: true,
		}); err != nil {
			return err
		}
	}
	return nil
}

// checkSnapshot reports why a snapshot cannot become the state of this cluster:
// each node has to be able to read it.
func (n *Node) checkSnapshot(r io.Reader) error {
	level, err := builds.CheckSnapshot(r)
	if err != nil || level <= n.level() {
		return err
	}
	for _, m := range n.cluster.Members() {
		if known := m.Answer.GetNode().GetFeatureLevel(); known < level {
			return fmt.Errorf("it needs feature level %d, and node %s knows %d, as far as it said: start a newer version there", level, m.Name, known)
		}
	}
	return nil
}

// maxSnapshot bounds what is restored, in bytes.
const maxSnapshotBytes = 4 << 30

func forwardSnapshot(ctx context.Context, client imagebuilderv1.ClusterClient, from grpc.ClientStreamingServer[imagebuilderv1.RestoreSnapshotRequest, imagebuilderv1.RestoreSnapshotResponse]) error {
	to, err := client.RestoreSnapshot(ctx)
	if err != nil {
		return err
	}
	for {
		m, err := from.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if err := to.Send(m); err != nil {
			break // CloseAndRecv tells why
		}
	}
	res, err := to.CloseAndRecv()
	if err != nil {
		return err
	}
	return from.SendAndClose(res)
}

func (c clusterAPI) Reseal(ctx context.Context, req *imagebuilderv1.ResealRequest) (*imagebuilderv1.ResealResponse, error) {
	client, err := c.boundedLeaderClient(ctx)
	if err != nil {
		return nil, err
	}
	if client != nil {
		return client.Reseal(ctx, req)
	}
	n, id, err := c.node.reseal(ctx)
	if err != nil {
		return nil, status.Error(codes.FailedPrecondition, fmt.Sprintf("not all secrets are resealed (%d are): %v", n, err))
	}
	return &imagebuilderv1.ResealResponse{Resealed: uint32(n), KeyId: id}, nil
}
