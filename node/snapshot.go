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

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/cluster"
	"github.com/image-builder-ha/image-builder/internal/ctxutil"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// snapshotChunkBytes is the size of the greatest message of a snapshot.
const snapshotChunkBytes = 256 << 10

// restoreLevelTimeout is how long a restore waits until a new cluster has the feature level that it
// needs.
const restoreLevelTimeout = 5 * time.Second

// SaveSnapshot sends a snapshot of the replicated state. The snapshot contains everything that was
// acknowledged before the call.
func (c clusterAPI) SaveSnapshot(req *imagebuilderv1.SaveSnapshotRequest, stream grpc.ServerStreamingServer[imagebuilderv1.SaveSnapshotResponse]) error {
	if err := c.unreached(); err != nil {
		return err
	}
	ctx := stream.Context()
	index, err := c.node.raft.ReadIndex(ctx)
	if err != nil {
		return err
	}
	if err := c.node.raft.WaitApplied(ctx, index); err != nil {
		return err
	}
	if err := c.node.cluster.SaveSnapshot(ctx, chunkWriter(func(b []byte) error {
		return stream.Send(&imagebuilderv1.SaveSnapshotResponse{Chunk: b})
	})); err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	return nil
}

// chunkWriter sends written bytes in messages of at most snapshotChunkBytes.
type chunkWriter func([]byte) error

// Write sends p. It does not keep p.
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

// RestoreSnapshot replaces the state of the cluster by a snapshot.
func (c clusterAPI) RestoreSnapshot(stream grpc.ClientStreamingServer[imagebuilderv1.RestoreSnapshotRequest, imagebuilderv1.RestoreSnapshotResponse]) error {
	ctx := stream.Context()
	client, err := c.boundedLeaderClient(ctx)
	if err != nil {
		return status.Errorf(status.Code(err), "%v: %s", cluster.ErrNotRestored, status.Convert(err).Message())
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
		if b.Len()+len(m.GetChunk()) > cluster.MaxSnapshotBytes {
			return status.Errorf(codes.ResourceExhausted, "the snapshot has more than %d bytes", cluster.MaxSnapshotBytes)
		}
		b.Write(m.GetChunk())
	}
	res, err := c.node.restore(ctx, []byte(b.String()))
	if err != nil {
		return err
	}
	return stream.SendAndClose(res)
}

// forwardSnapshot sends a snapshot from a client to the leader, and the leader's response back.
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
			break // CloseAndRecv returns the cause
		}
	}
	res, err := to.CloseAndRecv()
	if err != nil {
		return forwardedRestoreError(err)
	}
	return from.SendAndClose(res)
}

// restoredBut begins the errors of a restore that has replaced the state.
const restoredBut = "the snapshot is restored, but "

// forwardedRestoreError returns the error of a restore on the leader. If that is the end of the
// connection, the outcome is unknown, and the error says so.
func forwardedRestoreError(err error) error {
	text := status.Convert(err).Message()
	for _, known := range []string{cluster.ErrNotRestored.Error(), cluster.ErrOutcomeUnknown.Error(), restoredBut} {
		if strings.Contains(text, known) {
			return err
		}
	}
	switch status.Code(err) {
	case codes.Unavailable, codes.Canceled, codes.DeadlineExceeded:
		return status.Errorf(codes.Unavailable, "restore the snapshot: %v: the leader has not responded: %s", cluster.ErrOutcomeUnknown, text)
	}
	return err
}

// restore replaces the state of the cluster by a snapshot; this node must be the leader. The
// snapshot may contain attempts that have ended since. restore ends them, and the builds whose
// secrets this cluster cannot open.
//
// restore does not stop when the caller cancels: once the state is replaced, the attempts of the
// snapshot would never end. If the leader fails after the replacement and before the end, an
// operator has to restore the snapshot again (docs/runbooks.md).
func (n *Node) restore(ctx context.Context, raw []byte) (*imagebuilderv1.RestoreSnapshotResponse, error) {
	ctx, cancel := ctxutil.Join(context.WithoutCancel(ctx), n.work)
	defer cancel()
	n.awaitLevel(ctx, builds.RestoreLevel)
	if n.restoring.CompareAndSwap(false, true) { // not by a second call, which is refused
		defer n.restoring.Store(false)
	}
	if err := n.cluster.RestoreSnapshot(ctx, raw); err != nil {
		return nil, operatorError(fmt.Errorf("restore the snapshot: %w", err))
	}
	n.log.Warn("replaced the replicated state by a snapshot")
	if err := n.markNodesLost(ctx); err != nil {
		return nil, status.Errorf(codes.Unavailable, restoredBut+"its running attempts were not ended, restore it again: %v", err)
	}
	failed, err := n.failUnsealable(ctx)
	if err != nil {
		return nil, status.Errorf(codes.Unavailable, restoredBut+"builds whose secrets cannot be opened were not ended: %v", err)
	}
	var count uint64
	n.store.Read(func(st *builds.State) { count = uint64(st.Counts().Builds) })
	return &imagebuilderv1.RestoreSnapshotResponse{Builds: count, Failed: uint64(failed)}, nil
}

// awaitLevel waits until the state has a feature level, at most for restoreLevelTimeout. A new cluster
// reaches it soon after its start.
func (n *Node) awaitLevel(ctx context.Context, level uint32) {
	ctx, cancel := context.WithTimeout(ctx, restoreLevelTimeout)
	defer cancel()
	for n.level() < level && ctxutil.Sleep(ctx, 20*time.Millisecond) {
	}
}

// markNodesLost commits that all nodes of the restored state are lost, which ends all attempts of
// that state. Their nodes may still run and may have ended these attempts already, and the same
// holds for workloads that outlive nodes. Nodes that run register again (keepLease). The leader
// assigns nothing meanwhile, so that no attempt of a queued build goes to a node that is marked
// next.
func (n *Node) markNodesLost(ctx context.Context) error {
	var all []*buildsv1.Node
	n.store.Read(func(st *builds.State) {
		st.Nodes(func(node *buildsv1.Node) bool { all = append(all, node); return true })
	})
	for _, node := range all {
		for more := true; more; {
			res, _, err := builds.Propose(ctx, n.raft, &buildsv1.NodeLost{
				Name: node.Name, StoreId: node.StoreId, BootId: node.BootId, Reason: "a snapshot of the state was restored", AllAttempts: true,
			})
			if err != nil {
				return err
			}
			more = res.More
		}
	}
	return nil
}

// checkSnapshot returns an error if a snapshot must not become the state of this cluster. Every
// node has to be able to read it.
func (n *Node) checkSnapshot(r io.Reader) error {
	level, err := builds.CheckSnapshot(r)
	if err != nil || level <= n.level() {
		return err
	}
	for _, m := range n.cluster.Members() {
		if known := m.Answer.GetNode().GetFeatureLevel(); known < level {
			return fmt.Errorf("it needs feature level %d, but node %s has last reported level %d: start a newer version there", level, m.Name, known)
		}
	}
	return nil
}
