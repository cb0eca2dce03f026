package logs

import (
	"context"

	"github.com/image-builder-ha/image-builder/faults"
)

// maxDiskReads limits how many reads of the disk run at a time for callers that can give up. No more
// goroutines hang if the disk hangs.
const maxDiskReads = 64

// diskReads runs reads of a disk that may hang, so that a caller can give up.
type diskReads struct {
	slots  chan struct{} // one element for each read that runs
	closed chan struct{}
}

func newDiskReads() diskReads {
	return diskReads{make(chan struct{}, maxDiskReads), make(chan struct{})}
}

// do calls read and waits for its end. If ctx ends before, do returns the error of ctx. Then read may
// go on in its goroutine, which calls drop after it; if read has not begun, do calls drop instead. do
// returns nil only if it has waited for read. If ctx never ends, do calls read itself.
func (d diskReads) do(ctx context.Context, read, drop func()) error {
	if ctx.Done() == nil || faults.Mutant("reads-wait-for-the-disk") {
		read()
		return nil
	}
	select {
	case d.slots <- struct{}{}:
	case <-ctx.Done():
		drop()
		return ctx.Err()
	case <-d.closed:
		drop()
		return ErrClosed
	}
	done := make(chan struct{})
	go func() {
		defer func() { <-d.slots }()
		read()
		select {
		case done <- struct{}{}:
		case <-ctx.Done():
			drop()
		}
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// close waits for the reads that run. Later calls of do return ErrClosed.
func (d diskReads) close() {
	select {
	case <-d.closed:
		return
	default:
		close(d.closed)
	}
	for range maxDiskReads {
		d.slots <- struct{}{}
	}
}
