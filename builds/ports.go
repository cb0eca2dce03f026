package builds

import (
	"context"
	"errors"
	"time"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// Raft is what the domain needs of the replicated log.
type Raft interface {
	// Propose commits a command, through the leader, and answers the index and
	// result of its application.
	Propose(ctx context.Context, cmd *clusterv1.Command) (index uint64, result any, err error)
	// ReadIndex answers an index such that a state at or after it holds
	// everything that was acknowledged before the call.
	ReadIndex(ctx context.Context) (uint64, error)
	// WaitApplied blocks until the local state reached an index.
	WaitApplied(ctx context.Context, index uint64) error
	// Freshness tells how current the local state is: its index, whether a
	// leader is known, and how long ago it was heard.
	Freshness() (index uint64, leaderKnown bool, staleness time.Duration)
}

// Registry is what the domain needs of image registries. Errors are
// *ImageError.
type Registry interface {
	// Resolve answers the digest form of a reference, of an index the manifest
	// of the platform (linux/amd64 if empty).
	Resolve(ctx context.Context, ref, platform string, rights *buildsv1.Rights) (Image, error)
	// Head answers the image at exactly this ref.
	Head(ctx context.Context, ref string, rights *buildsv1.Rights) (Image, error)
}

// Image is an image in a registry.
type Image struct {
	// Ref is the docker-normalized digest form of the reference.
	Ref       string
	Digest    string
	SizeBytes int64
}

// ImageErrorKind says why a registry gave no image.
type ImageErrorKind int

// Kinds of image errors.
const (
	ImageInvalid      ImageErrorKind = iota + 1 // the reference is malformed or its host is refused
	ImageNotFound                               // the registry does not have it
	ImageUnauthorized                           // the request's rights do not reach
	ImageUnavailable                            // the registry cannot be asked now
)

// ImageError is a registry's refusal. Its text names the image and holds no
// credential.
type ImageError struct {
	Kind ImageErrorKind
	Ref  string
	Err  error
}

// Error tells what happened to which image.
func (e *ImageError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *ImageError) Unwrap() error { return e.Err }

// LogReader opens logs of attempts.
type LogReader interface {
	// OpenLog answers a stream of the log from an offset on, wherever it is
	// kept; ErrNotFound if the attempt has no log (yet), ErrLogAway if the node
	// that keeps it cannot be asked, ErrLogDamaged if all of them have it and
	// none can read it. ctx bounds the stream. Who follows reads to
	// the end of the log, all others up to its Length.
	OpenLog(ctx context.Context, build string, attempt uint32, offset int64, follow bool) (LogStream, error)
}

// LogStream is one reader of one log.
type LogStream interface {
	// Next blocks for the next bytes. io.EOF says that the log is complete and
	// was read to its end. The chunk must not be changed.
	Next(ctx context.Context) (chunk []byte, offset int64, err error)
	// Length is the number of bytes that can be read without waiting.
	Length() int64
	Close() error
}

// ImageErrorKindOf answers the kind of an image error, 0 for any other.
func ImageErrorKindOf(err error) ImageErrorKind {
	var e *ImageError
	if errors.As(err, &e) {
		return e.Kind
	}
	return 0
}
