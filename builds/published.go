package builds

import (
	"slices"

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
func (s *State) Published(ref string) (digest string) {
	last := publication{refHash(ref), &entry{ended: lastIndex}}
	s.published.Descend(last, func(p publication) bool {
		if p.ref != last.ref {
			return false
		}
		b := p.build.get().Build
		if slices.Contains(Targets(b), ref) {
			digest = b.Digest
			return false
		}
		return true
	})
	return digest
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

// publish stores the targets of a build if it has succeeded.
func (s *State) publish(e *entry, r *buildsv1.Record) {
	if r.Build.Phase != Succeeded {
		return
	}
	for _, ref := range Targets(r.Build) {
		s.published.Set(publication{refHash(ref), e})
	}
}

// unpublish removes a build that the history does not keep any more.
func (s *State) unpublish(e *entry, r *buildsv1.Record) {
	if r.Build.Phase != Succeeded {
		return
	}
	for _, ref := range Targets(r.Build) {
		s.published.Delete(publication{refHash(ref), e})
	}
}

// olderSuccess returns the first success of the refs of a success that ended before it, or nil. A
// build that did not succeed has published nothing, so its removal needs no order.
func (s *State) olderSuccess(r *buildsv1.Record) (older *buildsv1.Record) {
	if r.Build.Phase != Succeeded {
		return nil
	}
	build := s.builds.entry(r.Build.Id)
	for _, ref := range Targets(r.Build) {
		first := publication{refHash(ref), &entry{}}
		s.published.Ascend(first, func(p publication) bool {
			if p.ref != first.ref || !orderByEnd(p.build, build) {
				return false
			}
			if b := p.build.get(); slices.Contains(Targets(b.Build), ref) {
				older = b
			}
			return older == nil
		})
		if older != nil {
			break
		}
	}
	return older
}
