package api

import (
	"context"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// readInfo returns the freshness of the local state.
func (s *Service) readInfo() *imagebuilderv1.ReadInfo {
	index, known, stale := s.raft.Freshness()
	return &imagebuilderv1.ReadInfo{Index: index, LeaderKnown: known, Staleness: durationpb.New(stale)}
}

// catchUp waits until the local state has applied minIndex. With linearizable it also waits for
// everything that was acknowledged before the call.
func (s *Service) catchUp(ctx context.Context, minIndex uint64, linearizable bool) error {
	if linearizable {
		index, err := s.raft.ReadIndex(ctx)
		if err != nil {
			return err
		}
		minIndex = max(minIndex, index)
	}
	if minIndex == 0 {
		return nil
	}
	return s.raft.WaitApplied(ctx, minIndex)
}

const (
	// listStaleness is the age of the local state from which on a list tries to catch up first.
	listStaleness = 2 * time.Second
	// listCatchUpTimeout limits that try. Without a leader the list shows the local state as it is.
	listCatchUpTimeout = 250 * time.Millisecond
)

// catchUpList is catchUp for lists. A list that is not linearizable may show a state that is older
// than listStaleness if the leader cannot be reached. Its ReadInfo has the age.
func (s *Service) catchUpList(ctx context.Context, minIndex uint64, linearizable bool) error {
	if _, known, stale := s.raft.Freshness(); !linearizable && (!known || stale > listStaleness) {
		wait, cancel := context.WithTimeout(ctx, listCatchUpTimeout)
		defer cancel()
		_ = s.catchUp(wait, 0, true)
	}
	return s.catchUp(ctx, minIndex, linearizable)
}

// find returns a build by its id or, if id is empty, the newest build of a ref. Before it returns
// builds.ErrNotFound it catches up with the leader.
func (s *Service) find(ctx context.Context, id, ref string) (*buildsv1.Record, error) {
	if id == "" && ref == "" {
		return nil, invalidf("name a build, by id or by ref")
	}
	look := func() (r *buildsv1.Record) {
		s.store.Read(func(st *builds.State) {
			if id != "" {
				r = st.Build(id)
			} else {
				r = st.Newest(ref)
			}
		})
		return r
	}
	if r := look(); r != nil {
		return r, nil
	}
	if err := s.catchUp(ctx, 0, true); err != nil {
		return nil, err
	}
	if r := look(); r != nil {
		return r, nil
	}
	return nil, builds.ErrNotFound
}
