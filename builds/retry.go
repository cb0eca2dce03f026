package builds

import (
	"fmt"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// exhausted returns the reason why the build gets no further attempt, or "" if it gets one.
func (tx *change) exhausted(r *buildsv1.Record) string {
	if n := r.CountedAttempts; n >= max(tx.settings.Attempts, 1) {
		return fmt.Sprintf("gave up after %d attempts; the last one: ", n)
	}
	if n := r.UncountedAttempts; n >= max(tx.settings.UncountedAttempts, 1) {
		return fmt.Sprintf("gave up after %d attempts that ended with their node; the last one: ", n)
	}
	return ""
}

// backoff returns the pause after the nth counted attempt, in nanoseconds.
func (tx *change) backoff(n uint32) int64 {
	d := tx.settings.RetryBaseNanos
	for range min(n, 40) - 1 {
		d *= 2
		if d >= tx.settings.RetryMaxNanos {
			return tx.settings.RetryMaxNanos
		}
	}
	return d
}
