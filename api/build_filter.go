package api

import (
	"slices"

	"github.com/image-builder-ha/image-builder/builds"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// matches reports whether a build matches a filter.
func matches(f *imagebuilderv1.BuildFilter, b *imagebuilderv1.Build) bool {
	return matchesPhase(f, b) && matchesFixed(f, b)
}

// selection returns the part of the builds in which all matches of a filter are.
func selection(f *imagebuilderv1.BuildFilter) builds.Selection {
	return builds.Selection{
		Ref: f.GetRef(), Requester: f.GetRequester(),
		Active: len(f.GetPhases()) > 0 && !slices.ContainsFunc(f.Phases, builds.Terminal),
	}
}

// matchesPhase reports whether a build is in one of the phases of a filter.
func matchesPhase(f *imagebuilderv1.BuildFilter, b *imagebuilderv1.Build) bool {
	return len(f.GetPhases()) == 0 || slices.Contains(f.Phases, b.Phase)
}

// matchesFixed reports whether a build matches the other fields of a filter. They concern fields of
// the build that never change.
func matchesFixed(f *imagebuilderv1.BuildFilter, b *imagebuilderv1.Build) bool {
	if f == nil {
		return true
	}
	if (f.Requester != "" && f.Requester != b.Requester) || (f.Ref != "" && f.Ref != b.Ref) {
		return false
	}
	for k, v := range f.Labels {
		if got, ok := b.Labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}
