package builds

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// putCachedRef adds a reference. If the reference is cached already, it changes only the interval
// of its entry. Below cacheLevel it replaces the whole entry, as version 0.2.0 does.
func (tx *change) putCachedRef(c *buildsv1.PutCachedRef) Result {
	key := c.GetRef().GetRef()
	tx.event.Cached = true
	if !tx.RefreshesCache() {
		tx.cached.Set(key, c.GetRef())
		return Result{Refs: 1}
	}
	if tx.CachedRef(key) == nil && tx.cached.Len() >= maxCachedRefs {
		return Result{Err: invalidf("the cache already holds %d references, which is the maximum; remove some first", maxCachedRefs)}
	}
	tx.keepRef(key, c.GetRef().GetInterval())
	return Result{Refs: 1}
}

// keepRef adds a reference, which is due now. If the reference is cached already, keepRef changes
// its interval.
func (tx *change) keepRef(key string, interval *durationpb.Duration) {
	old := tx.CachedRef(key)
	if old == nil {
		tx.cached.Set(key, &imagebuilderv1.CachedRef{Ref: key, Interval: interval, DueAt: tx.now()})
		return
	}
	tx.setInterval(old, interval)
}

// setInterval changes the interval of a reference. It never makes the reference due later.
func (tx *change) setInterval(old *imagebuilderv1.CachedRef, interval *durationpb.Duration) {
	r := proto.CloneOf(old)
	r.Interval = interval
	tx.reschedule(r)
	tx.cached.Set(r.Ref, r)
}

// reschedule makes a reference due at the next slot of its interval, unless it is due before that.
func (tx *change) reschedule(r *imagebuilderv1.CachedRef) {
	next := nextSlot(r.Ref, tx.CacheInterval(r), tx.time)
	if r.DueAt == nil || r.DueAt.AsTime().UnixNano() > next {
		r.DueAt = timestamppb.New(time.Unix(0, next))
	}
}

// deleteCachedRef removes a reference.
func (tx *change) deleteCachedRef(c *buildsv1.DeleteCachedRef) Result {
	_, ok := tx.cached.Delete(c.GetRef())
	tx.event.Cached = ok
	return Result{Existed: ok}
}

// seedCache adds the references of the configuration, once in the life of the cluster. A reference
// that an operator has removed does not come back.
func (tx *change) seedCache(c *buildsv1.SeedCache) Result {
	conf := proto.CloneOf(tx.cacheConfig)
	if conf.IntervalNanos == 0 {
		conf.IntervalNanos = c.IntervalNanos
	}
	var res Result
	if !conf.Seeded {
		conf.Seeded = len(c.Refs) > 0
		for _, key := range c.Refs {
			if tx.CachedRef(key) == nil && tx.cached.Len() < maxCachedRefs {
				tx.cached.Set(key, &imagebuilderv1.CachedRef{Ref: key, DueAt: tx.now()})
				res.Refs++
			}
		}
	}
	tx.cacheConfig = conf
	tx.event.Cached = true
	return res
}

// assignRefreshes assigns due references to nodes. Each assignment is a turn, whose number is the
// index of the command. assignRefreshes refuses an assignment that is based on an older state.
func (tx *change) assignRefreshes(c *buildsv1.AssignRefreshes) Result {
	var res Result
	for _, a := range c.Assignments {
		r, n := tx.CachedRef(a.Ref), tx.Node(a.Owner)
		if r == nil || r.Turn != a.Turn || DueAt(r) != a.DueUnixNano || n == nil || n.Lost || n.Stopping {
			res.Refused++
			continue
		}
		r = proto.CloneOf(r)
		r.RefreshingBy, r.RefreshingSince, r.Turn = a.Owner, tx.now(), tx.index
		tx.cached.Set(r.Ref, r)
		tx.event.Cached = true
		res.Refs++
	}
	return res
}

// recordRefreshes stores the results of turns. It refuses results of turns that have ended. After a
// failure the reference keeps its digest, and the nodes decide how long they use it.
func (tx *change) recordRefreshes(c *buildsv1.RecordRefreshes) Result {
	var res Result
	for _, x := range c.Results {
		r := tx.CachedRef(x.Ref)
		if r == nil || x.Turn == 0 || r.Turn != x.Turn || r.RefreshingBy == "" {
			res.Refused++
			continue
		}
		r = proto.CloneOf(r)
		interval := tx.CacheInterval(r)
		next := nextSlot(r.Ref, interval, max(tx.time, DueAt(r)))
		r.RefreshingBy, r.RefreshingSince, r.TriedAt = "", nil, tx.now()
		if x.Error != "" {
			r.Failures++
			r.LastError = x.Error
			next = min(next, tx.time+int64(refreshPause(interval, r.Failures)))
		} else {
			r.Failures, r.LastError = 0, ""
			r.Digest, r.SizeBytes, r.Anonymous, r.RefreshedAt = x.Digest, x.SizeBytes, x.Anonymous, tx.now()
		}
		r.DueAt = timestamppb.New(time.Unix(0, next))
		tx.cached.Set(r.Ref, r)
		tx.event.Cached = true
		res.Refs++
	}
	return res
}

// requestRefreshes makes references due now and ends their turns. Without names it does so for all
// references.
func (tx *change) requestRefreshes(c *buildsv1.RequestRefreshes) Result {
	refs := c.Refs
	if len(refs) == 0 {
		refs = tx.cached.Keys()
	}
	var res Result
	for _, key := range refs {
		r := tx.CachedRef(key)
		if r == nil {
			continue
		}
		r = proto.CloneOf(r)
		r.DueAt = tx.now()
		endTurn(r)
		tx.cached.Set(key, r)
		tx.event.Cached = true
		tx.event.Requested = append(tx.event.Requested, key)
		res.Refs++
	}
	return res
}

// endTurn ends the turn of a reference. r is a copy that the caller may change.
func endTurn(r *imagebuilderv1.CachedRef) {
	r.RefreshingBy, r.RefreshingSince = "", nil
}

// endRefreshesOf ends the turns of a node whose process has ended, so that the leader assigns them
// again.
func (tx *change) endRefreshesOf(node string) {
	for _, r := range tx.CachedRefs() {
		if r.RefreshingBy == node {
			r = proto.CloneOf(r)
			endTurn(r)
			tx.cached.Set(r.Ref, r)
			tx.event.Cached = true
		}
	}
}

// setCacheInterval changes the interval of one reference, or the default interval if the command
// names none.
func (tx *change) setCacheInterval(c *buildsv1.SetCacheInterval) Result {
	if c.Ref == "" {
		conf := proto.CloneOf(tx.cacheConfig)
		conf.IntervalNanos = c.IntervalNanos
		tx.cacheConfig = conf
		for _, r := range tx.CachedRefs() {
			if r.Interval.AsDuration() == 0 {
				tx.setInterval(r, r.Interval)
			}
		}
		tx.event.Cached = true
		return Result{Refs: tx.cached.Len()}
	}
	r := tx.CachedRef(c.Ref)
	if r == nil {
		return Result{Err: fmt.Errorf("cached reference %q: %w", c.Ref, ErrNotCached)}
	}
	var interval *durationpb.Duration
	if c.IntervalNanos > 0 {
		interval = durationpb.New(time.Duration(c.IntervalNanos))
	}
	tx.setInterval(r, interval)
	tx.event.Cached = true
	return Result{Refs: 1}
}
