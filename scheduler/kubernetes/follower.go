package kubernetes

import (
	"time"

	"go.opentelemetry.io/otel/trace"
	corev1 "k8s.io/api/core/v1"

	"github.com/image-builder-ha/image-builder/scheduler/kubernetes/podapi"
	"github.com/image-builder-ha/image-builder/scheduler/workload"
)

// follower follows one workload.
type follower struct {
	r            *Runtime
	w            *workload.Workload
	sink         startedSink
	pod          *corev1.Pod // newest known state
	job          *podapi.Job
	secret       *corev1.Secret // as last read or written
	sub          *podSub
	stream       *stream              // nil until the worker runs
	problemSince map[string]time.Time // start of each problem, by kind
	created      bool                 // the pod was created for this owner
}

// startedSink ends the trace span of the pod's start once the worker runs.
type startedSink struct {
	workload.Sink
	span trace.Span
}

// Running reports that the workload has started.
func (s startedSink) Running() {
	s.span.End()
	s.Sink.Running()
}
