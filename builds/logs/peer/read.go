package peer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
	"github.com/image-builder-ha/image-builder/faults"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// OpenLog implements builds.LogReader. It opens the log of a live attempt on its owner, and a
// complete log on any node that holds a copy.
func (l *Logs) OpenLog(ctx context.Context, build string, attempt uint32, offset int64, follow bool) (logs.Stream, error) {
	key := logs.Key{Build: build, Attempt: attempt}
	a := l.attempt(key)
	if a == nil {
		return nil, builds.ErrNotFound
	}
	owner := &imagebuilderv1.LogCopy{Node: a.Owner, StoreId: a.OwnerStoreId}
	switch a.GetLog().GetState() {
	case builds.LogSealed:
		return l.openCopy(ctx, key, a, offset)
	case builds.LogSealing:
		return nil, fmt.Errorf("%w: the owner of attempt %d has ended, and its log is being sealed", builds.ErrLogAway, attempt)
	}
	if l.isHere(owner) {
		return l.openLocal(ctx, key, offset)
	}
	if !follow { // reads up to the length that the owner reports now
		return l.openRemote(ctx, key, owner, offset)
	}
	dial := func(ctx context.Context, offset int64) (logs.Upstream, error) {
		stream, err := l.openRemote(ctx, key, owner, offset)
		if err != nil {
			return nil, err
		}
		return stream, nil
	}
	rr, err := l.relays.Open(ctx, logs.RelayKey{Key: key, Epoch: a.Epoch}, offset, dial)
	if errors.Is(err, logs.ErrClosed) {
		err = fmt.Errorf("%w (node %s): %w", builds.ErrLogAway, l.opts.Node, err)
	}
	if err != nil {
		return nil, err
	}
	return relayed{rr}, nil
}

// openCopy opens a complete log. It tries this node first if it holds a copy, then the other nodes. It
// returns ErrLogDamaged if no node of the set can have an undamaged copy.
func (l *Logs) openCopy(ctx context.Context, key logs.Key, a *imagebuilderv1.Attempt, offset int64) (logs.Stream, error) {
	if a.Log.Length == 0 {
		return emptyLog{}, nil
	}
	var errs []error
	if l.hasCopy(a) {
		stream, err := l.openLocal(ctx, key, offset)
		if err == nil {
			return stream, nil
		}
		errs = append(errs, err)
	}
	for _, c := range builds.CopiesOf(a) {
		if l.isHere(c) {
			continue
		}
		if err := l.gone(c); err != nil {
			errs = append(errs, err)
			continue
		}
		stream, err := l.openRemote(ctx, key, c, offset)
		if err == nil && stream.Length() != a.Log.Length {
			_ = stream.Close() // the node does not know yet that the log is complete
			err = fmt.Errorf("%w (node %s): its copy is not complete", builds.ErrLogAway, c.Node)
		}
		if err == nil {
			return stream, nil
		}
		errs = append(errs, err)
	}
	reason := builds.ErrLogAway
	if !slices.ContainsFunc(errs, func(err error) bool { return !errors.Is(err, builds.ErrLogDamaged) }) {
		reason = builds.ErrLogDamaged
	}
	// The errors are not wrapped: ErrNotFound of one node does not mean that there is no log.
	return nil, fmt.Errorf("%w: %s", reason, joined(errs))
}

// openRemote opens a log on another node.
func (l *Logs) openRemote(ctx context.Context, key logs.Key, at *imagebuilderv1.LogCopy, offset int64) (*remoteLog, error) {
	conn, err := l.opts.Conn(at.Node, at.StoreId)
	if err != nil {
		return nil, fmt.Errorf("%w (node %s): %w", builds.ErrLogAway, at.Node, err)
	}
	return dialRemote(ctx, conn, at.Node, key, offset)
}

// openLocal opens this node's copy of a log. It first completes the copy if the log is sealed. It
// returns ErrLogAway if the disk of this node does not respond, because another copy may be readable.
func (l *Logs) openLocal(ctx context.Context, key logs.Key, offset int64) (logs.Stream, error) {
	within, cancel := context.WithTimeout(ctx, localTimeout)
	defer cancel()
	stream, err := l.openWithin(within, key, offset)
	switch {
	case err == nil:
		return stream, nil
	case within.Err() != nil && ctx.Err() == nil:
		return nil, fmt.Errorf("%w (node %s): its disk has not responded for %v", builds.ErrLogAway, l.opts.Node, localTimeout)
	case errors.Is(err, logs.ErrNotFound):
		return nil, builds.ErrNotFound
	case errors.Is(err, logs.ErrDamaged), errors.Is(err, logs.ErrShort) && !faults.Mutant("a-missing-log-is-away"):
		return nil, damagedOn(l.opts.Node, err)
	}
	return nil, fmt.Errorf("%w (node %s): %w", builds.ErrLogAway, l.opts.Node, err)
}

// openWithin is openLocal with the errors of the store.
func (l *Logs) openWithin(ctx context.Context, key logs.Key, offset int64) (logs.Stream, error) {
	length, complete, err := l.store.Length(ctx, key)
	if err != nil && ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if a := l.attempt(key); a.GetLog().GetState() == builds.LogSealed {
		if !complete && !l.hasCopy(a) {
			// The state of the reader is behind: the copy was given up, and may be written again.
			return nil, logs.ErrNotFound
		}
		if err := l.store.Damage(key); err != nil {
			return nil, err
		}
		if !complete || length != a.Log.Length {
			if err := l.completeWithin(ctx, key, a.Log.Length); err != nil {
				return nil, err
			}
			length, complete, err = l.store.Length(ctx, key)
		}
	}
	if err != nil {
		return nil, err
	}
	r, err := l.store.LiveReader(ctx, key, offset)
	if err != nil {
		return nil, err
	}
	return localLog{r, length, complete}, nil
}

// localLog is a stream of a log on this node.
type localLog struct {
	*logs.Reader
	length   int64
	complete bool
}

// Length implements logs.Stream.
func (l localLog) Length() int64 { return l.length }

// Next implements logs.Stream. It returns ErrLogAway once the log was removed from this node or is
// not written here any more. It also returns ErrLogAway if a complete log turns out to be damaged
// after it was opened, because another copy may be intact.
func (l localLog) Next(ctx context.Context) ([]byte, int64, error) {
	chunk, at, err := l.Reader.Next(ctx)
	if errors.Is(err, logs.ErrNotFound) || errors.Is(err, logs.ErrMoved) {
		err = builds.ErrLogAway
	}
	switch {
	case !errors.Is(err, logs.ErrDamaged):
	case l.complete:
		err = fmt.Errorf("%w: %w", builds.ErrLogAway, err)
	default:
		err = fmt.Errorf("%w: %w", builds.ErrLogDamaged, err)
	}
	return chunk, at, err
}

// emptyLog is a complete log of zero bytes. No node has a file for it.
type emptyLog struct{}

func (emptyLog) Length() int64                               { return 0 }
func (emptyLog) Next(context.Context) ([]byte, int64, error) { return nil, 0, io.EOF }
func (emptyLog) Close() error                                { return nil }

// relayed is a reader of a stream that several readers on this node share. The caller follows it to
// the end of the log, so it needs no length.
type relayed struct{ *logs.RelayReader }

// Length implements logs.Stream.
func (relayed) Length() int64 { return 0 }
