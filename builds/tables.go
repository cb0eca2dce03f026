package builds

import (
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// put stores a record and updates every index. The record must not change afterwards.
func (s *State) put(r *buildsv1.Record) {
	e, _ := s.entries.entry(r)
	s.putEntry(e, r)
}

// putEntry is put for a caller that has the entry of the record.
func (s *State) putEntry(e *entry, r *buildsv1.Record) {
	b := r.Build
	former := s.builds.Set(e)
	old := former.get()
	if !sameListing(old.GetBuild(), b) {
		s.activeSet = new(ActiveSet)
	}
	s.publish(e, r)
	s.reindex(former, e, old, r)
	s.leaveRef(old, r)
	if !Terminal(b.Phase) {
		if r.Successor {
			s.successors.Set(b.Ref, b.Id)
		} else {
			s.activeByRef.Set(b.Ref, b.Id)
		}
	}
	if s.level < newestLevel {
		if id, ok := s.newestByRef.Get(b.Ref); !ok || id < b.Id {
			s.newestByRef.Set(b.Ref, b.Id)
		}
	}
	if s.level < creationOrderLevel {
		s.byRefAndID.Set(e)
	}
	s.byRequester.Set(e)
	s.created.Set(e)
	s.byRef.Set(e)
}

// leaveRef removes a build from the active builds and the successors of its ref, unless r, its next
// record, stays there. r is nil if the build is removed.
func (s *State) leaveRef(old, r *buildsv1.Record) {
	if old == nil || Terminal(old.Build.Phase) || r != nil && !Terminal(r.Build.Phase) && r.Successor == old.Successor {
		return
	}
	b, t := old.Build, s.activeByRef
	if old.Successor {
		t = s.successors
	}
	if id, ok := t.Get(b.Ref); ok && id == b.Id {
		t.Delete(b.Ref)
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

// remove removes a build and all its index entries.
func (s *State) remove(r *buildsv1.Record) {
	e := s.builds.Delete(r.Build.Id)
	s.reindex(e, nil, r, nil)
	s.leaveRef(r, nil)
	s.unpublish(e, r)
	if !Terminal(r.Build.Phase) {
		s.activeSet = new(ActiveSet)
	}
	s.byRefAndID.Delete(e)
	s.created.Delete(e)
	s.byRef.Delete(e)
	s.byRequester.Delete(e)
	if id, ok := s.newestByRef.Get(r.Build.Ref); ok && id == r.Build.Id {
		s.newestByRef.Delete(r.Build.Ref)
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
