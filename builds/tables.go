package builds

import (
	"google.golang.org/protobuf/proto"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// put stores a record and updates every index. The record must not change afterwards.
func (s *State) put(r *buildsv1.Record) {
	b := r.Build
	old := s.Build(b.Id)
	if old != nil {
		s.unindex(old)
	}
	if !sameListing(old.GetBuild(), b) {
		s.activeSet = new(ActiveSet)
	}
	s.builds.Set(b.Id, r)
	s.publish(r)
	switch {
	case b.Phase == Queued:
		s.queued.Set(createdKey(r), r)
		if s.deadlineRuns(r) {
			s.deadlines.Set(deadlineKey(r), r)
		}
	case Live(b.Phase):
		s.live.Set(b.Id, r)
	case Terminal(b.Phase):
		end := orderKey(r.EndedIndex) + b.Id
		s.history.Set(end, b.Id)
		s.historyByRequester.Set(pairKey(b.Requester, end), b.Id)
		s.countEnded(b.Requester, 1)
	}
	if !Terminal(b.Phase) {
		if r.Successor {
			s.successors.Set(b.Ref, b.Id)
		} else {
			s.activeByRef.Set(b.Ref, b.Id)
		}
	}
	if id, ok := s.newestByRef.Get(b.Ref); !ok || id <= b.Id {
		s.newestByRef.Set(b.Ref, b.Id)
	}
	if old == nil {
		s.byRef.Set(pairKey(b.Ref, b.Id), b.Id)
		s.created.Set(createdKey(r), b.Id)
		s.createdRef.Set(pairKey(b.Ref, createdKey(r)), b.Id)
	}
	for _, a := range b.Attempts {
		if a.GetLog().GetState() == LogSealing {
			s.sealing.Set(b.Id, r)
			break
		}
	}
}

// sameListing reports whether a list of active builds is the same with old and with b. old is nil
// for a new build.
func sameListing(old, b *imagebuilderv1.Build) bool {
	if old == nil || Terminal(old.Phase) || Terminal(b.Phase) {
		return old != nil && Terminal(old.Phase) && Terminal(b.Phase)
	}
	return old.Ref == b.Ref && old.BaseRef == b.BaseRef && old.GetCreatedAt().GetSeconds() == b.GetCreatedAt().GetSeconds()
}

// unindex removes a record from all indexes except those that never change while the state has the
// build: builds, newestByRef, byRef, created and createdRef.
func (s *State) unindex(r *buildsv1.Record) {
	b := r.Build
	if _, ok := s.queued.Delete(createdKey(r)); ok {
		s.deadlines.Delete(deadlineKey(r))
	}
	s.live.Delete(b.Id)
	s.sealing.Delete(b.Id)
	end := orderKey(r.EndedIndex) + b.Id
	if _, ok := s.history.Delete(end); ok {
		s.historyByRequester.Delete(pairKey(b.Requester, end))
		s.countEnded(b.Requester, -1)
	}
	if id, ok := s.activeByRef.Get(b.Ref); ok && id == b.Id {
		s.activeByRef.Delete(b.Ref)
	}
	if id, ok := s.successors.Get(b.Ref); ok && id == b.Id {
		s.successors.Delete(b.Ref)
	}
}

// deadlineRuns reports whether a build ends at its deadline. The deadline of a successor begins
// when the successor becomes the active build of its image. Its wait ends with the former build, at
// the deadline of that one.
func (s *State) deadlineRuns(r *buildsv1.Record) bool {
	return !r.Successor || s.level < successorDeadlineLevel
}

// deadlineKey returns the key of a record in the order of deadlines.
func deadlineKey(r *buildsv1.Record) string {
	return orderKey(uint64(max(r.Build.GetDeadline().AsTime().UnixNano(), 0))) + r.Build.Id
}

// remove removes a build and all its index entries.
func (s *State) remove(r *buildsv1.Record) {
	s.unindex(r)
	s.unpublish(r)
	s.builds.Delete(r.Build.Id)
	if !Terminal(r.Build.Phase) {
		s.activeSet = new(ActiveSet)
	}
	s.byRef.Delete(pairKey(r.Build.Ref, r.Build.Id))
	s.created.Delete(createdKey(r))
	s.createdRef.Delete(pairKey(r.Build.Ref, createdKey(r)))
	if id, ok := s.newestByRef.Get(r.Build.Ref); ok && id == r.Build.Id {
		s.newestByRef.Delete(r.Build.Ref)
	}
}

// edit returns a copy of a record. The caller changes it and puts it back.
func edit(r *buildsv1.Record) *buildsv1.Record {
	return proto.Clone(r).(*buildsv1.Record)
}

// countEnded adds by to the number of ended builds of a requester.
func (s *State) countEnded(requester string, by int) {
	n, _ := s.historyCount.Get(requester)
	if n += by; n > 0 {
		s.historyCount.Set(requester, n)
	} else {
		s.historyCount.Delete(requester)
	}
}

// putRequest stores the record of a request id.
func (s *State) putRequest(r *buildsv1.Request) {
	key := pairKey(r.Requester, r.RequestId)
	s.requests.Set(key, r)
	byTime := s.requestsByTime
	if r.Made {
		byTime = s.generatedByTime
	}
	byTime.Set(orderKey(uint64(r.TimeUnixNano))+key, key)
}
