package builds

import (
	"hash/fnv"
	"time"

	"github.com/distribution/reference"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

const (
	// DefaultCacheInterval is the time between two refreshes of a cached reference if neither the
	// configuration nor an operator sets one.
	DefaultCacheInterval = 6 * time.Hour
	// MinCacheInterval is the shortest time between two refreshes of a reference. It limits the
	// load that operators can put on a registry.
	MinCacheInterval = time.Second
	// maxCachedRefs is the maximum number of cached references.
	maxCachedRefs = 20000
)

// CacheKey returns the name under which a reference is cached: the form to which Docker normalises
// it, with its tag. For ubuntu it is docker.io/library/ubuntu:latest. A reference by digest is an
// error, because its content never changes.
func CacheKey(ref string) (string, error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return "", invalidf("ref is not an image reference; write it as registry.example.com/team/image:tag")
	}
	if _, digested := named.(reference.Digested); digested {
		return "", invalidf("ref names a digest, which never changes; cache a tag instead")
	}
	return reference.TagNameOnly(named).String(), nil
}

// CachedRefs returns all cached references, ordered by name.
func (s *State) CachedRefs() []*imagebuilderv1.CachedRef { return s.cached.Values() }

// CachedRef returns a cached reference by its CacheKey, or nil.
func (s *State) CachedRef(key string) *imagebuilderv1.CachedRef {
	r, _ := s.cached.Get(key)
	return r
}

// CacheConfig returns the settings of all cached references. The caller must not change the
// message.
func (s *State) CacheConfig() *buildsv1.CacheConfig { return s.cacheConfig }

// CacheInterval returns the time between two refreshes of a cached reference.
func (s *State) CacheInterval(r *imagebuilderv1.CachedRef) time.Duration {
	if d := r.GetInterval().AsDuration(); d > 0 {
		return d
	}
	return s.DefaultCacheInterval()
}

// DefaultCacheInterval returns the time between two refreshes of references without an interval of
// their own.
func (s *State) DefaultCacheInterval() time.Duration {
	if n := s.cacheConfig.GetIntervalNanos(); n > 0 {
		return time.Duration(n)
	}
	return DefaultCacheInterval
}

// RefreshesCache reports whether all nodes of the cluster know how references are refreshed.
func (s *State) RefreshesCache() bool { return s.level >= cacheLevel }

// DueAt returns the time at which a reference is due, in nanoseconds since the Unix epoch. 0 means
// at once.
func DueAt(r *imagebuilderv1.CachedRef) int64 {
	if r.GetDueAt() == nil {
		return 0
	}
	return r.DueAt.AsTime().UnixNano()
}

// nextSlot returns the first due time of a reference after a time, both in nanoseconds since the
// Unix epoch. A hash of the name gives each reference a fixed offset within its interval. So
// references that were added together are not refreshed together, whichever node refreshes them.
func nextSlot(ref string, interval time.Duration, after int64) int64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(ref))
	every := int64(max(interval, MinCacheInterval))
	offset := int64(h.Sum64() % uint64(every))
	slots := (after - offset) / every
	if after < offset {
		slots = -1
	}
	return offset + (slots+1)*every
}

// refreshPause returns the pause before the next refresh after n failures in a row. The first pause
// is a sixteenth of the interval, at least a second and at most a minute. Each further failure
// doubles it.
func refreshPause(interval time.Duration, n uint32) time.Duration {
	first := min(max(interval/16, time.Second), time.Minute)
	return first << min(n-1, 16)
}
