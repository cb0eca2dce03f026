package logs

import (
	"context"
	"fmt"
)

// maxPending is how much output may wait for the disk, in bytes. Writers block beyond it.
const maxPending = 1 << 20

// waitForRoom blocks until there is room for more output. It returns an error if the writer accepts
// none.
func (w *Writer) waitForRoom() error {
	for {
		w.mu.Lock()
		full, err, flushed := len(w.pending.records) >= maxPending, w.writeErr(), w.flushed
		w.mu.Unlock()
		if err != nil {
			w.l.store.sync.dirty(w, false) // retry the write: the disk may have room again
			return err
		}
		if !full {
			return nil
		}
		w.l.store.sync.dirty(w, true)
		select {
		case <-flushed:
		case <-w.l.store.sync.done:
			return ErrClosed
		}
	}
}

// drain waits until no output is pending and no flush is in progress.
func (w *Writer) drain(ctx context.Context) error {
	for tries := 0; ; tries++ {
		w.mu.Lock()
		left, err, flushed := w.flushing || len(w.pending.records) > 0, w.err, w.flushed
		w.mu.Unlock()
		if !left {
			return nil
		}
		if err != nil && tries > 1 {
			return err
		}
		w.l.store.sync.dirty(w, true)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-flushed:
		case <-w.l.store.sync.done:
			return ErrClosed
		}
	}
}

// awaitCopies waits until everything that is durable on this node is visible and, if position is
// set, all copies have the position. A runtime may drop the workload's output before the position
// then.
func (w *Writer) awaitCopies(ctx context.Context, position bool) error {
	for {
		w.l.mu.Lock()
		behind, removed, changed := w.l.length-w.l.visible, w.l.removed, w.l.wait()
		unheld := position && w.replicated && w.l.held != w.l.position()
		w.l.mu.Unlock()
		switch {
		case w.isFenced() || removed:
			return ErrFenced
		case behind <= 0 && !unheld:
			return nil
		}
		if err := w.l.store.Damage(w.l.key); err != nil {
			return fmt.Errorf("the end of the log cannot be copied: %w", err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the end of the log has no second copy: %w", ctx.Err())
		case <-changed:
		case <-w.l.store.sync.done:
			return ErrClosed
		}
	}
}
