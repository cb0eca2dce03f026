package buildkit

import (
	"context"
	"errors"
	"time"
)

// SetWatch sets the interval at which r pings its daemons.
func SetWatch(r *Runtime, every time.Duration) { r.watchInterval = every }

// ReadRefs exports readRefs for fuzzing.
var ReadRefs = readRefs

// Forget removes the history of ended solves from all daemons of r.
func Forget(ctx context.Context, r *Runtime) (err error) {
	for _, e := range r.pool.daemons {
		err = errors.Join(err, e.deleteHistory(ctx))
	}
	return err
}
