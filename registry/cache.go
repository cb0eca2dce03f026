package registry

import (
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

// maxCached bounds the number of entries. Requests may name any number of references.
const maxCached = 8192

// lookUpCache keeps the results of look-ups for a short time. The key contains everything that
// makes two look-ups equal: kind, reference, platform and credentials. So no request gets a result
// that needed the credential of another request.
type lookUpCache struct {
	ttl time.Duration
	now func() time.Time

	mu      sync.Mutex
	entries *lru.Cache[string, cachedImage]
	pushes  map[string]uint64 // pushes by repository
	floor   uint64            // lower bound of all versions; grows when pushes is cleared
}

// cachedImage is an entry. It is valid before until, and only while its repository still has
// version.
type cachedImage struct {
	img        Image
	repository string
	version    uint64
	until      time.Time
}

func newLookUpCache(ttl time.Duration) (*lookUpCache, error) {
	entries, err := lru.New[string, cachedImage](maxCached)
	return &lookUpCache{ttl: ttl, now: time.Now, entries: entries, pushes: map[string]uint64{}}, err
}

// get returns a valid entry and the rest of its lifetime.
func (l *lookUpCache) get(key string) (Image, time.Duration, bool) {
	if l.ttl <= 0 {
		return Image{}, 0, false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.entries.Get(key)
	if !ok {
		return Image{}, 0, false
	}
	left := e.until.Sub(l.now())
	if left <= 0 || e.version != l.versionLocked(e.repository) {
		l.entries.Remove(key)
		return Image{}, 0, false
	}
	return e.img, left, true
}

// version returns the version of a repository. The caller reads it before a look-up and passes it
// to put, so that a result that a push has overtaken is not cached.
func (l *lookUpCache) version(repository string) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.versionLocked(repository)
}

// put adds an entry, unless the repository has another version by now.
func (l *lookUpCache) put(key, repository string, version uint64, img Image) {
	if l.ttl <= 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if version == l.versionLocked(repository) {
		l.entries.Add(key, cachedImage{img, repository, version, l.now().Add(l.ttl)})
	}
}

// invalidate makes all entries of a repository invalid. It is called for each push.
func (l *lookUpCache) invalidate(repository string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.pushes) == maxCached {
		// Clearing the counts must not make old entries valid again: from now on every version is
		// above all versions that an entry may have.
		for _, n := range l.pushes {
			l.floor = max(l.floor, n)
		}
		l.floor++
		clear(l.pushes)
	}
	l.pushes[repository] = l.versionLocked(repository) + 1
}

// versionLocked is version for callers that hold mu.
func (l *lookUpCache) versionLocked(repository string) uint64 {
	return max(l.pushes[repository], l.floor)
}
