package api

import (
	"context"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/faults"

	"github.com/google/uuid"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// mutated answers a creation as a defect would that tests switch on, to make
// sure that they find it. Without the build tag faults there are no defects.
func (s *Service) mutated(c *buildsv1.CreateBuild) (admission, bool) {
	switch {
	case faults.Mutant("acknowledge-before-commit"):
		c.Id = uuid.NewString()
		go func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			_, _, _ = builds.Propose(ctx, s.raft, c)
		}()
		return admission{build: &imagebuilderv1.Build{Id: c.Id, Ref: c.Ref, Phase: builds.Queued}}, true
	case faults.Mutant("dedupe-outside-apply"):
		var r *buildsv1.Record
		s.store.Read(func(st *builds.State) { r = st.Active(c.Ref) })
		if r != nil {
			return admission{build: r.Build, attached: true}, true
		}
	}
	return admission{}, false
}
