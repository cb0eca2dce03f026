package builds

import (
	"context"
	"sync"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// BuildWatch follows one build. It keeps only the latest version, so that a slow reader neither
// blocks the state nor uses memory. The caller closes it.
type BuildWatch struct {
	remove func(*BuildWatch)

	mu      sync.Mutex
	latest  *buildsv1.Record
	changed chan struct{} // capacity 1
}

// newBuildWatch returns a watch whose Close calls remove.
func newBuildWatch(remove func(*BuildWatch)) *BuildWatch {
	return &BuildWatch{remove: remove, changed: make(chan struct{}, 1)}
}

// set replaces the latest version. nil means that a restored state does not have the build.
func (w *BuildWatch) set(r *buildsv1.Record) {
	w.mu.Lock()
	w.latest = r
	w.mu.Unlock()
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// Next blocks until there is a version of the build that it has not returned yet, and returns the
// newest one. It returns the terminal version even if retention has removed the build meanwhile,
// and ErrResubscribe if a restored state does not have the build.
func (w *BuildWatch) Next(ctx context.Context) (*buildsv1.Record, error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-w.changed:
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.latest == nil {
		return nil, ErrResubscribe
	}
	return w.latest, nil
}

// Latest returns the newest version without waiting, or nil if a restored state does not have the
// build.
func (w *BuildWatch) Latest() *buildsv1.Record {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.latest
}

// Close ends the watch.
func (w *BuildWatch) Close() { w.remove(w) }
