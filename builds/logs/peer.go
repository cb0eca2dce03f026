package logs

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"
)

// peer sends what logs have for one node, one batch at a time.
type peer struct {
	r  *Replicator
	to Copy

	mu   sync.Mutex
	todo map[Key]bool
	news chan struct{} // capacity 1
}

// wake tells that a log has something for a node.
func (r *Replicator) wake(c Copy, key Key) {
	r.mu.Lock()
	p := r.peers[c]
	if p == nil {
		if r.ctx.Err() != nil {
			r.mu.Unlock()
			return
		}
		p = &peer{r: r, to: c, todo: map[Key]bool{}, news: make(chan struct{}, 1)}
		r.peers[c] = p
		r.done.Go(p.run)
	}
	r.mu.Unlock()
	p.mu.Lock()
	p.todo[key] = true
	p.mu.Unlock()
	p.tell()
}

func (p *peer) tell() {
	select {
	case p.news <- struct{}{}:
	default:
	}
}

// run sends until the replicator closes, or nothing was to send for a while.
func (p *peer) run() {
	delay := retryMin
	for {
		select {
		case <-p.r.ctx.Done():
			return
		case <-p.news:
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
			rest(p.r.ctx, delay/2+rand.N(delay))
			delay = min(2*delay, retryMax)
		}
	}
}

func rest(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// take answers logs that have something to send, each once.
func (p *peer) take() (keys []Key) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key := range p.todo {
		if len(keys) == batchLogs {
			break
		}
		delete(p.todo, key)
		keys = append(keys, key)
	}
	return keys
}

func (p *peer) later(key Key) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.todo[key] = true
}

// collect takes what is to send now, of each log once. An error is one of reading
// logs, which are asked again.
func (p *peer) collect() (feeds []*Feed, batch []Append, err error) {
	size := 0
	for _, key := range p.take() {
		if size >= batchBytes {
			p.later(key)
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
			p.r.log.Error("cannot read a log that has to be copied", "build", key.Build, "attempt", key.Attempt, "err", rerr)
			if !errors.Is(rerr, ErrDamaged) { // the disk may answer the next time
				p.later(key)
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
	ctx, cancel := context.WithTimeout(p.r.ctx, appendTime)
	defer cancel()
	began := time.Now()
	acks, err := p.r.to.Append(ctx, p.to, batch)
	if err != nil {
		for _, f := range feeds {
			f.failed(p.to)
		}
		p.again(feeds)
		return true, err
	}
	sent, taken := 0, 0
	for i, f := range feeds {
		if f.acked(p.to, batch[i], acks[i]) {
			p.again(feeds[i : i+1])
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

func (p *peer) again(feeds []*Feed) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range feeds {
		p.todo[f.key] = true
	}
}
