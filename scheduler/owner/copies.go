package owner

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
	"github.com/image-builder-ha/image-builder/internal/ctxutil"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// settleTime is how long a sealer waits for the other copies of a log.
const settleTime = 2 * time.Second

// seals reports whether this node shall fix the length of a log.
func (o *Owner) seals(a *imagebuilderv1.Attempt) bool {
	s := a.Log.GetSealer()
	if s == nil && len(a.Log.GetCopies()) == 0 { // of feature level 1
		return a.Owner == o.o.Node && a.OwnerStoreId == o.o.StoreID
	}
	return s.GetNode() == o.o.Node && s.GetStoreId() == o.o.StoreID
}

// seal fixes the log of a dead attempt. Its own fence is enough: readers were
// shown only what all copies hold, and this one takes no more from a former
// owner. The caller holds the lock.
func (o *Owner) seal(tasks context.Context, k attemptKey, a *imagebuilderv1.Attempt) {
	if o.sealing[k] {
		return
	}
	o.sealing[k] = true
	var former []chan struct{} // whoever still writes the log
	for _, run := range o.byBuild[k.build] {
		if run.attempt == k.attempt {
			former = append(former, o.running[run].done)
		}
	}
	o.tasks.Go(func() {
		for _, done := range former {
			<-done
		}
		defer func() {
			o.mu.Lock()
			delete(o.sealing, k)
			o.mu.Unlock()
		}()
		cmd := &buildsv1.SealAttempt{BuildId: k.build, Attempt: k.attempt, Epoch: k.epoch}
		var fenced bool
		if cmd.Length, cmd.Checksum, fenced = o.fenceCopy(tasks, k); fenced {
			cmd.Copies = o.settle(tasks, k, a, cmd.Length)
		} else if cmd.Lost = o.givesUp(tasks, k); !cmd.Lost {
			return
		}
		if _, err := o.commit(tasks, cmd); err != nil {
			o.o.Log.Warn("cannot commit the seal of a log", "build", k.build, "attempt", k.attempt, "err", err)
		}
	})
}

// fenceCopy fences this node's copy of a log. A disk that is full or fails may do so
// for a while only, and another node may hold all of the log: so it asks again
// until the attempt has another sealer, or, where this copy is the last one,
// until the time for a fence is over.
func (o *Owner) fenceCopy(ctx context.Context, k attemptKey) (length int64, checksum string, fenced bool) {
	begin := time.Now()
	for pause := fencePause; ; pause = min(2*pause, maxFencePause) {
		length, checksum, err := o.o.Logs.Fence(k.log(), k.epoch)
		if err == nil {
			return length, checksum, true
		}
		a := attemptOf(o.o.Store.View(), k)
		if errors.Is(err, logs.ErrFenced) || ctx.Err() != nil || a.GetLog().GetState() != builds.LogSealing {
			return 0, "", false
		}
		if time.Since(begin) >= o.o.FenceTimeout && len(o.otherCopies(a)) == 0 {
			o.o.Log.Error("cannot seal the log of an attempt, and no other node holds it; it is closed as lost", "build", k.build, "attempt", k.attempt, "err", err)
			return 0, "", false
		}
		o.o.Log.Error("cannot seal the log of an attempt; trying again", "build", k.build, "attempt", k.attempt, "err", err)
		ctxutil.Sleep(ctx, pause)
	}
}

const (
	fencePause    = 100 * time.Millisecond
	maxFencePause = 10 * time.Second
)

// givesUp reports whether a log that could not be fenced is to be closed as
// lost: this node is its sealer still, and nobody else holds it.
func (o *Owner) givesUp(ctx context.Context, k attemptKey) bool {
	a := attemptOf(o.o.Store.View(), k)
	return ctx.Err() == nil && a.GetLog().GetState() == builds.LogSealing && o.seals(a) && len(o.otherCopies(a)) == 0
}

// otherCopies are those of a log on nodes that run, but for this one.
func (o *Owner) otherCopies(a *imagebuilderv1.Attempt) (out []*imagebuilderv1.LogCopy) {
	view := o.o.Store.View()
	for _, c := range builds.CopiesOf(a) {
		if n := view.Node(c.Node); n != nil && n.StoreId == c.StoreId && !n.Lost && (c.Node != o.o.Node || c.StoreId != o.o.StoreID) {
			out = append(out, c)
		}
	}
	return out
}

func (k attemptKey) log() logs.Key { return logs.Key{Build: k.build, Attempt: k.attempt} }

