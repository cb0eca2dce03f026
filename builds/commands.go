package builds

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// commandType returns the command type of a payload, or UNSPECIFIED if it is not a command.
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
	case *buildsv1.RevokeAttempt:
		return buildsv1.CommandType_COMMAND_TYPE_REVOKE_ATTEMPT
	case *buildsv1.StopOverdue:
		return buildsv1.CommandType_COMMAND_TYPE_STOP_OVERDUE
	}
	return buildsv1.CommandType_COMMAND_TYPE_UNSPECIFIED
}

// NewCommand returns the command with a payload, as the replicated log carries it.
func NewCommand(payload proto.Message) (*clusterv1.Command, error) {
	t := commandType(payload)
	if t == buildsv1.CommandType_COMMAND_TYPE_UNSPECIFIED {
		return nil, fmt.Errorf("%s is not a command", payload.ProtoReflect().Descriptor().FullName())
	}
	raw, err := proto.Marshal(payload)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", payload.ProtoReflect().Descriptor().FullName(), err)
	}
	return &clusterv1.Command{Type: uint32(t), FeatureLevel: requiredLevel(t, payload), Payload: raw}, nil
}

// requiredLevel returns the feature level that a node needs to apply a command: the one that
// introduced its type. SetFeatureLevel needs the level that it sets, so that a version that does
// not know the level stops there, even if the level adds only fields.
func requiredLevel(t buildsv1.CommandType, payload proto.Message) uint32 {
	if c, ok := payload.(*buildsv1.SetFeatureLevel); ok {
		return max(1, c.GetLevel())
	}
	switch {
	case t >= buildsv1.CommandType_COMMAND_TYPE_STOP_OVERDUE:
		return overdueLevel
	case t >= buildsv1.CommandType_COMMAND_TYPE_REVOKE_ATTEMPT:
		return RevokeLevel
	case t >= buildsv1.CommandType_COMMAND_TYPE_SEED_CACHE:
		return cacheLevel
	case t >= buildsv1.CommandType_COMMAND_TYPE_NODE_LOST:
		return nodeLostLevel
	}
	return 1
}
