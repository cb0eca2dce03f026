package builds

import (
	"google.golang.org/protobuf/proto"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// Apply applies one command. It is deterministic: times, ids and random values come with the
// command. An error is fatal for the node: this version cannot apply a command that the cluster has
// committed. A refused command is not an error: Result.Err holds the reason.
func (s *State) Apply(index uint64, cmd *clusterv1.Command) (Result, Event, error) {
	if cmd.GetFeatureLevel() > FeatureLevel {
		return Result{}, Event{}, fatalf("command %d at index %d needs feature level %d, this version knows %d: start the version that the cluster runs", cmd.GetType(), index, cmd.GetFeatureLevel(), FeatureLevel)
	}
	payload, apply := payloadOf(buildsv1.CommandType(cmd.GetType()))
	if payload == nil {
		if cmd.GetIgnorable() || cmd.GetType() == 0 {
			s.advance(index, cmd)
			tx := &change{State: s, event: Event{Index: index, Cluster: cmd.GetRestore() != nil}}
			if cmd.GetRestore() != nil {
				tx.raiseLevel(cmd.GetFeatureLevel()) // see RestoreLevel
			}
			s.settle()
			return Result{}, tx.event, nil
		}
		return Result{}, Event{}, fatalf("command type %d at index %d is unknown to this version: start the version that the cluster runs", cmd.GetType(), index)
	}
	if err := proto.Unmarshal(cmd.GetPayload(), payload); err != nil {
		return Result{}, Event{}, fatalf("command type %d at index %d cannot be decoded: %v", cmd.GetType(), index, err)
	}
	if c, ok := payload.(*buildsv1.SetFeatureLevel); ok && c.GetLevel() > FeatureLevel {
		// Refuse the level itself: if it only adds fields, this version refuses no later command.
		return Result{}, Event{}, fatalf("the command at index %d raises the feature level to %d, this version knows %d: start the version that the cluster runs", index, c.GetLevel(), FeatureLevel)
	}
	s.advance(index, cmd)
	tx := &change{State: s, event: Event{Index: index}}
	res := apply(tx)
	tx.forgetRequests(requestsPerApply)
	s.settle()
	return res, tx.event, nil
}

// advance moves the index and the time of the state. The time never goes back.
func (s *State) advance(index uint64, cmd *clusterv1.Command) {
	s.checkpoint(index, cmd.GetTimeUnixNano())
	s.index = index
	before := s.time
	s.time = max(s.time, cmd.GetTimeUnixNano())
	s.elapse(before, s.time)
}

// payloadOf returns an empty payload of a command type, and the function that applies the payload
// once it is decoded. For an unknown type it returns nil.
func payloadOf(t buildsv1.CommandType) (payload proto.Message, apply func(*change) Result) {
	switch t {
	case buildsv1.CommandType_COMMAND_TYPE_CREATE_BUILD:
		c := new(buildsv1.CreateBuild)
		return c, func(tx *change) Result { return tx.createBuild(c) }
	case buildsv1.CommandType_COMMAND_TYPE_ASSIGN_ATTEMPT:
		c := new(buildsv1.AssignAttempt)
		return c, func(tx *change) Result { return tx.assignAttempt(c) }
	case buildsv1.CommandType_COMMAND_TYPE_REPORT_PHASE:
		c := new(buildsv1.ReportPhase)
		return c, func(tx *change) Result { return tx.reportPhase(c) }
	case buildsv1.CommandType_COMMAND_TYPE_FINISH_ATTEMPT:
		c := new(buildsv1.FinishAttempt)
		return c, func(tx *change) Result { return tx.finishAttempt(c) }
	case buildsv1.CommandType_COMMAND_TYPE_STOP_BUILD:
		c := new(buildsv1.StopBuild)
		return c, func(tx *change) Result { return tx.stopBuild(c) }
	case buildsv1.CommandType_COMMAND_TYPE_NODE_STARTED:
		c := new(buildsv1.NodeStarted)
		return c, func(tx *change) Result { return tx.nodeStarted(c) }
	case buildsv1.CommandType_COMMAND_TYPE_SEAL_ATTEMPT:
		c := new(buildsv1.SealAttempt)
		return c, func(tx *change) Result { return tx.sealAttempt(c) }
	case buildsv1.CommandType_COMMAND_TYPE_PUT_CACHED_REF:
		c := new(buildsv1.PutCachedRef)
		return c, func(tx *change) Result { return tx.putCachedRef(c) }
	case buildsv1.CommandType_COMMAND_TYPE_DELETE_CACHED_REF:
		c := new(buildsv1.DeleteCachedRef)
		return c, func(tx *change) Result { return tx.deleteCachedRef(c) }
	case buildsv1.CommandType_COMMAND_TYPE_SEED_CACHE:
		c := new(buildsv1.SeedCache)
		return c, func(tx *change) Result { return tx.seedCache(c) }
	case buildsv1.CommandType_COMMAND_TYPE_ASSIGN_REFRESHES:
		c := new(buildsv1.AssignRefreshes)
		return c, func(tx *change) Result { return tx.assignRefreshes(c) }
	case buildsv1.CommandType_COMMAND_TYPE_RECORD_REFRESHES:
		c := new(buildsv1.RecordRefreshes)
		return c, func(tx *change) Result { return tx.recordRefreshes(c) }
	case buildsv1.CommandType_COMMAND_TYPE_REQUEST_REFRESHES:
		c := new(buildsv1.RequestRefreshes)
		return c, func(tx *change) Result { return tx.requestRefreshes(c) }
	case buildsv1.CommandType_COMMAND_TYPE_SET_CACHE_INTERVAL:
		c := new(buildsv1.SetCacheInterval)
		return c, func(tx *change) Result { return tx.setCacheInterval(c) }
	case buildsv1.CommandType_COMMAND_TYPE_PUT_SETTINGS:
		c := new(buildsv1.PutSettings)
		return c, func(tx *change) Result { return tx.putSettings(c) }
	case buildsv1.CommandType_COMMAND_TYPE_SET_FEATURE_LEVEL:
		c := new(buildsv1.SetFeatureLevel)
		return c, func(tx *change) Result { return tx.setFeatureLevel(c) }
	case buildsv1.CommandType_COMMAND_TYPE_REAP:
		return new(buildsv1.Reap), func(tx *change) Result { tx.reap(reapsPerApply); return Result{} }
	case buildsv1.CommandType_COMMAND_TYPE_EXPIRE_LOGS:
		c := new(buildsv1.ExpireLogs)
		return c, func(tx *change) Result { return tx.expireLogs(c) }
	case buildsv1.CommandType_COMMAND_TYPE_NODE_LOST:
		c := new(buildsv1.NodeLost)
		return c, func(tx *change) Result { return tx.nodeLost(c) }
	case buildsv1.CommandType_COMMAND_TYPE_NODE_STOPPING:
		c := new(buildsv1.NodeStopping)
		return c, func(tx *change) Result { return tx.nodeStopping(c) }
	case buildsv1.CommandType_COMMAND_TYPE_RESEAL:
		c := new(buildsv1.Reseal)
		return c, func(tx *change) Result { return tx.reseal(c) }
	case buildsv1.CommandType_COMMAND_TYPE_SET_LOG_COPIES:
		c := new(buildsv1.SetLogCopies)
		return c, func(tx *change) Result { return tx.setLogCopies(c) }
	case buildsv1.CommandType_COMMAND_TYPE_DRAIN_NODE:
		c := new(buildsv1.DrainNode)
		return c, func(tx *change) Result { return tx.drainNode(c) }
	case buildsv1.CommandType_COMMAND_TYPE_FORGET_NODE:
		c := new(buildsv1.ForgetNode)
		return c, func(tx *change) Result { return tx.forgetNode(c) }
	case buildsv1.CommandType_COMMAND_TYPE_REASSIGN:
		c := new(buildsv1.Reassign)
		return c, func(tx *change) Result { return tx.reassign(c) }
	case buildsv1.CommandType_COMMAND_TYPE_REVOKE_ATTEMPT:
		c := new(buildsv1.RevokeAttempt)
		return c, func(tx *change) Result { return tx.revokeAttempt(c) }
	case buildsv1.CommandType_COMMAND_TYPE_STOP_OVERDUE:
		c := new(buildsv1.StopOverdue)
		return c, func(tx *change) Result { return tx.stopOverdue(c) }
	}
	return nil, nil
}
