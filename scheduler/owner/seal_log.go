package owner

import (
	"context"
	"errors"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
	"github.com/image-builder-ha/image-builder/internal/ctxutil"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

const (
	// settleTimeout limits the time in which the other copies of a log catch up with its sealer.
	settleTimeout = 2 * time.Second
	// fencePause is the pause after the first failure of a fence. It doubles up to maxFencePause.
	fencePause    = 100 * time.Millisecond
	maxFencePause = 10 * time.Second
)

// seals reports whether this node must seal the log of a dead attempt.
func (o *Owner) seals(a *imagebuilderv1.Attempt) bool {
	s := a.Log.GetSealer()
	if s == nil && len(a.Log.GetCopies()) == 0 { // a state of feature level 1
		return o.isThis(a.Owner, a.OwnerStoreId)
	}
	return o.isThis(s.GetNode(), s.GetStoreId())
}

// seal fixes the length and the checksum of the log of a dead attempt, in the background. The fence
// of this node's copy is sufficient: readers saw only bytes that all copies hold, and after the
// fence this copy accepts no bytes from a former owner. The caller holds mu.
func (o *Owner) seal(tasks context.Context, k attemptKey, a *imagebuilderv1.Attempt) {
	var writing []chan struct{} // of runs on this node that may still write the log
	for _, run := range o.byBuild[k.build] {
		if run.attempt == k.attempt {
			writing = append(writing, o.running[run].done)
		}
	}
	o.startLogTask(k, func() {
		for _, done := range writing {
			<-done
		}
		cmd := &buildsv1.SealAttempt{BuildId: k.build, Attempt: k.attempt, Epoch: k.epoch}
		var fenced bool
		if cmd.Length, cmd.Checksum, fenced = o.fence(tasks, k); fenced {
			cmd.Copies = o.settle(tasks, k, a, cmd.Length)
		} else if cmd.Lost = o.givesUp(tasks, k); !cmd.Lost {
			return
		}
		if _, err := o.commit(tasks, cmd); err != nil {
			o.opts.Log.Warn("cannot commit the seal of a log", "build", k.build, "attempt", k.attempt, "err", err)
		}
	})
}

// complete makes this node's copy of a sealed log complete, in the background. The caller holds mu.
func (o *Owner) complete(tasks context.Context, k attemptKey, a *imagebuilderv1.Attempt) {
	if o.opts.Logs.Completed(k.log()) {
		return
	}
	o.startLogTask(k, func() {
		select {
		case o.completing <- struct{}{}:
		case <-tasks.Done():
			return
		}
		defer func() { <-o.completing }()
		if err := o.opts.Logs.Complete(k.log(), a.Log.Length); err != nil && !errors.Is(err, logs.ErrClosed) && !isDamage(err) {
			o.opts.Log.Error("cannot complete this node's copy of a log", "build", k.build, "attempt", k.attempt, "err", err)
		}
	})
}

// startLogTask runs f on its own goroutine, unless a task of that log runs already. The caller
// holds mu.
func (o *Owner) startLogTask(k attemptKey, f func()) {
	if o.busyLogs[k] {
		return
	}
	o.busyLogs[k] = true
	o.tasks.Go(func() {
		defer func() {
			o.mu.Lock()
			defer o.mu.Unlock()
			delete(o.busyLogs, k)
		}()
		f()
	})
}

// fence fences this node's copy of a log. An error of the disk may be temporary, and another node
// may hold the whole log. So fence retries until it succeeds, or the log has another sealer, or,
// if no other node holds the log, FenceTimeout has passed.
func (o *Owner) fence(ctx context.Context, k attemptKey) (length int64, checksum string, fenced bool) {
	begin := time.Now()
	for pause := fencePause; ; pause = min(2*pause, maxFencePause) {
		length, checksum, err := o.opts.Logs.Fence(k.log(), k.epoch)
		if err == nil {
			return length, checksum, true
		}
		a := attemptOf(o.opts.Store.View(), k)
		if errors.Is(err, logs.ErrFenced) || ctx.Err() != nil || a.GetLog().GetState() != builds.LogSealing {
			return 0, "", false
		}
		if time.Since(begin) >= o.opts.FenceTimeout && len(o.otherCopies(a)) == 0 {
			o.opts.Log.Error("cannot seal the log of an attempt, and no other node holds it; it is closed as lost", "build", k.build, "attempt", k.attempt, "err", err)
			return 0, "", false
		}
		o.opts.Log.Error("cannot seal the log of an attempt; trying again", "build", k.build, "attempt", k.attempt, "err", err)
		ctxutil.Sleep(ctx, pause)
	}
}

// givesUp reports whether a log that could not be fenced must be closed as lost. That is the case
// if this node is still its sealer and no other node holds it.
func (o *Owner) givesUp(ctx context.Context, k attemptKey) bool {
	a := attemptOf(o.opts.Store.View(), k)
	return ctx.Err() == nil && a.GetLog().GetState() == builds.LogSealing && o.seals(a) && len(o.otherCopies(a)) == 0
}

// settle copies the log to its other nodes up to the given length, within settleTimeout. It returns
// the copies that have this length then, this node's first.
func (o *Owner) settle(ctx context.Context, k attemptKey, a *imagebuilderv1.Attempt, length int64) []*imagebuilderv1.LogCopy {
	out := []*imagebuilderv1.LogCopy{{Node: o.opts.Node, StoreId: o.opts.StoreID}}
	others := o.otherCopies(a)
	if len(others) == 0 {
		return out
	}
	feed, err := o.opts.Logs.Copy(k.log(), k.epoch, others)
	if err != nil {
		return out
	}
	defer feed.Close()
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	for {
		held, missing, changed := feed.Holding(length)
		if missing == 0 || ctx.Err() != nil {
			for _, c := range held {
				out = append(out, &imagebuilderv1.LogCopy{Node: c.Node, StoreId: c.StoreID})
			}
			return out
		}
		select {
		case <-ctx.Done():
		case <-changed:
		}
	}
}
