package logs

import (
	"context"
	"errors"
	"sync"
)

// relayWindow is the size of the part of a log that a relay keeps for slower readers, in bytes.
const relayWindow = 1 << 20

// Upstream is a stream of a log on another node, from an offset on.
type Upstream interface {
	// Next blocks until there are more bytes. It returns io.EOF at the end of a complete log.
	Next(ctx context.Context) (chunk []byte, offset int64, err error)
	Close() error
}

// Dial opens a stream of a log on the node that owns it. ctx limits the whole stream.
type Dial func(ctx context.Context, offset int64) (Upstream, error)

// RelayKey identifies a relay: a log of the owner at an epoch.
type RelayKey struct {
	Key
	Epoch uint64
}

// Relays lets all readers of a log on another node share one stream from there.
type Relays struct {
	mu     sync.Mutex
	all    map[RelayKey]*relay
	closed bool
	done   sync.WaitGroup
}

// Close waits until all streams have ended. The caller closes all readers first. Open then returns
// ErrClosed.
func (h *Relays) Close() {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.done.Wait()
}

// relay reads its stream only while a reader waits at its end, so that the fastest reader sets the
// pace. A reader that is behind the window of the relay reads a stream of its own until it has
// caught up.
type relay struct {
	hub  *Relays
	key  RelayKey
	dial Dial
	ctx  context.Context
	stop context.CancelFunc

	mu         sync.Mutex
	readers    int
	buf        []byte // never overwritten, because readers share it
	base       int64  // offset of buf
	err        error
	dialFailed bool          // err is the error of dial
	dialed     chan struct{} // closed once dial has succeeded, or dialFailed is set
	changed    chan struct{} // closed and replaced at each change
	pull       chan struct{} // capacity 1
}

// Open returns a reader of a log from an offset on, once the stream to the owner is open. The
// caller closes the reader. ctx also limits the reader's own stream, see relay.
func (h *Relays) Open(ctx context.Context, key RelayKey, offset int64, dial Dial) (*RelayReader, error) {
	r := h.join(key, offset, dial)
	if r == nil {
		return nil, ErrClosed
	}
	rr := &RelayReader{r: r, ctx: ctx, offset: offset}
	select {
	case <-rr.r.dialed:
	case <-ctx.Done():
		return nil, errors.Join(ctx.Err(), rr.Close())
	}
	rr.r.mu.Lock()
	err, failed := rr.r.err, rr.r.dialFailed
	rr.r.mu.Unlock()
	if failed {
		return nil, errors.Join(err, rr.Close())
	}
	return rr, nil
}

// join returns the relay of a log with one more reader, or nil after Close.
func (h *Relays) join(key RelayKey, offset int64, dial Dial) *relay {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil
	}
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

// run reads the stream until an error, or until the last reader has closed.
func (r *relay) run() {
	up, err := r.dial(r.ctx, r.base)
	if err == nil {
		defer up.Close()
		close(r.dialed)
	} else {
		defer close(r.dialed) // deferred, so that err is set before
	}
	dialFailed := err != nil
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
	if r.hub.all[r.key] == r { // the next reader opens a new relay
		delete(r.hub.all, r.key)
	}
	r.hub.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err, r.dialFailed = err, dialFailed
	r.notify()
}

func (r *relay) notify() {
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
	r.notify()
}

// RelayReader is one reader of a relayed log. It is not safe for concurrent use.
type RelayReader struct {
	r      *relay
	ctx    context.Context
	offset int64
	own    Upstream // the reader's own stream, while the relay does not have the next bytes
	closed bool
}

// Next blocks until there are more bytes. The chunk is shared with other readers: do not change it.
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
			return rr.deliver(chunk[:min(len(chunk), maxChunk):min(len(chunk), maxChunk)])
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

// nextOwn reads from the reader's own stream and closes it once the relay has the next bytes.
func (rr *RelayReader) nextOwn(ctx context.Context) ([]byte, int64, error) {
	chunk, at, err := rr.own.Next(ctx)
	if err != nil {
		return nil, rr.offset, err
	}
	if skip := rr.offset - at; skip > 0 {
		chunk = chunk[min(skip, int64(len(chunk))):]
	}
	out, at, _ := rr.deliver(chunk)
	rr.r.mu.Lock()
	joins := rr.r.err == nil && rr.offset >= rr.r.base && rr.offset <= rr.r.base+int64(len(rr.r.buf))
	rr.r.mu.Unlock()
	if joins {
		_ = rr.own.Close()
		rr.own = nil
	}
	return out, at, nil
}

func (rr *RelayReader) deliver(chunk []byte) ([]byte, int64, error) {
	at := rr.offset
	rr.offset += int64(len(chunk))
	return chunk, at, nil
}

// Close closes the reader. Closing the last reader ends the relay's stream.
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
