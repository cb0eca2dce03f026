package buildkit

import "github.com/image-builder-ha/image-builder/scheduler/workload"

// solving is the state of one solve.
type solving struct {
	runtime  *Runtime
	w        *workload.Workload
	src      *source
	daemon   *endpoint
	policy   *policy
	progress *progress
	refused  error // refusal by this process, before the frontend ran
	parsed   bool  // the frontend has parsed the Dockerfile
}
