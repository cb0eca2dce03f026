package raftguard

import (
	"time"

	"github.com/hashicorp/raft"
)

// acceptTimeout is how long a pipeline may accept no more entries.
const acceptTimeout = 10 * time.Second

type pipeline struct {
	raft.AppendPipeline
	c  *Guard
	id raft.ServerID
}

// AppendEntries sends entries without waiting for the response. If the pipeline accepts no more for
// acceptTimeout, AppendEntries closes it. The danger: once Raft has seen a newer term, it reads no
// more responses. Its sender would then block here for ever, and Shutdown would wait for the sender
// (hashicorp/raft 1.8, netPipeline.AppendEntries).
func (p pipeline) AppendEntries(req *raft.AppendEntriesRequest, res *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	if err := p.c.opts.MaySend(p.id); err != nil {
		return nil, err
	}
	stuck := time.AfterFunc(acceptTimeout, func() { _ = p.Close() })
	defer stuck.Stop()
	return p.AppendPipeline.AppendEntries(req, res)
}
