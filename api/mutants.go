package api

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/faults"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// mutated returns the result of a creation with a defect that a test has switched on, to prove that
// tests find it. ok is false if none is switched on. Only binaries with the build tag faults have
// defects.
func (s *Service) mutated(c *buildsv1.CreateBuild) (res buildResult, ok bool) {
	switch {
	case faults.Mutant("acknowledge-before-commit"):
		c.Id = uuid.NewString()
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			_, _, _ = builds.Propose(ctx, s.raft, c)
		}()
		return buildResult{build: &imagebuilderv1.Build{Id: c.Id, Ref: c.Ref, Phase: builds.Queued}}, true
	case faults.Mutant("dedupe-outside-apply"):
		var r *buildsv1.Record
		s.store.Read(func(st *builds.State) { r = st.Active(c.Ref) })
		if r != nil {
			return buildResult{build: r.Build, attached: true}, true
		}
	}
	return buildResult{}, false
}
