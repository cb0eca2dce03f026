package builds

import buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"

// deadlineRuns reports whether a build ends at its deadline. The deadline of a successor begins
// when the successor becomes the active build of its image. Its wait ends with the former build, at
// the deadline of that one.
func (s *State) deadlineRuns(r *buildsv1.Record) bool {
	return !r.Successor || s.level < successorDeadlineLevel
}

// deadlineKey returns the key of a record in the order of deadlines.
func deadlineKey(r *buildsv1.Record) string {
	return timeKey(r.Build.GetDeadline().AsTime().UnixNano()) + r.Build.Id
}
