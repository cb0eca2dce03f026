package wsmanager

import "github.com/image-builder-ha/image-builder/scheduler/workload"

// session is one Run of one workload.
type session struct {
	r    *Runtime
	w    *workload.Workload
	id   string
	sink workload.Sink
	me   *running

	watch  *watch
	before formerImage
	// last is the view at the end of the session.
	last view
}
