package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/faults"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// ReadIndex returns an index for a linearizable read: a state at or after it contains every command
// that was acknowledged before the call, and everything that the state of any node showed before
// it. The index is the last command that was committed on the leader before a quorum confirmed its
// leadership (Raft dissertation, section 6.4). Concurrent callers on one node share one call to the
// leader. While there is no leader, ReadIndex waits until ctx ends.
func (n *Node) ReadIndex(ctx context.Context) (uint64, error) {
	for {
		leads, changed := n.leadership()
		var index uint64
		err := ErrNoLeader
		if leads {
			index, err = n.readIndexHere(ctx)
		} else if leader, cerr := n.leader(); cerr == nil {
			index, err = n.reads.wait(ctx, func() (uint64, error) { return n.readIndexThere(leader) })
		}
		if err == nil || ctx.Err() != nil || !errors.Is(err, ErrNoLeader) {
			return index, err
		}
		if err := n.waitForLeader(ctx, changed); err != nil {
			return 0, fmt.Errorf("read index: %w", err)
		}
	}
}

// readIndexHere returns the read index of this node. It returns ErrNoLeader if this node does not
// lead.
func (n *Node) readIndexHere(ctx context.Context) (uint64, error) {
	if faults.Mutant("read-without-verify") {
		return n.fsm.Index(), nil
	}
	return n.reads.wait(ctx, n.verifyLeader)
}

// readIndexThere requests the read index from the leader. It returns ErrNoLeader for every failure:
// a read can always be retried.
func (n *Node) readIndexThere(leader leaderConn) (uint64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), readIndexTimeout)
	defer cancel()
	ctx, done := n.whileLed(forwarded(ctx), leader.id)
	defer done()
	responded := n.reach.begin()
	res, err := leader.ReadIndex(ctx, &clusterv1.ReadIndexRequest{})
	responded(err)
	if err != nil {
		return 0, fmt.Errorf("%w: %s", ErrNoLeader, status.Convert(err).Message())
	}
	return res.GetIndex(), nil
}

// readIndexTimeout bounds one call to the leader.
const readIndexTimeout = 2 * time.Second

// verifyLeader reads the index before it asks the quorum. The quorum must confirm the term of which
// this node has applied the first command: the confirmation of a later term proves nothing about
// the index.
func (n *Node) verifyLeader() (uint64, error) {
	n.mu.Lock()
	leads, term := n.leads, n.term
	n.mu.Unlock()
	if !leads {
		return 0, fmt.Errorf("read index: %w", ErrNoLeader)
	}
	moves := n.restoreMoves.Load()
	var offset uint64
	index, err := lastCommand(n.log, n.raft.Load().CommitIndex(), func() uint64 {
		var applied uint64
		applied, offset = n.fsm.Position()
		return applied - offset
	})
	if err != nil {
		return 0, err
	}
	if moves%2 == 1 || n.restoreMoves.Load() != moves {
		// A restore that is not applied yet may change the offset. The caller asks again.
		return 0, fmt.Errorf("read index: a restore is in progress: %w", ErrNoLeader)
	}
	index += offset
	if n.cfg.ConfirmReads() && !faults.Mutant("read-index-by-verify-leader") {
		err = n.confirmLeadership(context.Background(), term)
	} else {
		err = n.raftVerifiesLeader(term)
	}
	if err != nil {
		return 0, fmt.Errorf("read index: %w", err)
	}
	return index, nil
}

// raftVerifiesLeader is confirmLeadership in a cluster with nodes that do not serve Confirm. Raft
// also counts responses to messages that it sent before the call. After a pause of this process,
// such responses can confirm a leader that another one has replaced.
func (n *Node) raftVerifiesLeader(term uint64) error {
	err := n.raftCalls.await(context.Background(), func() raft.Future { return n.raft.Load().VerifyLeader() })
	if errors.Is(err, raft.ErrNotLeader) || errors.Is(err, raft.ErrLeadershipLost) || err == nil && n.raft.Load().CurrentTerm() != term {
		return ErrNoLeader
	}
	return err
}

// lastCommand returns the index of the last command at or below committed. The applied index would
// be too low: a follower may be ahead of the leader, and a client that read there must see the same
// state again. The commit index would be too high: entries that are no commands never reach the
// state machine, so that a waiter would wait for the next command.
func lastCommand(log raft.LogStore, committed uint64, applied func() uint64) (uint64, error) {
	before := applied()
	for at := committed; at > before; at-- {
		var entry raft.Log
		switch err := log.GetLog(at, &entry); {
		case errors.Is(err, raft.ErrLogNotFound): // it was applied and removed meanwhile
			return applied(), nil
		case err != nil:
			return 0, fmt.Errorf("read index: look at entry %d of the log: %w", at, err)
		case entry.Type == raft.LogCommand:
			return at, nil
		}
	}
	return before, nil
}