// settle brings the other copies to the length of this one, and answers those
// that hold all of it.
func (o *Owner) settle(ctx context.Context, k attemptKey, a *imagebuilderv1.Attempt, length int64) []*imagebuilderv1.LogCopy {
	out := []*imagebuilderv1.LogCopy{{Node: o.o.Node, StoreId: o.o.StoreID}}
	others := o.otherCopies(a)
	if len(others) == 0 {
		return out
	}
	feed, err := o.o.Logs.Copy(k.log(), k.epoch, others)
	if err != nil {
		return out
	}
	defer feed.Close()
	ctx, cancel := context.WithTimeout(ctx, settleTime)
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

// complete ends this node's copy of a log once the state says where it ends.
// The caller holds the lock.
func (o *Owner) complete(k attemptKey, a *imagebuilderv1.Attempt) {
	if o.o.Logs.Completed(k.log()) || o.sealing[k] {
		return
	}
	o.sealing[k] = true
	o.tasks.Go(func() {
		defer func() {
			o.mu.Lock()
			delete(o.sealing, k)
			o.mu.Unlock()
		}()
		if err := o.o.Logs.Complete(k.log(), a.Log.Length); err != nil && !errors.Is(err, logs.ErrClosed) {
			o.o.Log.Error("cannot complete this node's copy of a log", "build", k.build, "attempt", k.attempt, "err", err)
		}
	})
}

// copyInterval is how often an owner looks after copies that are in trouble.
const copyInterval = 100 * time.Millisecond

// keepCopies replaces copies of the attempt's log that are lost, until the
// answered function is called, which waits.
func (at *attempt) keepCopies(ctx context.Context, feed *logs.Feed) (stop func()) {
	if feed == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			status, changed := feed.Status()
			trouble := at.keepCopy(ctx, feed, status)
			if trouble {
				ctxutil.Sleep(ctx, copyInterval)
				if ctx.Err() != nil {
					return
				}
				continue
			}
			nodes := at.owner.nodesChanged()
			select {
			case <-ctx.Done():
				return
			case <-changed:
			case <-nodes:
			}
		}
	})
	return func() { cancel(); wg.Wait() }
}

// keepCopy does what is next for the copies of a log. It reports whether there
// is something to look after.
func (at *attempt) keepCopy(ctx context.Context, feed *logs.Feed, status []logs.CopyStatus) (trouble bool) {
	o := at.owner.o
	view := o.Store.View()
	a := attemptOf(view, at.key)
	if a == nil {
		return false
	}
	former := builds.CopiesOf(a)
	var joins *logs.CopyStatus
	var lost []logs.Copy
	for i, s := range status {
		// One that counts is not in the state yet if more was shown meanwhile.
		joining := s.Joins || !builds.HasCopy(former, s.Node, s.StoreID)
		// The next owner may have been there before the state has told so; a copy
		// that was removed says the same, and then another one takes its place.
		if errors.Is(s.Refusal, logs.ErrFenced) && !s.Joins && at.stillOwner(ctx) != nil {
			at.cancel(errFenced)
			return false
		}
		bad := at.owner.isLost(view, s)
		switch {
		case joining && bad:
			at.leaveOut(feed, s, former)
			at.refused[s.Copy] = time.Now()
			trouble = true
		case joining:
			joins = &status[i]
		case bad:
			lost = append(lost, s.Copy)
		case !s.Failing.IsZero():
			trouble = true
		}
	}
	if len(lost) == 0 && len(former) >= min(int(a.Log.GetReplicas()), len(at.owner.holders(view))) {
		if joins != nil {
			at.leaveOut(feed, *joins, former)
		}
		return trouble
	}
	if joins == nil {
		nodes := at.willing(at.owner.holders(view))
		n := scheduler.ChooseCopy(nodes, former, at.key.build)
		if n == nil { // a wiped one of the same name
			n = scheduler.ChooseCopy(nodes, notWiped(view, former), at.key.build)
		}
		if n != nil {
			feed.Join(logs.Copy{Node: n.Name, StoreID: n.StoreId})
		} else if next := without(former, lost); len(lost) > 0 && len(next) >= 2 {
			return at.setCopies(ctx, feed, former, next) // nobody can take the place; two are enough
		} else {
			at.retry(feed, status)
		}
		return true
	}
	if !joins.Current {
		return true
	}
	feed.Count(joins.Copy)
	if !current(feed, joins.Copy) { // more was shown before it counted
		return true
	}
	next := append(without(former, lost), &imagebuilderv1.LogCopy{Node: joins.Node, StoreId: joins.StoreID})
	return at.setCopies(ctx, feed, former, next)
}

