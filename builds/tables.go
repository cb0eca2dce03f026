package builds

import (
	"google.golang.org/protobuf/proto"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// put stores a record and keeps every index true. The record must not change
// afterwards.
func (s *State) put(r *buildsv1.Record) {
	b := r.Build
	old := s.Build(b.Id)
	if old != nil {
		s.unindex(old)
	}
	if !listedAlike(old.GetBuild(), b) {
		s.active = new(ActiveSet)
	}
	s.builds.Set(b.Id, r)
	switch {
	case b.Phase == Queued:
		s.queued.Set(b.Id, r)
		s.deadlines.Set(deadlineKey(r), r)
	case Live(b.Phase):
		s.live.Set(b.Id, r)
		addCount(s.liveBy.Get, s.liveBy.Set, s.liveBy.Delete, b.Requester, 1)
	case Terminal(b.Phase):
		end := orderKey(r.EndedIndex) + b.Id
		s.history.Set(end, b.Id)
		s.historyByRequester.Set(pairKey(b.Requester, end), b.Id)
		addCount(s.historyCount.Get, s.historyCount.Set, s.historyCount.Delete, b.Requester, 1)
	}
	if !Terminal(b.Phase) {
		if r.Successor {
			s.successors.Set(b.Ref, b.Id)
		} else {
			s.current.Set(b.Ref, b.Id)
		}
	}
	if id, ok := s.newest.Get(b.Ref); !ok || id <= b.Id {
		s.newest.Set(b.Ref, b.Id)
	}
	if old == nil {
		s.byRef.Set(pairKey(b.Ref, b.Id), b.Id)
	}
	for _, a := range b.Attempts {
		if a.GetLog().GetState() == LogSealing {
			s.sealing.Set(b.Id, r)
			break
		}
	}
}

// listedAlike reports whether a list of active builds is the same with either.
func listedAlike(old, b *imagebuilderv1.Build) bool {
	if old == nil || Terminal(old.Phase) || Terminal(b.Phase) {
		return old != nil && Terminal(old.Phase) && Terminal(b.Phase)
	}
	return old.Ref == b.Ref && old.BaseRef == b.BaseRef && old.GetCreatedAt().GetSeconds() == b.GetCreatedAt().GetSeconds()
}

// unindex takes a record out of all indexes but builds, newest and byRef.
func (s *State) unindex(r *buildsv1.Record) {
	b := r.Build
	if _, ok := s.queued.Delete(b.Id); ok {
		s.deadlines.Delete(deadlineKey(r))
	}
	if _, ok := s.live.Delete(b.Id); ok {
		addCount(s.liveBy.Get, s.liveBy.Set, s.liveBy.Delete, b.Requester, -1)
	}
	s.sealing.Delete(b.Id)
	end := orderKey(r.EndedIndex) + b.Id
	if _, ok := s.history.Delete(end); ok {
		s.historyByRequester.Delete(pairKey(b.Requester, end))
		addCount(s.historyCount.Get, s.historyCount.Set, s.historyCount.Delete, b.Requester, -1)
	}
	if id, ok := s.current.Get(b.Ref); ok && id == b.Id {
		s.current.Delete(b.Ref)
	}
	if id, ok := s.successors.Get(b.Ref); ok && id == b.Id {
		s.successors.Delete(b.Ref)
	}
}

// deadlineKey orders records by deadline.
func deadlineKey(r *buildsv1.Record) string {
	return orderKey(uint64(max(r.Build.GetDeadline().AsTime().UnixNano(), 0))) + r.Build.Id
}

// remove forgets a build.
func (s *State) remove(r *buildsv1.Record) {
	s.unindex(r)
	s.builds.Delete(r.Build.Id)
	if !Terminal(r.Build.Phase) {
		s.active = new(ActiveSet)
	}
	s.byRef.Delete(pairKey(r.Build.Ref, r.Build.Id))
	if id, ok := s.newest.Get(r.Build.Ref); ok && id == r.Build.Id {
		s.newest.Delete(r.Build.Ref)
	}
}

// edit answers a copy of a record that may be changed and put back.
func edit(r *buildsv1.Record) *buildsv1.Record {
	return proto.Clone(r).(*buildsv1.Record)
}

func addCount(get func(string) (int, bool), set func(string, int) (int, bool), del func(string) (int, bool), key string, by int) {
	n, _ := get(key)
	if n += by; n > 0 {
		set(key, n)
	} else {
		del(key)
	}
}
