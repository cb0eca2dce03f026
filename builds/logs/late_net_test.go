package logs_test

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/image-builder-ha/image-builder/builds/logs"
)

// lateNet is a wire on which requests and responses take time. A request that is delayed beyond its
// timeout still arrives, after those that were sent later.
type lateNet struct {
	*wire
	// delay returns the times that one request and its response take.
	delay func() (request, response time.Duration)

	late sync.WaitGroup
}

func (n *lateNet) Append(ctx context.Context, to logs.Copy, batch []logs.Append) ([]logs.Ack, error) {
	batch = slices.Clone(batch)
	for i := range batch {
		batch[i].Records = bytes.Clone(batch[i].Records)
	}
	type result struct {
		acks []logs.Ack
		err  error
	}
	request, response := n.delay()
	done := make(chan result, 1)
	n.late.Go(func() {
		time.Sleep(request)
		acks, err := n.wire.Append(context.WithoutCancel(ctx), to, batch)
		time.Sleep(response)
		done <- result{acks, err}
	})
	select {
	case r := <-done:
		return r.acks, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
