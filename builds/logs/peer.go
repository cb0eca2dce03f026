package logs

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

// wake adds a log to those that have data for a node, and starts the node's peer if needed.
func (r *Replicator) wake(c Copy, key Key) {
	r.mu.Lock()
	p := r.peers[c]
	if p == nil {
		if r.ctx.Err() != nil {
			r.mu.Unlock()
			return
		}
		p = &peer{r: r, to: c, pending: map[Key]bool{}, wakeup: make(chan struct{}, 1)}
		r.peers[c] = p
		r.done.Go(p.run)
	}
	r.mu.Unlock()
	p.mu.Lock()
	p.pending[key] = true
	p.mu.Unlock()
	p.notify()
}

func (p *peer) notify() {
	select {
	case p.wakeup <- struct{}{}:
	default:
	}
}

// run sends batches until the replicator closes. After an error it waits, longer after each one.
func (p *peer) run() {
	delay := retryMin
	for {
		select {
		case <-p.r.ctx.Done():
			return
		case <-p.wakeup:
		}
		for p.r.ctx.Err() == nil {
			sent, err := p.send()
			if err == nil {
				delay = retryMin
				if !sent {
					break
				}
				continue
			}
			pause(p.r.ctx, delay/2+rand.N(delay))
			delay = min(2*delay, retryMax)
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// dequeue removes and returns at most batchLogs logs that have data to send.
func (p *peer) dequeue() (keys []Key) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key := range p.pending {
		if len(keys) == batchLogs {
			break
		}
		delete(p.pending, key)
		keys = append(keys, key)
	}
	return keys
}

func (p *peer) requeue(key Key) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pending[key] = true
}

// collect returns the next batch, with one Append for each log, and the feed of each. err is a
// temporary error of reading a log, which stays queued.
func (p *peer) collect() (feeds []*Feed, batch []Append, err error) {
	size := 0
	for _, key := range p.dequeue() {
		if size >= batchBytes {
			p.requeue(key)
			continue
		}
		p.r.mu.Lock()
		f := p.r.feeds[key]
		p.r.mu.Unlock()
		if f == nil {
			continue
		}
		a, more, rerr := f.next(p.to)
		if rerr != nil {
			p.r.log.Error("cannot read a log that must be copied", "build", key.Build, "attempt", key.Attempt, "err", rerr)
			if !errors.Is(rerr, ErrDamaged) { // the next read may succeed
				p.requeue(key)
				err = rerr
			}
			continue
		}
		if more {
			feeds, batch = append(feeds, f), append(batch, a)
			size += len(a.Records)
		}
	}
	return feeds, batch, err
}

// send sends one batch. It reports whether there was anything to send.
func (p *peer) send() (bool, error) {
	feeds, batch, unread := p.collect()
	if len(batch) == 0 {
		return false, unread
	}
	ctx, cancel := context.WithTimeout(p.r.ctx, appendTimeout)
	defer cancel()
	began := time.Now()
	acks, err := p.r.to.Append(ctx, p.to, batch)
	if err != nil {
		for _, f := range feeds {
			f.failed(p.to)
		}
		p.requeueAll(feeds)
		return true, err
	}
	sent, taken := 0, 0
	for i, f := range feeds {
		if f.acked(p.to, batch[i], acks[i]) {
			p.requeueAll(feeds[i : i+1])
		}
		sent += len(batch[i].Records)
		if acks[i].Refusal == nil && acks[i].Length >= batch[i].Offset {
			taken += len(batch[i].Records)
		}
	}
	p.r.store.metrics.copied.Add(float64(taken))
	p.r.store.metrics.sent.WithLabelValues(p.to.Node).Add(float64(sent))
	p.r.store.metrics.copying.WithLabelValues(p.to.Node).Observe(time.Since(began).Seconds())
	return true, unread
}

func (p *peer) requeueAll(feeds []*Feed) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range feeds {
		p.pending[f.key] = true
	}
}
