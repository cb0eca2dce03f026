package owner

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
	"github.com/image-builder-ha/image-builder/internal/ctxutil"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/placement"
)

const (
	// checkInterval is the time between checks of copies while one of them is to be replaced, added
	// or retried. Otherwise a change of a copy or of a node starts the next check.
	checkInterval = 100 * time.Millisecond
	// refusalPause is how long a node gets no copy of a log after it refused one.
	refusalPause = 2 * time.Second
)

// copyKeeper keeps the number of copies of the log of a live attempt. It replaces copies that are
// lost, and adds one if there are too few.
//
// A new copy takes these steps: feed.Join fills it; once it is current, feed.Count makes the
// watermark wait for it; then the set of copies with it is committed. The watermark waits for the
// old and for the new set until the outcome of the commit is known.
type copyKeeper struct {
	at   *attempt
	feed *logs.Feed
	// refused has the time of the last refusal or retry of each copy.
	refused map[logs.Copy]time.Time
}

// keepCopies starts a copyKeeper for the attempt's log. stop ends it and waits for it. feed is nil
// if this node holds the only copy.
func (at *attempt) keepCopies(ctx context.Context, feed *logs.Feed) (stop func()) {
	if feed == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	k := &copyKeeper{at: at, feed: feed, refused: map[logs.Copy]time.Time{}}
	var wg sync.WaitGroup
	wg.Go(func() { k.run(ctx) })
	return func() { cancel(); wg.Wait() }
}

// run checks the copies until ctx ends.
func (k *copyKeeper) run(ctx context.Context) {
	for {
		status, changed := k.feed.Status()
		nodes := k.at.owner.nodesChanged() // before check reads the state, so that no change is missed
		if k.check(ctx, status) {
			if ctxutil.Sleep(ctx, checkInterval); ctx.Err() != nil {
				return
			}
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-nodes:
		}
	}
}

// check does the next step for the copies, given their status. It reports whether the caller must
// call it again after checkInterval, even if nothing changes.
func (k *copyKeeper) check(ctx context.Context, status []logs.CopyStatus) (again bool) {
	o := k.at.owner
	view := o.opts.Store.View()
	a := attemptOf(view, k.at.key)
	if a == nil {
		return false
	}
	committed := builds.CopiesOf(a)
	var joining *logs.CopyStatus
	var lost []logs.Copy
	for i, s := range status {
		// A copy for which the watermark waits already is not committed yet if it fell behind
		// before the commit.
		joins := s.Joins || !builds.HasCopy(committed, s.Node, s.StoreID)
		// ErrFenced means that a new owner took over before our state shows it, or that the node
		// has removed its copy. In the second case the copy is replaced.
		if errors.Is(s.Refusal, logs.ErrFenced) && !s.Joins && k.at.stillOwner(ctx) != nil {
			k.at.cancel(errFenced)
			return false
		}
		replace := o.mustReplace(view, s)
		switch {
		case joins && replace:
			k.leaveOut(s, committed)
			k.refused[s.Copy] = time.Now()
			again = true
		case joins:
			joining = &status[i]
		case replace:
			lost = append(lost, s.Copy)
		case !s.Failing.IsZero():
			again = true
		}
	}
	if len(lost) == 0 && len(committed) >= min(int(a.Log.GetReplicas()), len(o.liveHolders(view))) {
		if joining != nil { // the copies that it would replace work again
			k.leaveOut(*joining, committed)
		}
		return again
	}
	if joining == nil {
		return k.addCopy(ctx, view, status, committed, lost)
	}
	if !joining.Current {
		return true
	}
	k.feed.Count(joining.Copy)
	if !k.isCurrent(joining.Copy) { // readers saw more bytes before the watermark waited for the copy
		return true
	}
	next := append(without(committed, lost), &imagebuilderv1.LogCopy{Node: joining.Node, StoreId: joining.StoreID})
	return k.commit(ctx, committed, next)
}

// addCopy starts a new copy. If no node can hold one, it removes lost copies from the set, as long
// as two copies remain, or retries copies that have refused.
func (k *copyKeeper) addCopy(ctx context.Context, view *builds.State, status []logs.CopyStatus, committed []*imagebuilderv1.LogCopy, lost []logs.Copy) (again bool) {
	nodes := k.accepting(k.at.owner.liveHolders(view))
	n := placement.ChooseCopy(nodes, committed, k.at.key.build)
	if n == nil { // a wiped node, which has the name of a lost copy
		n = placement.ChooseCopy(nodes, withoutWiped(view, committed), k.at.key.build)
	}
	if n != nil {
		k.feed.Join(logs.Copy{Node: n.Name, StoreID: n.StoreId})
		return true
	}
	if next := without(committed, lost); len(lost) > 0 && len(next) >= 2 {
		return k.commit(ctx, committed, next)
	}
	k.retryRefused(status)
	return true
}

// leaveOut ends a new copy that is not committed.
func (k *copyKeeper) leaveOut(s logs.CopyStatus, committed []*imagebuilderv1.LogCopy) {
	if s.Joins {
		k.feed.Drop(s.Copy)
	} else { // the watermark waits for it
		k.feed.Set(copiesOf(committed))
	}
}

// isCurrent reports whether a copy has all bytes that readers can see.
func (k *copyKeeper) isCurrent(c logs.Copy) bool {
	status, _ := k.feed.Status()
	for _, s := range status {
		if s.Copy == c {
			return s.Current
		}
	}
	return false
}

// commit commits a new set of copies and gives the result to the feed. It reports whether check
// must be called again.
func (k *copyKeeper) commit(ctx context.Context, former, next []*imagebuilderv1.LogCopy) (again bool) {
	o, key := k.at.owner, k.at.key
	res, err := o.commit(ctx, &buildsv1.SetLogCopies{
		BuildId: key.build, Attempt: key.attempt, Epoch: key.epoch, Former: former, Copies: next,
	})
	if err != nil {
		if a := attemptOf(o.opts.Store.View(), key); a != nil {
			k.feed.Set(copiesOf(builds.CopiesOf(a)))
		}
		return ctx.Err() == nil
	}
	o.opts.Log.Info("the copies of a log changed", "build", key.build, "attempt", key.attempt, "former", copiesOf(former), "copies", copiesOf(next))
	k.feed.Set(copiesOf(builds.CopiesOf(res.Build.Attempts[key.attempt-1])))
	return true
}

// accepting returns the nodes that have not refused this log within refusalPause.
func (k *copyKeeper) accepting(nodes []*buildsv1.Node) (out []*buildsv1.Node) {
	for _, n := range nodes {
		if time.Since(k.refused[logs.Copy{Node: n.Name, StoreID: n.StoreId}]) >= refusalPause {
			out = append(out, n)
		}
	}
	return out
}

// retryRefused resumes sending to copies that have refused and cannot be replaced. A disk that was
// full may have room again.
func (k *copyKeeper) retryRefused(status []logs.CopyStatus) {
	for _, s := range status {
		if s.Refusal != nil && time.Since(k.refused[s.Copy]) >= refusalPause {
			k.refused[s.Copy] = time.Now()
			k.feed.Retry(s.Copy)
		}
	}
}
