package raftguard

import (
	"context"

	"github.com/hashicorp/raft"
)

// New starts a guard. The caller stops it.
func New(t raft.Transport, o Options) *Guard {
	c := &Guard{Transport: t, opts: o, calls: make(chan raft.RPC), stop: make(chan struct{}), done: make(chan struct{})}
	go c.run()
	return c
}

func (c *Guard) run() {
	defer close(c.done)
	for {
		select {
		case <-c.stop:
			return
		case rpc := <-c.Transport.Consumer():
			if c.declines(rpc) || c.hasSnapshot(rpc) {
				continue
			}
			select {
			case c.calls <- c.retriedSoon(c.afterSnapshot(rpc)):
			case <-c.stop:
				return
			}
		}
	}
}

// Consumer returns the channel of incoming calls.
func (c *Guard) Consumer() <-chan raft.RPC { return c.calls }

// Elect asks this node to start an election now. It blocks until Raft has handled the call or ctx
// ends.
func (c *Guard) Elect(ctx context.Context) {
	res := make(chan raft.RPCResponse, 1)
	select {
	case c.calls <- raft.RPC{Command: &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax}}, RespChan: res}:
	case <-ctx.Done():
		return
	case <-c.stop:
		return
	}
	select {
	case <-res:
	case <-ctx.Done():
	case <-c.stop:
	}
}

// Stop ends the delivery of calls, and waits for its goroutines.
func (c *Guard) Stop() {
	c.once.Do(func() { close(c.stop) })
	<-c.done
	c.replies.Wait()
}

// AppendEntries sends entries or a heartbeat and waits for the response.
func (c *Guard) AppendEntries(id raft.ServerID, target raft.ServerAddress, req *raft.AppendEntriesRequest, res *raft.AppendEntriesResponse) error {
	if err := c.opts.MaySend(id); err != nil {
		return err
	}
	return c.Transport.AppendEntries(id, target, req, res)
}

// AppendEntriesPipeline opens a stream that sends entries without waiting for the responses.
func (c *Guard) AppendEntriesPipeline(id raft.ServerID, target raft.ServerAddress) (raft.AppendPipeline, error) {
	if err := c.opts.MaySend(id); err != nil {
		return nil, err
	}
	p, err := c.Transport.AppendEntriesPipeline(id, target)
	if err != nil {
		return nil, err
	}
	return pipeline{p, c, id}, nil
}

// RequestVote requests a vote.
func (c *Guard) RequestVote(id raft.ServerID, target raft.ServerAddress, req *raft.RequestVoteRequest, res *raft.RequestVoteResponse) error {
	if err := c.mayStand(id); err != nil {
		return err
	}
	return c.Transport.RequestVote(id, target, req, res)
}

// RequestPreVote requests a pre-vote. Embedding alone would hide this method of the transport from
// Raft.
func (c *Guard) RequestPreVote(id raft.ServerID, target raft.ServerAddress, req *raft.RequestPreVoteRequest, res *raft.RequestPreVoteResponse) error {
	if err := c.mayStand(id); err != nil {
		return err
	}
	if t, ok := c.Transport.(raft.WithPreVote); ok {
		return t.RequestPreVote(id, target, req, res)
	}
	return raft.ErrTransportShutdown
}

// Close closes the wrapped transport.
func (c *Guard) Close() error {
	if t, ok := c.Transport.(raft.WithClose); ok {
		return t.Close()
	}
	return nil
}
