package peer

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/cespare/xxhash/v2"

	"github.com/image-builder-ha/image-builder/builds/logs"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Damaged answers the logs of which this node's copy was found to be damaged, or
// not all of a complete one, and a channel that is closed when there are more.
func (l *Logs) Damaged() (keys []logs.Key, more <-chan struct{}) { return l.store.Damaged() }

// RemoveDamaged deletes this node's copy of a log if it is one of Damaged still:
// it may have been copied anew meanwhile.
func (l *Logs) RemoveDamaged(key logs.Key) error { return l.store.RemoveDamaged(key) }

// Whole reads the copy of a complete log that another node holds. It answers nil
// if that is what was sealed.
func (l *Logs) Whole(ctx context.Context, key logs.Key, sealed *imagebuilderv1.AttemptLog, at *imagebuilderv1.LogCopy) error {
	stream, err := l.open(ctx, key, at, 0)
	if err != nil {
		return err
	}
	defer stream.Close()
	sum, length := xxhash.New(), int64(0)
	for {
		chunk, _, err := stream.Next(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		_, _ = sum.Write(chunk)
		length += int64(len(chunk))
	}
	if got := fmt.Sprintf("xxh64:%016x", sum.Sum64()); length != sealed.Length || got != sealed.Checksum {
		return fmt.Errorf("node %s has %d bytes (%s) of a log of %d bytes (%s): %w", at.Node, length, got, sealed.Length, sealed.Checksum, logs.ErrDamaged)
	}
	return nil
}
