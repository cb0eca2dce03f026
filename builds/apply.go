package builds

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Result is what applying a command answers to its proposer.
type Result struct {
	// Build is the build after the command, where there is one.
	Build *imagebuilderv1.Build
	// Attached: the request joined a build that was there already.
	Attached bool
	// Repeated: the answer comes from the table of request ids.
	Repeated bool
	// Detached: the build goes on for other requesters.
	Detached bool
	// Existed: what a deletion names was there.
	Existed bool
	// Refused counts assignments, or results, that come from an older state.
	Refused int
	// Refs counts the cached references that a command was about.
	Refs int
	// Err is the refusal of the command; the state did not change.
	Err error
}

// Event is what one command changed.
type Event struct {
	Index   uint64
	Changed []*buildsv1.Record
	Removed []string
	// Cluster tells that nodes or settings changed, which may let queued
	// builds start.
	Cluster bool
	// Cached tells that cached references changed, or how they are kept.
	Cached bool
	// Requested are cached references that were asked to be resolved anew.
	Requested []string
}

// Apply applies one command. It is deterministic: times, ids and random
// choices come with the command. An error is fatal for the node: its binary
// does not know what the cluster has agreed on.
func (s *State) Apply(index uint64, cmd *clusterv1.Command) (Result, Event, error) {
	if cmd.GetFeatureLevel() > FeatureLevel {
		return Result{}, Event{}, fatalf("command %d at index %d needs feature level %d, this version knows %d: start the version that the cluster runs", cmd.GetType(), index, cmd.GetFeatureLevel(), FeatureLevel)
	}
	payload, run := s.command(buildsv1.CommandType(cmd.GetType()))
	if payload == nil {
		if cmd.GetIgnorable() || cmd.GetType() == 0 {
			s.advance(index, cmd)
			return Result{}, Event{Index: index}, nil
		}
		return Result{}, Event{}, fatalf("command type %d at index %d is unknown to this version: start the version that the cluster runs", cmd.GetType(), index)
	}
	if err := proto.Unmarshal(cmd.GetPayload(), payload); err != nil {
		return Result{}, Event{}, fatalf("command type %d at index %d cannot be decoded: %v", cmd.GetType(), index, err)
	}
	s.advance(index, cmd)
	tx := &change{State: s, event: Event{Index: index}}
	res := run(tx)
	tx.forgetRequests(requestsPerApply)
	return res, tx.event, nil
}

func (s *State) advance(index uint64, cmd *clusterv1.Command) {
	s.index = index
	s.time = max(s.time, cmd.GetTimeUnixNano())
}

// command answers an empty payload for a type and what applies it.
func (s *State) command(t buildsv1.CommandType) (proto.Message, func(*change) Result) {
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
	}
	return nil, nil
}

// change is one command at work: the state and what was changed in it.
type change struct {
	*State
	event Event
}

func (tx *change) now() *timestamppb.Timestamp {
	return timestamppb.New(time.Unix(0, tx.time))
}

// put stores an edited record as the newest version of its build.
func (tx *change) put(r *buildsv1.Record) {
	r.Build.Version = tx.index
	tx.State.put(r)
	for i, c := range tx.event.Changed {
		if c.Build.Id == r.Build.Id {
			tx.event.Changed[i] = r
			return
		}
	}
	tx.event.Changed = append(tx.event.Changed, r)
}

func (tx *change) putSettings(c *buildsv1.PutSettings) Result {
	if c.Settings == nil { // a snapshot could not tell it from the defaults
		return Result{Err: errors.New("the command holds no settings")}
	}
	tx.settings = c.Settings
	tx.event.Cluster = true
	tx.reap(reapsPerApply)
	return Result{}
}

func (tx *change) setFeatureLevel(c *buildsv1.SetFeatureLevel) Result {
	if c.GetLevel() < tx.level {
		return Result{Err: fmt.Errorf("the feature level is %d and cannot go back to %d", tx.level, c.GetLevel())}
	}
	tx.level = c.GetLevel()
	tx.event.Cluster = true
	return Result{}
}

// reseal replaces the secrets of a build, unless they changed meanwhile.
func (tx *change) reseal(c *buildsv1.Reseal) Result {
	r := tx.Build(c.BuildId)
	if r == nil || r.Secrets == nil || !proto.Equal(r.Secrets, c.Former) {
		return Result{}
	}
	r = edit(r)
	r.Secrets = c.Sealed
	tx.put(r)
	return Result{Build: r.Build}
}
