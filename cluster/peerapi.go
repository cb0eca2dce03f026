package cluster

import (
	"context"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/cluster/pki"
	"github.com/image-builder-ha/image-builder/cluster/serverid"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// peerAPI serves the peer API to other nodes.
type peerAPI struct {
	clusterv1.UnimplementedPeerServer
	node *Node
}

// checkName returns an error if a node does not present its own certificate: if the certificate
// names a node, it must be from. Connections without TLS pass.
func checkName(ctx context.Context, from *clusterv1.Identity) error {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	t, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(t.State.PeerCertificates) == 0 {
		return nil
	}
	id, err := pki.IdentityOf(t.State.PeerCertificates[0])
	if err != nil {
		return status.Error(codes.PermissionDenied, err.Error())
	}
	if id.Name != "" && id.Name != serverid.Name(raft.ServerID(from.GetServerId())) {
		return status.Errorf(codes.PermissionDenied, "node %q presents the certificate of node %q", from.GetServerId(), id.Name)
	}
	return nil
}

// checkJoiner is checkName for a direct call. It trusts a member that forwards the call of another
// node.
func checkJoiner(ctx context.Context, from *clusterv1.Identity) error {
	if md, _ := metadata.FromIncomingContext(ctx); len(md.Get(headerForwarded)) > 0 {
		return nil
	}
	return checkName(ctx, from)
}

// Hello returns this node's identity, the leader's address and the members, as far as they are
// known.
func (a peerAPI) Hello(ctx context.Context, req *clusterv1.HelloRequest) (*clusterv1.HelloResponse, error) {
	n := a.node
	if err := checkName(ctx, req.GetFrom()); err != nil {
		return nil, err
	}
	res := &clusterv1.HelloResponse{Node: n.identity(), Expect: uint32(n.cfg.Expect)}
	r := n.raft.Load()
	if r == nil {
		return res, nil
	}
	if err := n.checkIdentity(req.GetFrom()); err == nil {
		n.book.note(req.GetFrom())
	} else {
		// Respond nevertheless: the caller sees this node's identity and finds the same reason.
		_ = n.refuse("contact this one", req.GetFrom(), err)
	}
	if _, id := r.LeaderWithID(); id != "" {
		res.LeaderAddress = n.addressOf(id)
	}
	for _, s := range r.GetConfiguration().Configuration().Servers {
		res.Members = append(res.Members, &clusterv1.Member{ServerId: string(s.ID), Address: string(s.Address), Voter: s.Suffrage == raft.Voter})
	}
	return res, nil
}

// Promise binds a node that is in no cluster to the cluster of the proposer. See Node.promise.
func (a peerAPI) Promise(ctx context.Context, req *clusterv1.PromiseRequest) (*clusterv1.PromiseResponse, error) {
	if err := checkName(ctx, req.GetFrom()); err != nil {
		return nil, err
	}
	if err := a.node.checkNewMember(req.GetFrom()); err != nil {
		return nil, a.node.refuse("form a cluster", req.GetFrom(), err)
	}
	proposer := serverid.Name(raft.ServerID(req.GetFrom().GetServerId()))
	if proposer == "" || req.GetClusterId() == "" {
		return nil, status.Error(codes.InvalidArgument, "the proposer and the cluster id must be set")
	}
	id, err := a.node.promise(proposer, req.GetClusterId())
	if err != nil {
		return nil, err
	}
	return &clusterv1.PromiseResponse{ClusterId: id, Proposer: a.node.dir.Identity().Proposer}, nil
}

// Join makes the calling node a member. A node that does not lead forwards the call to the leader.
func (a peerAPI) Join(ctx context.Context, req *clusterv1.JoinRequest) (*clusterv1.JoinResponse, error) {
	n := a.node
	if n.raft.Load() == nil {
		return nil, errStarting
	}
	if n.leading() {
		if err := checkJoiner(ctx, req.GetFrom()); err != nil {
			return nil, err
		}
		if err := n.admit(ctx, req.GetFrom()); err != nil {
			return nil, n.refuse("join", req.GetFrom(), err)
		}
		return &clusterv1.JoinResponse{ClusterId: n.dir.Identity().ClusterID}, nil
	}
	if err := checkName(ctx, req.GetFrom()); err != nil {
		return nil, err
	}
	leader, err := n.leader()
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	return leader.Join(forwarded(ctx), req)
}

// Propose commits a command of another node. The code of an error is that of outcomeStatus.
func (a peerAPI) Propose(ctx context.Context, req *clusterv1.ProposeRequest) (*clusterv1.ProposeResponse, error) {
	cmd := new(clusterv1.Command)
	if err := proto.Unmarshal(req.GetCommand(), cmd); err != nil {
		return nil, status.Error(codes.InvalidArgument, "the command cannot be decoded")
	}
	res, err := a.node.proposeHere(ctx, cmd)
	if err != nil {
		return nil, outcomeStatus(err)
	}
	return &clusterv1.ProposeResponse{Index: res.Index}, nil
}

// ReadIndex returns the index for a linearizable read on another node.
func (a peerAPI) ReadIndex(ctx context.Context, _ *clusterv1.ReadIndexRequest) (*clusterv1.ReadIndexResponse, error) {
	index, err := a.node.readIndexHere(ctx)
	if err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	return &clusterv1.ReadIndexResponse{Index: index}, nil
}

// Ping returns the state of this node.
func (a peerAPI) Ping(_ context.Context, req *clusterv1.PingRequest) (*clusterv1.PingResponse, error) {
	if a.node.raft.Load() == nil {
		return nil, errStarting
	}
	a.node.pinged.note(req)
	a.node.floors.merge(req.GetFloors())
	a.node.noteDivergence(req.GetDivergence())
	return a.node.report(), nil
}

// Confirm reports whether this node follows a leader. See Node.follows.
func (a peerAPI) Confirm(_ context.Context, req *clusterv1.ConfirmRequest) (*clusterv1.ConfirmResponse, error) {
	return &clusterv1.ConfirmResponse{Confirmed: a.node.follows(req.GetTerm(), raft.ServerID(req.GetLeader()))}, nil
}
