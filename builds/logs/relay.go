package logs

import (
	"context"
	"errors"
	"sync"
)

// relayWindow is how much of a log a relay keeps for readers that are not all
// equally fast, in bytes.
const relayWindow = 1 << 20

// Upstream is a log on another node, from an offset on.
type Upstream interface {
	// Next blocks for the next bytes; io.EOF says that the log is complete.
	Next(ctx context.Context) (chunk []byte, offset int64, err error)
	Close() error
}

// Dial opens a log on the node that owns it. ctx bounds the stream.
type Dial func(ctx context.Context, offset int64) (Upstream, error)

// RelayKey names what a relay brings: the log as its owner at an epoch has it.
type RelayKey struct {
	Key
	Epoch uint64
}

// Relays let all readers of a log that is on another node share one stream
// from there.
type Relays struct {
	mu   sync.Mutex
	all  map[RelayKey]*relay
	done sync.WaitGroup
}

// Close waits until all streams have ended; their readers must be closed.
func (h *Relays) Close() { h.done.Wait() }

// relay pulls when a reader waits at its end, so that the fastest one sets the
// pace. Readers that fall out of its window read on their own for a while.
type relay struct {
	hub  *Relays
	key  RelayKey
	dial Dial
	ctx  context.Context
	stop context.CancelFunc

	mu      sync.Mutex
	readers int
	buf     []byte // never overwritten: readers share it
	base    int64  // offset of buf
	err     error
	refused bool          // the owner did not answer
	dialed  chan struct{} // closed once it did, or refused is set
	changed chan struct{} // closed and replaced at each change
	pull    chan struct{} // capacity 1
}

// Open answers a reader of a log from an offset on, which must be closed, once
// the owner has answered. ctx bounds all that it reads.
func (h *Relays) Open(ctx context.Context, key RelayKey, offset int64, dial Dial) (*RelayReader, error) {
	rr := &RelayReader{r: h.join(key, offset, dial), ctx: ctx, offset: offset}
	select {
	case <-rr.r.dialed:
	case <-ctx.Done():
		return nil, errors.Join(ctx.Err(), rr.Close())
	}
	rr.r.mu.Lock()
	err, none := rr.r.err, rr.r.refused
	rr.r.mu.Unlock()
	if none {
		return nil, errors.Join(err, rr.Close())
	}
	return rr, nil
}

func (h *Relays) join(key RelayKey, offset int64, dial Dial) *relay {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.all[key]
	if r == nil {
		r = &relay{hub: h, key: key, dial: dial, base: offset, changed: make(chan struct{}), pull: make(chan struct{}, 1), dialed: make(chan struct{})}
		r.ctx, r.stop = context.WithCancel(context.Background())
		if h.all == nil {
			h.all = map[RelayKey]*relay{}
		}
		h.all[key] = r
		h.done.Go(r.run)
	}
	r.mu.Lock()
	r.readers++
	r.mu.Unlock()
	return r
}

// run ends when the last reader has closed, which cancels its context.
func (r *relay) run() {
	up, err := r.dial(r.ctx, r.base)
	if err == nil {
		defer up.Close()
		close(r.dialed)
	} else {
		defer close(r.dialed) // after err is set
	}
	refused := err != nil
	for err == nil {
		select {
		case <-r.ctx.Done():
			err = r.ctx.Err()
			continue
		case <-r.pull:
		}
		var chunk []byte
		var at int64
		if chunk, at, err = up.Next(r.ctx); err == nil {
			r.add(chunk, at)
		}
	}
	r.hub.mu.Lock()
	if r.hub.all[r.key] == r { // the next reader tries anew
		delete(r.hub.all, r.key)
	}
	r.hub.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err, r.refused = err, refused
	r.tell()
}

func (r *relay) tell() {
	close(r.changed)
	r.changed = make(chan struct{})
}

func (r *relay) add(chunk []byte, at int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if skip := r.base + int64(len(r.buf)) - at; skip > 0 {
		chunk = chunk[min(skip, int64(len(chunk))):]
	}
	if len(r.buf)+len(chunk) > cap(r.buf) {
		keep := r.buf[max(len(r.buf)-relayWindow, 0):]
		buf := make([]byte, len(keep), 2*(len(keep)+len(chunk)))
		copy(buf, keep)
		r.base += int64(len(r.buf) - len(keep))
		r.buf = buf
	}
	r.buf = append(r.buf, chunk...)
	r.tell()
}

// RelayReader is one reader of a relayed log. It is for one goroutine.
type RelayReader struct {
	r      *relay
	ctx    context.Context
	offset int64
	own    Upstream // while the relay does not have what comes next
	closed bool
}

// Next blocks for the next bytes. The chunk is shared: it must not be changed.
func (rr *RelayReader) Next(ctx context.Context) (chunk []byte, offset int64, err error) {
	for {
		if rr.own != nil {
			return rr.nextOwn(ctx)
		}
		r := rr.r
		r.mu.Lock()
		end := r.base + int64(len(r.buf))
		switch {
		case rr.offset >= r.base && rr.offset < end:
			chunk = r.buf[rr.offset-r.base:]
			r.mu.Unlock()
			return rr.answer(chunk[:min(len(chunk), maxChunk):min(len(chunk), maxChunk)])
		case rr.offset == end && r.err != nil:
			defer r.mu.Unlock()
			return nil, rr.offset, r.err
		case rr.offset == end:
			changed := r.changed
			r.mu.Unlock()
			select {
			case r.pull <- struct{}{}:
			default:
			}
			select {
			case <-ctx.Done():
				return nil, rr.offset, ctx.Err()
			case <-changed:
			}
		default:
			r.mu.Unlock()
			if rr.own, err = r.dial(rr.ctx, rr.offset); err != nil {
				return nil, rr.offset, err
			}
		}
	}
}

// nextOwn reads the reader's own stream until the relay has what follows.
func (rr *RelayReader) nextOwn(ctx context.Context) ([]byte, int64, error) {
	chunk, at, err := rr.own.Next(ctx)
	if err != nil {
		return nil, rr.offset, err
	}
	if skip := rr.offset - at; skip > 0 {
		chunk = chunk[min(skip, int64(len(chunk))):]
	}
	out, at, _ := rr.answer(chunk)
	rr.r.mu.Lock()
	joins := rr.r.err == nil && rr.offset >= rr.r.base && rr.offset <= rr.r.base+int64(len(rr.r.buf))
	rr.r.mu.Unlock()
	if joins {
		_ = rr.own.Close()
		rr.own = nil
	}
	return out, at, nil
}

func (rr *RelayReader) answer(chunk []byte) ([]byte, int64, error) {
	at := rr.offset
	rr.offset += int64(len(chunk))
	return chunk, at, nil
}

// Close ends the reader, and the stream from the other node with the last one.
func (rr *RelayReader) Close() error {
	if rr.closed {
		return nil
	}
	rr.closed = true
	var err error
	if rr.own != nil {
		err = rr.own.Close()
	}
	h := rr.r.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	rr.r.mu.Lock()
	defer rr.r.mu.Unlock()
	if rr.r.readers--; rr.r.readers == 0 {
		rr.r.stop()
		if h.all[rr.r.key] == rr.r {
			delete(h.all, rr.r.key)
		}
	}
	return err
}
