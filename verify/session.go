package verify

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/verify/history"
)

// listEvery is how many clients there are for one that also lists builds.
const listEvery = 5

// session runs the client of the build number n: it requests the build, follows its log, reads its
// status, sometimes lists builds or cancels it, and waits for its end.
func (r *run) session(ctx context.Context, n int) {
	w := r.workload(n)
	c, who := r.all[n%len(r.all)], fmt.Sprintf("%s-%d", r.id, n)
	created, index, ok := r.create(ctx, c, who, w)
	if !ok {
		return
	}
	b := created.GetId()
	acked := time.Now()
	r.acked.Add(1)
	cancelled := rand.IntN(100) < r.opts.Cancel
	var wg sync.WaitGroup
	readers := make([]*reader, r.opts.Readers)
	for i := range readers {
		readers[i] = &reader{r: r, name: fmt.Sprintf("%s/r%d", who, i), build: b}
		wg.Go(func() { readers[i].follow(ctx, r.all[rand.IntN(len(r.all))]) })
	}
	wg.Go(func() {
		if wait(ctx, rand.N(200*time.Millisecond)) {
			r.read(ctx, who, history.Operation{Kind: history.Read, ID: b, MinIndex: index})
			r.read(ctx, who, history.Operation{Kind: history.Read, ID: b, Linearizable: true})
			if n%listEvery == 0 {
				r.list(ctx, who, created)
			}
		}
	})
	if cancelled {
		wg.Go(func() {
			if wait(ctx, rand.N(300*time.Millisecond)) {
				r.cancel(ctx, c, who, b)
			}
		})
	}
	end, ok := r.observe(ctx, c, who, b)
	wg.Wait()
	if !ok {
		return
	}
	e := End{
		Build: b, Source: w.name, Ref: end.Ref, Phase: history.BuildStateOf(end).Phase, Expect: w.expect, Message: end.Message, Digest: end.Digest,
		Version:  end.Version,
		Attempts: attempts(end), Acked: acked, Seen: time.Now(),
	}
	if end.Blame != imagebuilderv1.Blame_BLAME_UNSPECIFIED {
		e.Blame = end.Blame.String()
	}
	if cancelled {
		e.Expect = ""
	}
	r.mu.Lock()
	r.ends = append(r.ends, e)
	r.mu.Unlock()
	r.ended.Add(1)
	r.readLate(ctx, c, who+"/late", e, readers)
}
