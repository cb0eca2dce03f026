package registry

import (
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

// maxCached bounds the answers that are kept; requests may name ever others.
const maxCached = 8192

// answers keeps look-ups for a short time, by what makes them equal: kind,
// reference, platform and the credentials presented. So nobody gets an answer
// that a credential of another request paid for.
type answers struct {
	life time.Duration
	now  func() time.Time

	mu     sync.Mutex
	kept   *lru.Cache[string, answer]
	pushes map[string]uint64 // by repository: how often it was written to
	all    uint64            // in any, once pushes was emptied
}

type answer struct {
	img        Image
	repository string
	version    uint64
	until      time.Time
}

func newAnswers(life time.Duration) (*answers, error) {
	kept, err := lru.New[string, answer](maxCached)
	return &answers{life: life, now: time.Now, kept: kept, pushes: map[string]uint64{}}, err
}

// get answers what is kept, and how long it is kept yet.
func (a *answers) get(key string) (Image, time.Duration, bool) {
	if a.life <= 0 {
		return Image{}, 0, false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	k, ok := a.kept.Get(key)
	if !ok {
		return Image{}, 0, false
	}
	left := k.until.Sub(a.now())
	if left <= 0 || k.version != a.version(k.repository) {
		a.kept.Remove(key)
		return Image{}, 0, false
	}
	return k.img, left, true
}

// begin is called before a look-up whose answer may be kept: what was pushed
// while it was under way makes it worthless.
func (a *answers) begin(repository string) (version uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.version(repository)
}

func (a *answers) put(key, repository string, version uint64, img Image) {
	if a.life <= 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if version == a.version(repository) {
		a.kept.Add(key, answer{img, repository, version, a.now().Add(a.life)})
	}
}

// pushed makes what is kept of a repository worthless.
func (a *answers) pushed(repository string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.pushes) == maxCached {
		// Forgetting the counts must not make old answers good again: from now
		// on all start above what any of them has seen.
		for _, n := range a.pushes {
			a.all = max(a.all, n)
		}
		a.all++
		clear(a.pushes)
	}
	a.pushes[repository] = a.version(repository) + 1
}

// version counts the pushes to a repository; the caller holds mu.
func (a *answers) version(repository string) uint64 {
	return max(a.pushes[repository], a.all)
}
