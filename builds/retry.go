package builds

import (
	"fmt"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
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

// pause returns the pause after an attempt that has ended, in nanoseconds. ok is false if the next
// attempt starts at once: after the first uncounted attempt of a build, because mostly a node was
// lost and another one can continue. Each further uncounted attempt doubles the pause.
func (tx *change) pause(r *buildsv1.Record, a *imagebuilderv1.Attempt) (nanos int64, ok bool) {
	switch {
	case a.Counted:
		return tx.backoff(r.CountedAttempts), true
	case tx.level >= uncountedPauseLevel && r.UncountedAttempts > 1:
		return tx.backoff(r.UncountedAttempts - 1), true
	}
	return 0, false
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
