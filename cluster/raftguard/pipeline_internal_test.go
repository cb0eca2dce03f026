package raftguard

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// fullPipeline blocks in AppendEntries until Close, like a pipeline whose responses are not read.
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

// Test_Pipeline_TakesNoMore checks that a sender whose responses are not read does not block for
// ever. The end of the node waits for that sender.
func Test_Pipeline_TakesNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pipeline{fullPipeline{closed: make(chan struct{})}, &Guard{opts: Options{MaySend: func(raft.ServerID) error { return nil }}}, "n1"}
		begin := time.Now()
		if _, err := p.AppendEntries(nil, nil); !errors.Is(err, raft.ErrPipelineShutdown) {
			t.Errorf("got %v, want %v", err, raft.ErrPipelineShutdown)
		}
		if took := time.Since(begin); took != acceptTimeout {
			t.Errorf("after %s, want %s", took, acceptTimeout)
		}
	})
}
