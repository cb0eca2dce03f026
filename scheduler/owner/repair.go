package owner

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/placement"
)

const (
	// repairInterval is the time between checks of all complete logs for lost copies. A change of a
	// node starts a check at once.
	repairInterval = time.Minute
	// repairRetryInterval is the time until the next check if the last one found lost copies.
	repairRetryInterval = time.Second
	// maxRepairs is the number of logs that are repaired at the same time.
	maxRepairs = 4
	// repairTimeout limits the repair of one log.
	repairTimeout = 2 * time.Minute
)

// repairLogs makes new copies of complete logs whose copies were lost, until ctx ends. The first
// node that holds a copy of a log makes the new copy. Before that, a node with a damaged copy
// removes it.
func (o *Owner) repairLogs(ctx context.Context) {
	var unreadable map[logs.Key]bool
	for ctx.Err() == nil {
		changed := o.nodesChanged()
		damaged, more := o.opts.DamagedLogs.Damaged()
		unreadable = o.dropDamaged(ctx, damaged, unreadable)
		next := repairInterval
		if o.repairAll(ctx) {
			next = repairRetryInterval
		}
		t := time.NewTimer(next)
		select {
		case <-ctx.Done():
		case <-changed:
		case <-more:
		case <-o.copyMissing:
		case <-t.C:
		}
		t.Stop()
	}
}

// wakeIfCopyMissing starts a check if a complete log has too few copies and this node must make the
// next one.
func (o *Owner) wakeIfCopyMissing(build string, a *imagebuilderv1.Attempt) {
	if copies := builds.CopiesOf(a); len(copies) >= int(a.Log.GetReplicas()) || copies[0].Node != o.opts.Node {
		return
	}
	view := o.opts.Store.View()
	if _, to := o.nextCopy(view, time.Unix(0, view.Time()), o.holders(view), build, a); to == nil {
		return
	}
	select {
	case o.copyMissing <- struct{}{}:
	default:
	}
}

// repairAll repairs all logs for which this node must make a copy. It reports whether there was
// one. A log whose copy on this node is damaged is left out: another node must supply a copy first.
func (o *Owner) repairAll(ctx context.Context) (found bool) {
	view := o.opts.Store.View()
	if view.Level() < 2 {
		return false
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, maxRepairs)
	now := time.Unix(0, view.Time())
	nodes := o.holders(view)
	if !o.mustRepair(view, now, nodes) {
		return false
	}
	damaged := map[logs.Key]bool{}
	keys, _ := o.opts.DamagedLogs.Damaged()
	for _, key := range keys {
		damaged[key] = true
	}
	view.WithSealedLog(func(r *buildsv1.Record) bool {
		for _, a := range r.Build.Attempts {
			stay, to := o.nextCopy(view, now, nodes, r.Build.Id, a)
			if to == nil || damaged[logs.Key{Build: r.Build.Id, Attempt: a.Number}] {
				continue
			}
			found = true
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				o.repair(ctx, r.Build.Id, a, stay, placement.CopyOf(to))
			})
		}
		return ctx.Err() == nil
	})
	wg.Wait()
	return found
}

// mustRepair reports whether there is a log for which this node must make a copy. It reads the sets of
// copies and no builds.
func (o *Owner) mustRepair(view *builds.State, now time.Time, nodes []*buildsv1.Node) (must bool) {
	view.CopySets(func(like *imagebuilderv1.Attempt, _ int) bool {
		_, to := o.nextCopy(view, now, nodes, "", like) // other builds may get other nodes, but none gets a node if this one gets none
		must = to != nil
		return !must
	})
	return must
}

// nextCopy returns the node to which this node must copy a complete log, and the copies that stay
// in the set beside the new one. to is nil if this node has to do nothing.
func (o *Owner) nextCopy(view *builds.State, now time.Time, nodes []*buildsv1.Node, build string, a *imagebuilderv1.Attempt) (stay []*imagebuilderv1.LogCopy, to *buildsv1.Node) {
	if a.Log.GetState() != builds.LogSealed {
		return nil, nil
	}
	keep, lost, leaving := placement.SoundCopies(view, now, o.opts.RepairAfter, a)
	if len(keep) >= min(int(a.Log.GetReplicas()), len(nodes)) {
		return nil, nil
	}
	if stay = keep; len(stay) == 0 {
		stay = leaving
	}
	if len(stay) == 0 || !o.isThis(stay[0].Node, stay[0].StoreId) {
		return nil, nil
	}
	if to = placement.ChooseCopy(nodes, append(keep[:len(keep):len(keep)], lost...), build); to == nil {
		to = placement.ChooseCopy(nodes, stay, build) // a wiped node, which has the name of a lost copy
	}
	return stay, to
}

// repair copies a complete log to a node, and commits the set of copies with the new one. If it
// fails, the next check tries again, perhaps with another node.
func (o *Owner) repair(ctx context.Context, build string, a *imagebuilderv1.Attempt, stay []*imagebuilderv1.LogCopy, to *imagebuilderv1.LogCopy) {
	k := attemptKey{build, a.Number, a.Epoch}
	if !o.opts.Logs.Completed(k.log()) {
		if err := o.opts.Logs.Complete(k.log(), a.Log.Length); err != nil {
			if !isDamage(err) {
				o.opts.Log.Error("cannot copy a log whose copies were lost: this node's copy is not complete", "build", build, "attempt", a.Number, "err", err)
			}
			return
		}
	}
	feed, err := o.opts.Logs.Copy(k.log(), a.Epoch, nil)
	if err != nil {
		return
	}
	defer feed.Close()
	ctx, cancel := context.WithTimeout(ctx, repairTimeout)
	defer cancel()
	target := logs.Copy{Node: to.Node, StoreID: to.StoreId}
	feed.Join(target)
	for {
		status, changed := feed.Status()
		damaged, more := o.opts.DamagedLogs.Damaged()
		for _, s := range status {
			if o.mustReplace(o.opts.Store.View(), s) || ctx.Err() != nil || slices.Contains(damaged, k.log()) {
				return
			}
			if s.Current {
				o.commitRepair(ctx, k, builds.CopiesOf(a), append(stay[:len(stay):len(stay)], to))
				return
			}
		}
		t := time.NewTimer(time.Second)
		select {
		case <-ctx.Done():
		case <-changed:
		case <-more:
		case <-t.C:
		}
		t.Stop()
	}
}

// commitRepair commits the set of copies of a complete log. The new copy is the last one of next.
func (o *Owner) commitRepair(ctx context.Context, k attemptKey, former, next []*imagebuilderv1.LogCopy) {
	node := next[len(next)-1].Node
	_, err := o.commit(ctx, &buildsv1.SetLogCopies{BuildId: k.build, Attempt: k.attempt, Epoch: k.epoch, Former: former, Copies: next})
	if err != nil {
		o.opts.Log.Warn("cannot commit that a complete log was copied anew, will try again", "build", k.build, "attempt", k.attempt, "node", node, "err", err)
		return
	}
	o.opts.Log.Info("a complete log was copied anew", "build", k.build, "attempt", k.attempt, "node", node)
}
