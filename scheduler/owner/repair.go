package owner

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// How often complete logs are looked at for lost copies although no node has
// changed, how many are repaired at a time, and how long one may take.
const (
	repairInterval = time.Minute
	repairsAtOnce  = 4
	repairTime     = 2 * time.Minute
)

// repairLogs copies complete logs anew whose copies were lost, until ctx ends.
// The first node that holds a copy does it. A node whose own copy is damaged gives
// that up before.
func (o *Owner) repairLogs(ctx context.Context) {
	for ctx.Err() == nil {
		changed := o.nodesChanged()
		damaged, more := o.o.Logs.Damaged()
		o.dropDamaged(ctx, damaged)
		again := o.repairAll(ctx)
		t := time.NewTimer(repairInterval)
		if again {
			t.Reset(time.Second)
		}
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

// missesCopy wakes repairLogs if a complete log was left with too few copies, and
// this node is to make another.
func (o *Owner) missesCopy(build string, a *imagebuilderv1.Attempt) {
	if copies := builds.CopiesOf(a); len(copies) >= int(a.Log.GetReplicas()) || copies[0].Node != o.o.Node {
		return
	}
	view := o.o.Store.View()
	if _, to := o.nextCopy(view, time.Unix(0, view.Time()), o.holders(view), build, a); to == nil {
		return
	}
	select {
	case o.copyMissing <- struct{}{}:
	default:
	}
}

// repairAll repairs what needs it. It reports whether something is left.
func (o *Owner) repairAll(ctx context.Context) (again bool) {
	view := o.o.Store.View()
	if view.Level() < 2 {
		return false
	}
	var wg sync.WaitGroup
	room := make(chan struct{}, repairsAtOnce)
	now := time.Unix(0, view.Time())
	nodes := o.holders(view)
	view.All(func(r *buildsv1.Record) bool {
		for _, a := range r.Build.Attempts {
			stay, to := o.nextCopy(view, now, nodes, r.Build.Id, a)
			if to == nil {
				continue
			}
			again = true
			room <- struct{}{}
			wg.Go(func() {
				defer func() { <-room }()
				o.repair(ctx, r.Build.Id, a, stay, scheduler.CopyOf(to))
			})
		}
		return ctx.Err() == nil
	})
	wg.Wait()
	return again
}

// nextCopy answers the node that shall get a further copy of a complete log from
// this one, and the copies that count beside it until then; nil if there is
// nothing to do here.
func (o *Owner) nextCopy(view *builds.State, now time.Time, nodes []*buildsv1.Node, build string, a *imagebuilderv1.Attempt) (stay []*imagebuilderv1.LogCopy, to *buildsv1.Node) {
	keep, lost, givers := Sound(view, now, o.o.RepairAfter, a)
	if a.Log.GetState() != builds.LogSealed || len(keep) >= min(int(a.Log.GetReplicas()), len(nodes)) {
		return nil, nil
	}
	if stay = keep; len(stay) == 0 {
		stay = givers
	}
	if len(stay) == 0 || stay[0].Node != o.o.Node || stay[0].StoreId != o.o.StoreID {
		return nil, nil
	}
	if to = scheduler.ChooseCopy(nodes, append(keep[:len(keep):len(keep)], lost...), build); to == nil {
		to = scheduler.ChooseCopy(nodes, stay, build) // a wiped one of the same name
	}
	return stay, to
}

// Sound tells the copies of a log that can be counted on from those that cannot;
// of these, the givers are on nodes that run and are drained. A node that is
// lost for no longer than repairAfter may come back.
func Sound(view *builds.State, now time.Time, repairAfter time.Duration, a *imagebuilderv1.Attempt) (keep, lost, givers []*imagebuilderv1.LogCopy) {
	for _, c := range a.Log.GetCopies() {
		n := view.Node(c.Node)
		gone := n == nil || n.StoreId != c.StoreId || n.Drained ||
			n.Lost && now.Sub(time.Unix(0, n.LostUnixNano)) > repairAfter
		if gone {
			lost = append(lost, c)
		} else {
			keep = append(keep, c)
		}
	}
	for _, c := range lost {
		if n := view.Node(c.Node); n != nil && n.StoreId == c.StoreId && !n.Lost {
			givers = append(givers, c)
		}
	}
	return keep, lost, givers
}

// repair copies a complete log to a further node and commits that it holds it.
func (o *Owner) repair(ctx context.Context, build string, a *imagebuilderv1.Attempt, keep []*imagebuilderv1.LogCopy, to *imagebuilderv1.LogCopy) {
	k := attemptKey{build, a.Number, a.Epoch}
	if !o.o.Logs.Completed(k.log()) && o.o.Logs.Complete(k.log(), a.Log.Length) != nil {
		o.o.Log.Error("cannot copy a log whose copies were lost: this node's is not complete", "build", build, "attempt", a.Number)
		return
	}
	feed, err := o.o.Logs.Copy(k.log(), a.Epoch, nil)
	if err != nil {
		return
	}
	defer feed.Close()
	ctx, cancel := context.WithTimeout(ctx, repairTime)
	defer cancel()
	target := logs.Copy{Node: to.Node, StoreID: to.StoreId}
	feed.Join(target)
	for {
		status, changed := feed.Status()
		damaged, more := o.o.Logs.Damaged()
		for _, s := range status {
			if o.isLost(o.o.Store.View(), s) || ctx.Err() != nil || slices.Contains(damaged, k.log()) {
				return // tried again, perhaps elsewhere
			}
			if s.Current {
				_, err := o.commit(ctx, &buildsv1.SetLogCopies{
					BuildId: build, Attempt: a.Number, Epoch: a.Epoch, Former: builds.CopiesOf(a), Copies: append(keep[:len(keep):len(keep)], to),
				})
				if err != nil {
					o.o.Log.Warn("cannot commit that a complete log was copied anew, will try again", "build", build, "attempt", a.Number, "node", to.Node, "err", err)
					return
				}
				o.o.Log.Info("a complete log was copied anew", "build", build, "attempt", a.Number, "node", to.Node)
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
