package builds

import (
	"hash/fnv"
	"sync"
	"time"

	"github.com/distribution/reference"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

const (
	// cacheLevel is the feature level from which on references are refreshed.
	cacheLevel = 3
	// DefaultCacheInterval is how often a reference is resolved again where
	// nobody said how often.
	DefaultCacheInterval = 6 * time.Hour
	// minCacheInterval bounds what operators may ask of a registry.
	MinCacheInterval = time.Second
	// maxCachedRefs bounds the table.
	maxCachedRefs = 20000
)

// CacheKey answers the name under which a reference is cached: as Docker
// normalises it, with its tag (docker.io/library/ubuntu:latest for ubuntu).
// References by digest are refused, they never change.
func CacheKey(ref string) (string, error) {
	if err := CheckRef("ref", ref); err != nil {
		return "", err
	}
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return "", invalidf("ref is no image reference; write it as in registry.example.com/team/image:tag")
	}
	if _, digested := named.(reference.Digested); digested {
		return "", invalidf("ref names a digest, which never changes: cache a tag")
	}
	return reference.TagNameOnly(named).String(), nil
}

// CachedRefs answers all cached references by name.
func (s *State) CachedRefs() []*imagebuilderv1.CachedRef { return s.cached.Values() }

// CachedRef answers a cached reference by its CacheKey, or nil.
func (s *State) CachedRef(key string) *imagebuilderv1.CachedRef {
	r, _ := s.cached.Get(key)
	return r
}

// CacheConfig answers what cached references have in common. The message must
// not be changed.
func (s *State) CacheConfig() *buildsv1.CacheConfig { return s.cacheFor }

// CacheInterval answers how often a cached reference is resolved again.
func (s *State) CacheInterval(r *imagebuilderv1.CachedRef) time.Duration {
	if d := r.GetInterval().AsDuration(); d > 0 {
		return d
	}
	return s.DefaultCacheInterval()
}

func (s *State) DefaultCacheInterval() time.Duration {
	if n := s.cacheFor.GetIntervalNanos(); n > 0 {
		return time.Duration(n)
	}
	return DefaultCacheInterval
}

// RefreshesCache reports whether all nodes of the cluster know how references
// are refreshed.
func (s *State) RefreshesCache() bool { return s.level >= cacheLevel }

// nextSlot answers when a reference is due after a time. Each has a place of
// its own within the interval, which its name decides, and is due once in every
// interval from one place to the next: so references that were added together
// are not resolved together for ever, and who refreshes them does not matter.
func nextSlot(ref string, interval time.Duration, after int64) int64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(ref))
	every := int64(max(interval, MinCacheInterval))
	place := int64(h.Sum64() % uint64(every))
	slots := (after - place) / every
	if after < place {
		slots = -1
	}
	return place + (slots+1)*every
}

// refreshPause is how long after the nth failure in a row a reference is
// resolved again: a sixteenth of the interval, between one second and one
// minute, doubled each time.
func refreshPause(interval time.Duration, n uint32) time.Duration {
	first := min(max(interval/16, time.Second), time.Minute)
	return first << min(n-1, 16)
}

// signal tells any number of waiters that something has changed.
type signal struct{ state *signalState }

type signalState struct {
	mu sync.Mutex
	ch chan struct{}
}

func newSignal() signal { return signal{&signalState{ch: make(chan struct{})}} }

func (s signal) fire() {
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	close(s.state.ch)
	s.state.ch = make(chan struct{})
}

func (s signal) next() <-chan struct{} {
	s.state.mu.Lock()
	defer s.state.mu.Unlock()
	return s.state.ch
}

// CachedChanged answers a channel that is closed at the next change of the
// cached references, the nodes or the feature level.
func (s *Store) CachedChanged() <-chan struct{} { return s.cached.next() }
