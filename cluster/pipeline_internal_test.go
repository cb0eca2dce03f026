package cluster

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// fullPipeline takes nothing: nobody reads its answers any more.
type fullPipeline struct {
	raft.AppendPipeline
	closed chan struct{}
}

func (p fullPipeline) AppendEntries(*raft.AppendEntriesRequest, *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	<-p.closed
	return nil, raft.ErrPipelineShutdown
}

func (p fullPipeline) Close() error {
	close(p.closed)
	return nil
}

// Test_Pipeline_TakesNoMore: a sender whose answers nobody reads does not wait for
// ever, nor does the end of the node, which waits for it.
func Test_Pipeline_TakesNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipeline{fullPipeline{closed: make(chan struct{})}, &consumer{may: func(raft.ServerID) error { return nil }}, "n1"}
		begin := time.Now()
		if _, err := p.AppendEntries(nil, nil); !errors.Is(err, raft.ErrPipelineShutdown) {
			t.Errorf("got %v, want %v", err, raft.ErrPipelineShutdown)
		}
		if took := time.Since(begin); took != raftTimeout {
			t.Errorf("after %s, want %s", took, raftTimeout)
		}
	})
}
