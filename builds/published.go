package builds

import (
	"strings"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Targets returns the refs at which a build publishes its image. The workload pushes to the
// repository of the first one.
func Targets(b *imagebuilderv1.Build) []string {
	if b.Source.GetDockerfile() != nil {
		return append([]string{b.BaseRef, b.Ref}, b.Source.GetDockerfile().GetExtraTags()...)
	}
	return []string{b.Ref}
}

// Published returns the digest that the last success with the target ref has published, or "". It
// follows from the builds of the state, so it is "" again once the history has removed that build: the
// history removes older successes before it.
func (s *State) Published(ref string) string {
	id, _ := s.published.Get(ref)
	return s.Build(id).GetBuild().GetDigest()
}

// CommittedDigest returns the digest that a tag must have: that of the newest running build which
// has committed one for the ref and may have tagged it, otherwise that of the last success. It is
// "" if there is neither.
func (s *State) CommittedDigest(ref string) string {
	var newest *buildsv1.Record
	consider := func(_ string, r *buildsv1.Record) bool {
		for _, t := range Targets(r.Build) {
			if t == ref {
				newest = r
			}
		}
		return true
	}
	s.digested.Scan(consider)
	if newest != nil {
		return newest.Build.Digest
	}
	return s.Published(ref)
}

// publish makes a build that has succeeded the last success of its targets, unless a build that
// ended later has published there.
func (s *State) publish(r *buildsv1.Record) {
	if r.Build.Phase != Succeeded {
		return
	}
	for _, ref := range Targets(r.Build) {
		id, ok := s.published.Get(ref)
		if id == r.Build.Id {
			continue
		}
		last := s.Build(id)
		if ok && last != nil && (last.EndedIndex > r.EndedIndex || last.EndedIndex == r.EndedIndex && id > r.Build.Id) {
			s.superseded.Set(successKey(ref, r), r.Build.Id)
			continue
		}
		if ok && last != nil {
			s.superseded.Set(successKey(ref, last), id)
		}
		s.published.Set(ref, r.Build.Id)
	}
}

// unpublish removes a build that the history does not keep any more.
func (s *State) unpublish(r *buildsv1.Record) {
	for _, ref := range Targets(r.Build) {
		s.superseded.Delete(successKey(ref, r))
		if id, ok := s.published.Get(ref); !ok || id != r.Build.Id {
			continue
		}
		s.published.Delete(ref)
		// A build is left here only below publishedOrderLevel. A restored state finds it too.
		s.superseded.Descend(pairKey(ref, "\xff"), func(key, id string) bool {
			if strings.HasPrefix(key, pairKey(ref, "")) {
				s.superseded.Delete(key)
				s.published.Set(ref, id)
			}
			return false
		})
	}
}

// olderSuccess returns the first success of the refs of a build that ended before it, or nil.
func (s *State) olderSuccess(r *buildsv1.Record) (older *buildsv1.Record) {
	for _, ref := range Targets(r.Build) {
		s.superseded.Ascend(pairKey(ref, ""), func(key, id string) bool {
			if strings.HasPrefix(key, pairKey(ref, "")) && key < successKey(ref, r) {
				older = s.Build(id)
			}
			return false
		})
		if older != nil {
			break
		}
	}
	return older
}

// successKey returns the key of a success with a target ref.
func successKey(ref string, r *buildsv1.Record) string {
	return pairKey(ref, orderKey(r.EndedIndex)+r.Build.Id)
}
