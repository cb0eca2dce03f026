package kubernetes

import "time"

// DeadlineGrace is how much longer than its deadline a build is followed.
const DeadlineGrace = deadlineGrace

// FastRetries makes pauses short.
func FastRetries(o *Options) { o.retryBase = time.Millisecond }

// Active counts the pods that have not ended.
func (r *Runtime) Active() int { return r.active() }
