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

// putCachedRef adds a reference or changes its interval. What is known of one
// that is there already stays. Below the feature level of the cache it does
// what version 0.2.0 does, so that the nodes of both agree.
func (tx *change) putCachedRef(c *buildsv1.PutCachedRef) Result {
	key := c.GetRef().GetRef()
	tx.event.Cached = true
	if !tx.RefreshesCache() {
		tx.cached.Set(key, c.GetRef())
		return Result{Refs: 1}
	}
	if tx.CachedRef(key) == nil && tx.cached.Len() >= maxCachedRefs {
		return Result{Err: invalidf("%d references are cached, no more are allowed: remove some", maxCachedRefs)}
	}
	tx.keepRef(key, c.GetRef().GetInterval())
	return Result{Refs: 1}
}

// keepRef adds a reference, due now, or gives the one that is there another
// interval.
func (tx *change) keepRef(key string, interval *durationpb.Duration) {
	old := tx.CachedRef(key)
	if old == nil {
		tx.cached.Set(key, &imagebuilderv1.CachedRef{Ref: key, Interval: interval, DueAt: tx.now()})
		return
	}
	tx.setInterval(old, interval)
}

// setInterval never makes a reference due later than it was.
func (tx *change) setInterval(old *imagebuilderv1.CachedRef, interval *durationpb.Duration) {
	r := proto.CloneOf(old)
	r.Interval = interval
	tx.rescheduled(r)
	tx.cached.Set(r.Ref, r)
}

// rescheduled moves the due time of a reference whose interval has changed.
func (tx *change) rescheduled(r *imagebuilderv1.CachedRef) {
	next := nextSlot(r.Ref, tx.CacheInterval(r), tx.time)
	if r.DueAt == nil || r.DueAt.AsTime().UnixNano() > next {
		r.DueAt = timestamppb.New(time.Unix(0, next))
	}
}

func (tx *change) deleteCachedRef(c *buildsv1.DeleteCachedRef) Result {
	_, ok := tx.cached.Delete(c.GetRef())
	tx.event.Cached = ok
	return Result{Existed: ok}
}

// seedCache fills the cache from a configuration, unless one has done so
// already: what operators removed since must not come back.
func (tx *change) seedCache(c *buildsv1.SeedCache) Result {
	conf := proto.CloneOf(tx.cacheFor)
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
	tx.cacheFor = conf
	tx.event.Cached = true
	return res
}

// assignRefreshes gives due references to nodes. Those that moved on since the
// decision are left out.
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

// DueAt is the due time of a reference in nanoseconds since the Unix epoch, 0
// for at once.
func DueAt(r *imagebuilderv1.CachedRef) int64 {
	if r.GetDueAt() == nil {
		return 0
	}
	return r.DueAt.AsTime().UnixNano()
}

// recordRefreshes takes over what the owners of turns have found out. A failure
// keeps the digest: how long it is served yet is for the nodes to say.
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

// requestRefreshes makes references due now and ends the turns under way.
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

func endTurn(r *imagebuilderv1.CachedRef) {
	r.RefreshingBy, r.RefreshingSince = "", nil
}

// endRefreshesOf ends the turns of a process that is no more, so that others
// get them.
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

func (tx *change) setCacheInterval(c *buildsv1.SetCacheInterval) Result {
	if c.Ref == "" {
		conf := proto.CloneOf(tx.cacheFor)
		conf.IntervalNanos = c.IntervalNanos
		tx.cacheFor = conf
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
