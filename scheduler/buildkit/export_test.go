package buildkit

import "time"

// SetWatch makes r ask its daemons more often whether they live.
func SetWatch(r *Runtime, every time.Duration) { r.watchEvery = every }

// ReadRefs is for fuzzing.
var ReadRefs = readRefs
