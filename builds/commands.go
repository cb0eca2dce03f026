package builds

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
	"github.com/image-builder-ha/image-builder/tracing"

	"github.com/image-builder-ha/image-builder/faults"
)

// commandType answers the number under which a payload is replicated.
func commandType(payload proto.Message) buildsv1.CommandType {
	switch payload.(type) {
	case *buildsv1.CreateBuild:
		return buildsv1.CommandType_COMMAND_TYPE_CREATE_BUILD
	case *buildsv1.AssignAttempt:
		return buildsv1.CommandType_COMMAND_TYPE_ASSIGN_ATTEMPT
	case *buildsv1.ReportPhase:
		return buildsv1.CommandType_COMMAND_TYPE_REPORT_PHASE
	case *buildsv1.FinishAttempt:
		return buildsv1.CommandType_COMMAND_TYPE_FINISH_ATTEMPT
	case *buildsv1.StopBuild:
		return buildsv1.CommandType_COMMAND_TYPE_STOP_BUILD
	case *buildsv1.NodeStarted:
		return buildsv1.CommandType_COMMAND_TYPE_NODE_STARTED
	case *buildsv1.SealAttempt:
		return buildsv1.CommandType_COMMAND_TYPE_SEAL_ATTEMPT
	case *buildsv1.PutCachedRef:
		return buildsv1.CommandType_COMMAND_TYPE_PUT_CACHED_REF
	case *buildsv1.DeleteCachedRef:
		return buildsv1.CommandType_COMMAND_TYPE_DELETE_CACHED_REF
	case *buildsv1.PutSettings:
		return buildsv1.CommandType_COMMAND_TYPE_PUT_SETTINGS
	case *buildsv1.SetFeatureLevel:
		return buildsv1.CommandType_COMMAND_TYPE_SET_FEATURE_LEVEL
	case *buildsv1.Reap:
		return buildsv1.CommandType_COMMAND_TYPE_REAP
	case *buildsv1.ExpireLogs:
		return buildsv1.CommandType_COMMAND_TYPE_EXPIRE_LOGS
	case *buildsv1.NodeLost:
		return buildsv1.CommandType_COMMAND_TYPE_NODE_LOST
	case *buildsv1.NodeStopping:
		return buildsv1.CommandType_COMMAND_TYPE_NODE_STOPPING
	case *buildsv1.Reseal:
		return buildsv1.CommandType_COMMAND_TYPE_RESEAL
	case *buildsv1.SetLogCopies:
		return buildsv1.CommandType_COMMAND_TYPE_SET_LOG_COPIES
	case *buildsv1.DrainNode:
		return buildsv1.CommandType_COMMAND_TYPE_DRAIN_NODE
	case *buildsv1.ForgetNode:
		return buildsv1.CommandType_COMMAND_TYPE_FORGET_NODE
	case *buildsv1.Reassign:
		return buildsv1.CommandType_COMMAND_TYPE_REASSIGN
	case *buildsv1.SeedCache:
		return buildsv1.CommandType_COMMAND_TYPE_SEED_CACHE
	case *buildsv1.AssignRefreshes:
		return buildsv1.CommandType_COMMAND_TYPE_ASSIGN_REFRESHES
	case *buildsv1.RecordRefreshes:
		return buildsv1.CommandType_COMMAND_TYPE_RECORD_REFRESHES
	case *buildsv1.RequestRefreshes:
		return buildsv1.CommandType_COMMAND_TYPE_REQUEST_REFRESHES
	case *buildsv1.SetCacheInterval:
		return buildsv1.CommandType_COMMAND_TYPE_SET_CACHE_INTERVAL
	}
	return buildsv1.CommandType_COMMAND_TYPE_UNSPECIFIED
}

// NewCommand wraps a payload for the replicated log.
func NewCommand(payload proto.Message) (*clusterv1.Command, error) {
	t := commandType(payload)
	if t == buildsv1.CommandType_COMMAND_TYPE_UNSPECIFIED {
		return nil, fmt.Errorf("%s is no command", payload.ProtoReflect().Descriptor().FullName())
	}
	raw, err := proto.Marshal(payload)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", payload.ProtoReflect().Descriptor().FullName(), err)
	}
	return &clusterv1.Command{Type: uint32(t), FeatureLevel: levelOf(t), Payload: raw}, nil
}

// levelOf is the feature level from which on a command may be used.
func levelOf(t buildsv1.CommandType) uint32 {
	switch {
	case t >= buildsv1.CommandType_COMMAND_TYPE_SEED_CACHE:
		return cacheLevel
	case t >= buildsv1.CommandType_COMMAND_TYPE_NODE_LOST:
		return 2
	}
	return 1
}

// Propose commits a command and answers its result once the local state holds
// it. A refusal by the state is the error; a refused command changed nothing.
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

// spanName names the span of a command's commit.
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

// Preparer completes commands on the leader before they are replicated: it
// stamps the ids of builds and seals their secrets.
type Preparer struct {
	Keyring *Keyring
}

// Prepare changes the command in place. Commands that need nothing stay as
// they are.
func (p Preparer) Prepare(_ context.Context, cmd *clusterv1.Command) error {
	if buildsv1.CommandType(cmd.GetType()) != buildsv1.CommandType_COMMAND_TYPE_CREATE_BUILD {
		return nil
	}
	c := new(buildsv1.CreateBuild)
	if err := proto.Unmarshal(cmd.GetPayload(), c); err != nil {
		return fmt.Errorf("decode CreateBuild: %w", err)
	}
	id, err := uuid.NewV7()
	if err != nil {
		return fmt.Errorf("make a build id: %w", err)
	}
	if c.Id == "" || !faults.Mutant("acknowledge-before-commit") {
		c.Id = id.String()
	}
	if c.Sealed, err = p.Keyring.Seal(c.Id, c.Secrets); err != nil {
		return err
	}
	c.Secrets = nil
	if cmd.Payload, err = proto.Marshal(c); err != nil {
		return fmt.Errorf("encode CreateBuild: %w", err)
	}
	return nil
}