// leaveOut ends the attempt to make a further copy, also of one that counts.
func (at *attempt) leaveOut(feed *logs.Feed, s logs.CopyStatus, former []*imagebuilderv1.LogCopy) {
	if s.Joins {
		feed.Drop(s.Copy)
	} else {
		feed.Set(copiesOf(former))
	}
}

// current reports whether a copy holds all of a log that readers were shown.
func current(feed *logs.Feed, c logs.Copy) bool {
	status, _ := feed.Status()
	for _, s := range status {
		if s.Copy == c {
			return s.Current
		}
	}
	return false
}

// without answers the copies that are not lost.
func without(former []*imagebuilderv1.LogCopy, lost []logs.Copy) (out []*imagebuilderv1.LogCopy) {
	for _, c := range former {
		if !contains(lost, c) {
			out = append(out, c)
		}
	}
	return out
}

// setCopies commits another set of copies. It reports whether there is
// something to look after.
func (at *attempt) setCopies(ctx context.Context, feed *logs.Feed, former, next []*imagebuilderv1.LogCopy) (trouble bool) {
	o := at.owner.o
	res, err := at.owner.commit(ctx, &buildsv1.SetLogCopies{
		BuildId: at.key.build, Attempt: at.key.attempt, Epoch: at.key.epoch, Former: former, Copies: next,
	})
	if err != nil {
		if a := attemptOf(o.Store.View(), at.key); a != nil {
			feed.Set(copiesOf(builds.CopiesOf(a)))
		}
		return ctx.Err() == nil
	}
	o.Log.Info("the copies of a log changed", "build", at.key.build, "attempt", at.key.attempt, "former", copiesOf(former), "copies", copiesOf(next))
	feed.Set(copiesOf(builds.CopiesOf(res.Build.Attempts[at.key.attempt-1])))
	return true
}

// refusalTime is how long a node that did not take a copy is left alone.
const refusalTime = 2 * time.Second

// willing are the nodes that did not refuse this log a moment ago.
func (at *attempt) willing(nodes []*buildsv1.Node) (out []*buildsv1.Node) {
	for _, n := range nodes {
		if time.Since(at.refused[logs.Copy{Node: n.Name, StoreID: n.StoreId}]) >= refusalTime {
			out = append(out, n)
		}
	}
	return out
}

// retry asks copies again that refused and cannot be replaced: a disk that was
// full may have room.
func (at *attempt) retry(feed *logs.Feed, status []logs.CopyStatus) {
	for _, s := range status {
		if s.Refusal != nil && time.Since(at.refused[s.Copy]) >= refusalTime {
			at.refused[s.Copy] = time.Now()
			feed.Retry(s.Copy)
		}
	}
}

// notWiped are the copies whose node still has the disk that they were on.
func notWiped(view *builds.State, copies []*imagebuilderv1.LogCopy) (out []*imagebuilderv1.LogCopy) {
	for _, c := range copies {
		if n := view.Node(c.Node); n == nil || n.StoreId == c.StoreId {
			out = append(out, c)
		}
	}
	return out
}

func contains(lost []logs.Copy, c *imagebuilderv1.LogCopy) bool {
	for _, l := range lost {
		if l.Node == c.Node && l.StoreID == c.StoreId {
			return true
		}
	}
	return false
}

func copiesOf(in []*imagebuilderv1.LogCopy) (out []logs.Copy) {
	for _, c := range in {
		out = append(out, logs.Copy{Node: c.Node, StoreID: c.StoreId})
	}
	return out
}

func attemptOf(view *builds.State, k attemptKey) *imagebuilderv1.Attempt {
	b := view.Build(k.build).GetBuild()
	if int(k.attempt) > len(b.GetAttempts()) || b.Attempts[k.attempt-1].Epoch != k.epoch {
		return nil
	}
	return b.Attempts[k.attempt-1]
}

// isLost reports whether a copy should be replaced.
func (o *Owner) isLost(view *builds.State, s logs.CopyStatus) bool {
	n := view.Node(s.Node)
	return n == nil || n.StoreId != s.StoreID || n.Lost || n.Drained || s.Refusal != nil ||
		!s.Failing.IsZero() && time.Since(s.Failing) > o.o.ReplaceAfter
}

// holders are the nodes that can hold a copy of a log now.
func (o *Owner) holders(view *builds.State) (out []*buildsv1.Node) {
	view.Nodes(func(n *buildsv1.Node) bool {
		if !n.Lost && !n.Drained && !n.Stopping || n.Name == o.o.Node {
			out = append(out, n)
		}
		return true
	})
	return out
}

// nodesChanged is closed when the state of any node changes.
func (o *Owner) nodesChanged() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.nodes
}
