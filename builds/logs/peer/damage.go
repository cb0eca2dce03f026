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

// Damaged returns the logs whose copy on this node was found to be damaged, or too short for a
// complete log, and was not removed since. more is closed when another log is found.
func (l *Logs) Damaged() (keys []logs.Key, more <-chan struct{}) { return l.store.Damaged() }

// RemoveDamaged deletes this node's copy of a log if Damaged still returns it. It keeps a copy that
// was made in the meantime.
func (l *Logs) RemoveDamaged(key logs.Key) error { return l.store.RemoveDamaged(key) }

// VerifyCopy reads the copy of a complete log on another node. It returns nil if the copy has the
// length and the checksum of sealed.
func (l *Logs) VerifyCopy(ctx context.Context, key logs.Key, sealed *imagebuilderv1.AttemptLog, at *imagebuilderv1.LogCopy) error {
	stream, err := l.openRemote(ctx, key, at, 0)
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
