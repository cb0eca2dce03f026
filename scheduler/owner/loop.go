package owner

import (
	"context"
	"errors"
	"slices"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// Run follows the state until ctx ends. Then it ends the running attempts, leaves workloads that
// outlive the node, and returns after all attempts have ended.
func (o *Owner) Run(ctx context.Context) error {
	tasks, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stop(nil)
	o.tasks.Go(func() { o.repairLogs(ctx) })
	for ctx.Err() == nil {
		again, resume := context.WithCancel(ctx)
		o.mu.Lock()
		o.resume = resume
		o.mu.Unlock()
		err := o.follow(again, tasks)
		if again.Err() == nil && !errors.Is(err, builds.ErrResubscribe) {
			o.opts.Log.Warn("owner loop lost the state, will start again", "err", err)
		}
		resume()
	}
	stop(errShutdown)
	o.tasks.Wait()
	return nil
}

// follow acts on the whole state once, and then on every change. Attempts run under tasks.
func (o *Owner) follow(ctx, tasks context.Context) error {
	view, sub := o.opts.Store.Subscribe()
	view.Live(func(r *buildsv1.Record) bool { o.act(tasks, r); return true })
	view.Sealing(func(r *buildsv1.Record) bool { o.act(tasks, r); return true })
	o.cancelFormer(view)
	for {
		ev, err := sub.Next(ctx)
		if err != nil {
			return err
		}
		for _, r := range ev.Changed {
			o.act(tasks, r)
		}
		if ev.Cluster {
			o.mu.Lock()
			close(o.nodes)
			o.nodes = make(chan struct{})
			o.mu.Unlock()
		}
	}
}

// cancelFormer cancels attempts that the state no longer assigns to this node.
func (o *Owner) cancelFormer(view *builds.State) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for k, run := range o.running {
		if lastKey(view.Build(k.build).GetBuild()) != k {
			run.cancel(errFenced)
		}
	}
}

// act acts on one version of a build.
func (o *Owner) act(tasks context.Context, r *buildsv1.Record) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, k := range o.byBuild[r.Build.Id] {
		if k != lastKey(r.Build) {
			o.running[k].cancel(errFenced)
		}
	}
	for _, a := range r.Build.Attempts {
		k := attemptKey{r.Build.Id, a.Number, a.Epoch}
		switch {
		case a.Log.GetState() == builds.LogSealing && o.seals(a):
			o.seal(tasks, k, a)
		case a.Log.GetState() == builds.LogSealed && builds.HasCopy(builds.CopiesOf(a), o.opts.Node, o.opts.StoreID):
			o.complete(tasks, k, a)
			o.wakeIfCopyMissing(r.Build.Id, a)
		case !o.isThis(a.Owner, a.OwnerStoreId) || !builds.Live(a.Phase):
		case o.running[k] == nil && (a.Phase == builds.Assigned || a.Adoptable && !o.suspended):
			o.start(tasks, k, r)
		}
	}
	if run := o.running[lastKey(r.Build)]; run != nil && r.StopReason != buildsv1.StopReason_STOP_REASON_UNSPECIFIED {
		run.cancel(errStopRequested)
	}
}

// start runs an attempt on its own goroutine. The caller holds mu.
func (o *Owner) start(tasks context.Context, k attemptKey, r *buildsv1.Record) {
	ctx, cancel := context.WithCancelCause(tasks)
	run := &runHandle{cancel: cancel, done: make(chan struct{})}
	at := &attempt{owner: o, record: r, key: k, cancel: cancel, tasks: tasks}
	o.running[k] = run
	o.byBuild[k.build] = append(o.byBuild[k.build], k)
	o.tasks.Go(func() {
		defer close(run.done)
		defer cancel(nil)
		at.run(ctx)
		o.mu.Lock()
		defer o.mu.Unlock()
		delete(o.running, k)
		if o.byBuild[k.build] = slices.DeleteFunc(o.byBuild[k.build], func(x attemptKey) bool { return x == k }); len(o.byBuild[k.build]) == 0 {
			delete(o.byBuild, k.build)
		}
	})
}

// LeaseLost cancels all attempts of this node. A leader that this node does not hear, or that
// considers it lost because its disk hangs, may have assigned them to other nodes. It may be called
// repeatedly.
func (o *Owner) LeaseLost() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.suspended = true
	for _, run := range o.running {
		run.cancel(errLease)
	}
}

// LeaseHeld reports that this node hears a leader again. The owner then adopts the workloads that
// are still assigned to this node and have survived. It may be called repeatedly.
func (o *Owner) LeaseHeld() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.suspended && o.resume != nil {
		o.resume()
	}
	o.suspended = false
}
