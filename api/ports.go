package api

import (
	"context"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// Raft is the replicated log and the freshness of the local state.
type Raft interface {
	builds.Raft
	// Freshness returns the index of the local state, whether a leader is known, and the time since
	// the last contact with the leader.
	Freshness() (index uint64, leaderKnown bool, staleness time.Duration)
}

// Registry looks up images. Its errors are *builds.ImageError.
type Registry interface {
	// Resolve returns the image of a reference. Of an index it returns the manifest of the
	// platform, which is linux/amd64 if it is empty.
	Resolve(ctx context.Context, ref, platform string, rights *buildsv1.Rights) (builds.Image, error)
	// Head returns the image of a reference. Of an index it returns the index itself.
	Head(ctx context.Context, ref string, rights *buildsv1.Rights) (builds.Image, error)
}

// LogReader opens logs of attempts.
type LogReader interface {
	// OpenLog returns a stream of a log from an offset on, wherever the log is stored. With follow
	// the caller reads to the end of the log, else only up to its Length. ctx limits the whole
	// stream. The caller closes the stream.
	//
	// The error is builds.ErrNotFound if the attempt has no log or none yet, builds.ErrLogAway if
	// no node that stores it can be reached, and builds.ErrLogDamaged if all copies are damaged
	// or missing.
	OpenLog(ctx context.Context, build string, attempt uint32, offset int64, follow bool) (logs.Stream, error)
}

// Contexts stores uploaded build contexts where every node can fetch them.
type Contexts interface {
	// Exists reports whether a context is stored.
	Exists(ctx context.Context, digest string) (bool, error)
	// Put stores the file at path under its digest, which the caller has checked.
	Put(ctx context.Context, digest, path string) error
}
