package builds

import (
	"context"
	"fmt"

	"google.golang.org/protobuf/proto"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
	"github.com/image-builder-ha/image-builder/tracing"
)

// Raft is the replicated log.
type Raft interface {
	// Propose commits a command through the leader and waits until the local state has applied it.
	// It returns the index of the command and the value that Store.Apply returned.
	Propose(ctx context.Context, cmd *clusterv1.Command) (index uint64, result any, err error)
	// ReadIndex returns an index. A state that has applied it holds everything that was
	// acknowledged before the call.
	ReadIndex(ctx context.Context) (uint64, error)
	// WaitApplied blocks until the local state has applied an index.
	WaitApplied(ctx context.Context, index uint64) error
}

// Propose commits a command and returns its result once the local state has applied it. If the
// state refuses the command, the error is Result.Err, and nothing has changed.
func Propose(ctx context.Context, r Raft, payload proto.Message) (_ Result, index uint64, err error) {
	cmd, err := NewCommand(payload)
	if err != nil {
		return Result{}, 0, err
	}
	ctx, span := tracing.Start(ctx, spanName(payload))
	defer func() {
		if span.IsRecording() {
			span.SetAttributes(tracing.Index.Int64(int64(index)))
		}
		tracing.End(span, err)
	}()
	index, out, err := r.Propose(ctx, cmd)
	if err != nil {
		return Result{}, 0, err
	}
	res, ok := out.(Result)
	if !ok {
		return Result{}, index, fmt.Errorf("apply %s: %v", payload.ProtoReflect().Descriptor().FullName(), out)
	}
	return res, index, res.Err
}

// spanName returns the name of the trace span of a commit.
func spanName(payload proto.Message) string {
	switch payload.(type) {
	case *buildsv1.CreateBuild:
		return "commit CreateBuild"
	case *buildsv1.ReportPhase:
		return "commit ReportPhase"
	case *buildsv1.FinishAttempt:
		return "commit FinishAttempt"
	case *buildsv1.StopBuild:
		return "commit StopBuild"
	}
	return "commit"
}
